"""Fine-tune a net on labelled images, and say honestly how well it does.

    python train/finetune.py --checkpoint runs/my-run --data my-images --out runs/finetuned
    python train/finetune.py --checkpoint none --data torch/cifar100 --seeds 3 --out runs/scratch
    torchrun --nproc-per-node 8 train/finetune.py --config examples/finetune-imagenet1k.yaml --data ... --out ...

The defaults are the published fine-tuning recipe of "Scaling Backwards" (ECCV 2024) for small sets. The epoch is chosen
on a validation split, and the test split is looked at when the run has ended. The same command goes on after a stop.
"""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fracgen.shards.errors import DataError, UsageError
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.config import (
    Augmentation,
    Feed,
    Mix,
    Model,
    Optim,
    Run,
    Schedule,
    as_begun,
    differences,
    to_values,
    to_yaml,
)
from fracgen.train.engine import results
from fracgen.train.engine.run_folder import CONFIG, MODEL, RunFolder, told, write_text

if TYPE_CHECKING:
    from fracgen.train.data.old.splits import Splits
    from fracgen.train.engine.checkpoint import Checkpoint
    from fracgen.train.engine.init_weights import Start

app = console.app()

Protocol = Literal["honest", "published"]
CONFUSION, PICTURE = "confusion.csv", "confusion.png"
_CHOICE = ("protocol ", "eval_crop ", "augment.size ", "augment.mean ", "augment.std ")
"""Settings without which accuracies on the split that is chosen on cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """A fine-tuning run.

    data: an image folder, shards, or a name of timm's; val, test: splits that lie elsewhere; root: where timm keeps its
    sets; num_classes: of tars without a manifest. per_class: images of each class to train with, 0 for all.
    val_share: of train, carved to choose the epoch on where no validation split is given; 0 for none.
    checkpoint: a run of ours, a timm folder, a published file, or "none". keep_head: keep a head that fits.
    protocol: honest chooses the epoch on the validation split; published on the test split, as the papers do.
    check_epochs: epochs between two looks at the split that is chosen on. eval_crop: share of the shorter side shown.
    """

    data: str = ""
    val: str = ""
    test: str = ""
    root: str = "data"
    num_classes: int = 0
    per_class: int = 0
    val_share: float = 0.1
    checkpoint: str = "none"
    keep_head: bool = False
    protocol: Protocol = "honest"
    check_epochs: float = 1.0
    eval_crop: float = 0.875
    model: Model = field(default_factory=lambda: Model(name=""))
    optim: Optim = field(default_factory=lambda: Optim(name="sgd", lr=0.01, weight_decay=1e-4))
    schedule: Schedule = field(default_factory=lambda: Schedule(warmup_steps=0, warmup_epochs=10.0))
    augment: Augmentation = field(
        default_factory=lambda: Augmentation(
            vflip=0.0, erase=0.25, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
    )
    mix: Mix = field(default_factory=Mix)
    feed: Feed = field(default_factory=lambda: Feed(batch_size=768))
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if not 0 < self.eval_crop <= 1:
            raise UsageError(f"eval_crop {self.eval_crop}: must be more than 0, at most 1")
        if not 0 < self.check_epochs < float("inf"):
            raise UsageError(f"check_epochs {self.check_epochs}: must be more than 0, and finite")


@app.command()
def main(
    *,
    overrides: options.Overrides = None,
    checkpoint: Annotated[str | None, typer.Option(help="A run, a timm folder, a .pth; or none: scratch.")] = None,
    data: Annotated[str | None, typer.Option(help="Image folder, shards, or a name of timm's: torch/cifar100.")] = None,
    val: Annotated[str | None, typer.Option(help="Split to choose on, if it lies elsewhere.")] = None,
    test: Annotated[str | None, typer.Option(help="Split to report on, if it lies elsewhere.")] = None,
    root: Annotated[str | None, typer.Option(help="Where timm keeps its sets.  [default: data]")] = None,
    per_class: Annotated[int | None, typer.Option(help="Images of each class to train with.", min=1)] = None,
    val_share: Annotated[float | None, typer.Option(help="Of train, to choose on.  [default: 0.1]")] = None,
    keep_head: Annotated[bool | None, typer.Option("--keep-head", help="Keep a head that fits.")] = None,
    protocol: Annotated[Protocol | None, typer.Option(help="What the best epoch is chosen on.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs, of seeds one after the other.", min=1)] = 1,
    out: options.Out = None,
    config: options.Config = None,
    model: Annotated[str | None, typer.Option(help="A timm model.  [default: the checkpoint's]")] = None,
    steps: options.Steps = None,
    samples: options.Samples = None,
    epochs: Annotated[float | None, typer.Option(help="[default: 1000]", min=0)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of all processes together.  [default: 768]", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="For a batch of 512; scaled by the batch.  [default: 0.01]")] = None,
    num_classes: options.NumClasses = None,
    feed: options.Data = None,
    augment: options.Augment = None,
    resize: options.Resize = None,
    skip_bad: options.SkipBad = None,
    workers: options.Workers = None,
    seed: options.Seed = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compile_: options.Compile = None,
    tensorboard: options.Tensorboard = None,
    resume: options.Resume = "auto",
    allow_changes: options.AllowChanges = False,
    stop_after: options.StopAfter = 0,
    benchmark: options.Benchmark = False,
    as_json: options.AsJson = False,
) -> None:
    """Fine-tune a net on labelled images, and report its accuracy."""
    given = {
        "checkpoint": checkpoint,
        "data": data,
        "val": val,
        "test": test,
        "root": root,
        "per_class": per_class,
        "val_share": val_share,
        "keep_head": keep_head,
        "protocol": protocol,
        "num_classes": num_classes,
        "model.name": model,
        "schedule.steps": steps,
        "schedule.samples": samples,
        "schedule.epochs": epochs,
        "optim.lr": lr,
        "feed.batch_size": batch_size,
        "feed.mode": feed,
        "feed.augment": augment,
        "feed.resize": resize,
        "feed.skip_bad": skip_bad,
        "feed.workers": workers,
        "run.seed": seed,
        "run.device": device,
        "run.precision": precision,
        "run.compile": compile_,
        "run.tensorboard": tensorboard,
    }
    settings = options.resolve(Finetuning, config, given, overrides)
    options.check_tensorboard(settings.run.tensorboard)
    if not settings.data:
        raise UsageError("--data: give an image folder, shards, or a name that timm knows, as torch/cifar100")
    if out is None and not benchmark:
        raise UsageError("--out: give a folder for the run")
    from fracgen.train.ranks import join, leave

    ranks = join(settings.run.device)
    if out is not None and seeds > 1 and (out / CONFIG).exists():
        raise UsageError(f"{out}: holds the run of one seed; give another --out for {seeds}")
    outcomes = []
    for number in range(1 if benchmark else seeds):
        one = replace(settings, run=replace(settings.run, seed=settings.run.seed + number))
        place = None if out is None or benchmark else out if seeds == 1 else out / f"seed-{one.run.seed}"
        folder = RunFolder(place, resume) if place is not None else None
        try:
            outcome = finetune(one, folder, ranks, allow_changes=allow_changes, stop_after=stop_after)
        finally:
            if folder is not None:
                folder.unlock()
        outcomes.append(outcome)
    leave()
    if not ranks.first:
        return
    if out is None or seeds == 1 or benchmark:
        console.result(outcomes[0], as_json=as_json)
        return
    together = results.summary(outcomes)
    write_text(out / results.RESULTS, json.dumps(together, indent=1))
    console.result(together if as_json else results.in_words(together), as_json=as_json)


def finetune(
    settings: Finetuning,
    folder: RunFolder | None,
    ranks: Any,
    *,
    allow_changes: bool = False,
    stop_after: int = 0,
) -> dict[str, Any]:
    """Run it, from the last checkpoint in the folder, and give its results; without a folder, measure its speed."""
    began = time.perf_counter()
    import torch
    from torch import Tensor

    from fracgen.train.augment.device import DeviceAugment
    from fracgen.train.augment.mix import Mixer, cross_entropy
    from fracgen.train.data.old.splits import open_splits
    from fracgen.train.data.old.taskdata import open_task
    from fracgen.train.engine import benchmark as speed
    from fracgen.train.engine import checkpoint, metrics, schedule
    from fracgen.train.engine import evaluate as scoring
    from fracgen.train.engine import init_weights as starts
    from fracgen.train.engine import model as models
    from fracgen.train.engine import trainer as loop
    from fracgen.train.seeding import key

    # where it goes on, and what it computes in
    last = folder.checkpoint() if folder is not None else None
    settings = as_begun(settings, last.config) if last is not None else settings
    precision = models.resolve_precision(settings.run.precision, ranks.device)
    torch.set_float32_matmul_precision("high")
    amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    seed, feed, size = settings.run.seed, settings.feed, settings.augment.size
    published = settings.protocol == "published"

    # what: the images, and how long
    with ranks.in_turn():
        splits = open_splits(
            settings.data,
            val=settings.val,
            test=settings.test,
            num_classes=settings.num_classes,
            root=settings.root,
            val_share=0.0 if published else settings.val_share,
            per_class=settings.per_class,
            seed=seed,
            skip_bad=feed.skip_bad,
            progress=console.bar("reading"),
        )
    if published and splits.test is None:
        raise UsageError(f"--protocol published: {settings.data} has no test split to choose on")
    names, num_classes = splits.train.class_names, len(splits.train.class_names)
    task = open_task(splits, augment=settings.augment, feed=feed, eval_crop=settings.eval_crop, seed=seed, ranks=ranks)
    num_samples = task.batches.num_samples
    length = settings.schedule
    if not (length.steps or length.samples or length.epochs):
        length = replace(length, epochs=1000.0)
    plan = schedule.resolve(length, settings.optim, batch_size=feed.batch_size, num_samples=num_samples)
    check_every = max(1, round(settings.check_epochs * num_samples / feed.batch_size))

    # the net: all of it is the checkpoint's but for the head; what is fresh depends on the seed alone
    start = starts.open_start(settings.checkpoint, settings.model)
    torch.manual_seed(key(seed, "init"))
    model, loaded = starts.build(start, num_classes=num_classes, size=size, keep_head=settings.keep_head)
    model.to(ranks.device)
    optimizer = models.optimizer(model, settings.optim, lr=plan.lr)
    rates = schedule.cosine(optimizer, plan)
    state = loop.State(model=model, optimizer=optimizer, scaler=torch.amp.GradScaler(enabled=precision == "fp16"))
    augment = DeviceAugment(settings.augment, seed=seed, device=ranks.device)
    mix = Mixer(settings.mix, num_classes=num_classes, seed=seed, rank=ranks.rank)
    mix.check_batch(feed.batch_size // ranks.world)
    settings = replace(
        settings,
        model=start.model,
        schedule=replace(settings.schedule, steps=plan.steps, samples=0, epochs=0.0),
        feed=replace(feed, mode=task.choice.mode),
        run=replace(settings.run, device="cuda" if ranks.device.type == "cuda" else "cpu", precision=precision),
    )
    values = to_values(settings)
    fingerprint = fingerprint_of(splits, start)

    # where it goes on
    best: tuple[int, float] | None = None  # step, and accuracy on what is chosen on
    if folder is not None:
        if ranks.first:
            folder.lock()
        if last is not None:
            if not allow_changes:
                changed = differences(told(last.config), told(values))
                checkpoint.check_same(last, config=changed, data=fingerprint, world=ranks.world, path=folder.path)
            state.restore(last)
        if ranks.any(ranks.agree(state.step) != state.step):
            raise UsageError(f"{folder.path}: the processes do not see the same run there; --out must be shared by all")
        if ranks.first:
            folder.write(CONFIG, to_yaml(values))
    ranks.wait()

    if folder is not None and state.step == plan.steps and not allow_changes:
        made: dict[str, Any] | None = None
        if ranks.first:
            made = results.read(folder.path, fingerprint=fingerprint, config=values)
        made = ranks.agree(made)
        if made is not None:
            return made
    if folder is not None and last is not None:
        best = chosen_before(folder, last, config=values, data=fingerprint)
    if folder is not None and ranks.first:
        (folder / results.RESULTS).unlink(missing_ok=True)  # of other settings, or of fewer steps

    learn = loop.Learner(
        state=state,
        loss=cross_entropy,
        network=loop.wrapped(model, ranks, compiled=settings.run.compile),
        rates=rates,
        amp=amp,
        clip=settings.optim.clip,
        seed=seed,
        ranks=ranks,
    )

    def inputs(step: int, images: Tensor, labels: Tensor, positions: Any) -> tuple[Tensor, Tensor]:
        augmented = images if task.transformed else augment(images, positions)
        return mix(augmented, labels, step)

    if ranks.first:
        console.say(
            {
                "data": splits.description,
                "feed": task.choice.why,
                "start": f"{start.name}: {loaded.description}",
                "model": models.describe(settings.model, model, precision, ranks),
                "steps": schedule.describe(plan, feed.batch_size, num_samples) + checkpoint.describe(last),
                "rate": schedule.describe_rate(plan, settings.optim, feed.batch_size),
                "seed": str(seed),
            }
        )
    if folder is None:
        return speed.measure(task.batches, inputs, learn, batch_size=feed.batch_size, ranks=ranks)

    def scored(split: Literal["val", "test"]) -> scoring.Scores:
        return scoring.score(model, task.clean(split, ranks), num_classes=num_classes, amp=amp, ranks=ranks)

    def save(name: str = checkpoint.LAST) -> None:
        if ranks.first:
            now = state.to_checkpoint(config=values, data=fingerprint, world=ranks.world)
            now = replace(now, scores={"step": best[0], "accuracy": best[1]} if best is not None else {})
            if name == checkpoint.BEST:
                now = replace(now, optimizer={}, scaler={})
            checkpoint.save(now, folder / name)

    def check() -> dict[str, float]:
        """Accuracy on the split that is chosen on. Best weights are kept before the state of their step: a run that is
        killed between the two comes to that step once more."""
        nonlocal best
        accuracy = scored(chosen_on).top1
        if best is None or accuracy > best[1]:
            best = state.step, accuracy
            save(checkpoint.BEST)
        return {f"{chosen_on}_accuracy": round(accuracy, 6)}

    chosen_on: Literal["val", "test"] = "test" if published else "val"
    chooses = published or splits.val is not None
    journal = metrics.Journal(
        folder.path if ranks.first else None,
        steps=plan.steps,
        start=state.step,
        tensorboard=settings.run.tensorboard,
    )
    feeder: Any = task.batches.batches(state.step)
    beside = loop.Loop(log=journal.log, save=save, check=check if chooses else None, advance=journal.advance)
    pace = loop.Pace(
        steps=plan.steps,
        batch_size=feed.batch_size,
        stop_after=stop_after,
        log_every=settings.run.log_every,
        checkpoint_every=settings.run.checkpoint_every,
        check_every=check_every,
    )
    first, clock = state.step, time.perf_counter()
    try:
        ending = loop.fit(state, lambda step: learn(step, *inputs(step, *next(feeder))), beside, pace, ranks)
    finally:
        feeder.close()
        journal.close()
    rate = (state.step - first) * feed.batch_size / (time.perf_counter() - clock)  # looks at the split included
    outcome: dict[str, Any] = {
        "run": str(folder.path),
        "start": start.name,
        "seed": seed,
        "ending": ending,
        "steps": state.step,
        "samples": state.step * feed.batch_size,
        **({"images_per_second": round(rate, 1)} if rate else {}),
    }
    if ending != "finished":
        if ranks.first:
            metrics.draw_curves(folder / metrics.METRICS, folder / metrics.CURVES)
        if ending == "interrupted":
            stopped = f"stopped at step {state.step} of {plan.steps}; the same command goes on"
            raise console.StopError(stopped, beside.asked[0])
        return outcome

    # how good it is: the test split, by the last weights and by those that were chosen
    reported: Literal["val", "test"] = "test" if splits.test is not None else "val"
    told_scores: dict[str, Any] = {"protocol": settings.protocol}
    shown: scoring.Scores | None = None
    if splits.test is not None or splits.val is not None:
        shown = scored(reported)
        told_scores |= {"split": reported, "last": {"step": state.step, **shown.to_dict(names)}}
        outcome[f"{reported}_accuracy_last"] = round(shown.top1, 6)
    if best is not None:
        step, accuracy = best
        if ranks.first:
            model.load_state_dict(dict(checkpoint.load(folder / checkpoint.BEST).model))
        for tensor in model.state_dict().values():
            ranks.share(tensor)
        shown = scored(reported)
        chosen = {"step": step, "chosen_on": chosen_on, f"{chosen_on}_accuracy": accuracy}
        told_scores["best"] = {**chosen, **shown.to_dict(names)}
        outcome["best_epoch"] = round(step * feed.batch_size / num_samples, 2)
        outcome["chosen_on"] = "the test split itself, as published" if published else "the validation split"
        outcome[f"{reported}_accuracy_best"] = round(shown.top1, 6)
        if reported == "test" and not published:
            outcome["val_accuracy_best"] = round(accuracy, 6)
        if reported == "val":
            outcome["chosen_on"] += ", which is reported on too: a maximum, so too high"
    for which in ("last", "best"):
        if told_scores.get(which, {}).get("top5") is not None:
            outcome[f"{reported}_top5_{which}"] = told_scores[which]["top5"]
    skipped = task.skipped(ranks)
    outcome["skipped"] = sum(skipped.values())
    outcome["seconds"] = round(time.perf_counter() - began, 1)
    outcome["model"] = str(folder / MODEL)
    if ranks.first:
        models.export(
            model,
            folder / MODEL,
            size=size,
            mean=settings.augment.mean,
            std=settings.augment.std,
            tag=f"fracgen_{fingerprint[:8]}",
            options=settings.model.options,
            crop=settings.eval_crop,
        )
        metrics.draw_curves(folder / metrics.METRICS, folder / metrics.CURVES)
        if shown is not None:
            scoring.write_confusion(shown, names, folder / CONFUSION)
            scoring.draw_confusion(shown, names, f"{reported}: {shown.top1:.1%}", folder / PICTURE)
        about = {"config": values, "data": splits.description, "fingerprint": fingerprint, "classes": list(names)}
        found = {"outcome": outcome, **told_scores, "loaded": vars(loaded), "skipped": skipped, **about}
        write_text(folder / results.RESULTS, json.dumps(found, indent=1))
    return outcome


def fingerprint_of(splits: "Splits", start: "Start") -> str:
    """sha256 (hex) of all that a run begins with: its images, as split, and its weights."""
    parts = [each.fingerprint for each in (splits.train, splits.val, splits.test) if each is not None]
    return hashlib.sha256("".join([*parts, start.fingerprint()]).encode()).hexdigest()


def chosen_before(
    folder: RunFolder, last: "Checkpoint", *, config: dict[str, Any], data: str
) -> tuple[int, float] | None:
    """(step, accuracy) of the weights that are kept.

    None where there are none, where they were chosen on other images or in another way, or where other settings made
    them after the last checkpoint.
    Raises DataError where they are damaged, or gone.
    """
    from fracgen.train.engine import checkpoint

    path = folder / checkpoint.BEST
    if not path.exists():
        if last.scores:
            raise DataError(f"{path}: is gone, which held the best weights so far; give another --out")
        return None
    best = checkpoint.load(path)
    changed = differences(told(best.config), told(config))
    other_way = any(change.startswith(_CHOICE) for change in changed)
    if best.data != data or other_way or (changed and best.step > last.step):
        return None
    return best.step, best.scores["accuracy"]


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen finetune` and `python train/finetune.py`. Returns its exit code."""
    return console.run(app, "finetune", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
