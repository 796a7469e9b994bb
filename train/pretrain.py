"""Pre-train a timm model on shards: one class a perturbation, cross entropy over them (LPCE).

    python train/pretrain.py --shards my-set --out runs/my-run
    torchrun --nproc-per-node 8 train/pretrain.py --shards my-set --out runs/my-run

The defaults are the published recipe of "Scaling Backwards" (ECCV 2024): ViT-Tiny/16 at 224 pixels, 61.4 million
samples in batches of 256, AdamW, DeiT's augmentation. The same command goes on where a run was stopped.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer

from fracgen.shards.errors import UsageError
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.config import (
    Augmentation,
    CleanRun,
    Feed,
    FeedMode,
    Mix,
    Model,
    Optim,
    Schedule,
    as_begun,
    differences,
    to_values,
    to_yaml,
)
from fracgen.train.engine.run_folder import CONFIG, MODEL, RunFolder, told

app = console.app()


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A pre-training run. shards: a folder of ours or a pattern of tars; num_classes: of tars without a manifest."""

    shards: str = ""
    num_classes: int = 0
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augmentation = field(default_factory=Augmentation)
    mix: Mix = field(default_factory=Mix)
    feed: Feed = field(default_factory=Feed)
    run: CleanRun = field(default_factory=CleanRun)


@app.command()
def main(
    *,
    overrides: options.Overrides = None,
    shards: Annotated[str | None, typer.Option(help="Folder of shards, or a pattern: 'set-{000..063}.tar'.")] = None,
    out: options.Out = None,
    config: options.Config = None,
    model: Annotated[str | None, typer.Option(help="A timm model.  [default: vit_tiny_patch16_224]")] = None,
    steps: options.Steps = None,
    samples: Annotated[int | None, typer.Option(help="[default: 61440000]", min=1)] = None,
    epochs: options.Epochs = None,
    batch_size: Annotated[int | None, typer.Option(help="Of all processes together.  [default: 256]", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="For a batch of 512; scaled by the batch.  [default: 0.001]")] = None,
    num_classes: options.NumClasses = None,
    data: options.Data = None,
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
    """Pre-train a timm model on shards."""
    given = {
        "shards": shards,
        "num_classes": num_classes,
        "model.name": model,
        "schedule.steps": steps,
        "schedule.samples": samples,
        "schedule.epochs": epochs,
        "optim.lr": lr,
        "feed.batch_size": batch_size,
        "feed.mode": data,
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
    settings = options.resolve(Pretraining, config, given, overrides)
    options.check_tensorboard(settings.run.tensorboard)
    if not settings.shards:
        raise UsageError("--shards: give a folder of shards, as `fracgen render` writes them")
    if out is None and not benchmark:
        raise UsageError("--out: give a folder for the run")
    folder = RunFolder(out, resume) if out is not None and not benchmark else None
    try:
        pretrain(settings, folder, allow_changes=allow_changes, stop_after=stop_after, as_json=as_json)
    finally:
        if folder is not None:
            folder.unlock()


def pretrain(
    settings: Pretraining,
    folder: RunFolder | None,
    *,
    allow_changes: bool = False,
    stop_after: int = 0,
    as_json: bool = False,
) -> None:
    """Run it, from the last checkpoint in the folder; without a folder, measure its speed."""
    began = time.perf_counter()
    import torch
    from torch import Tensor

    from fracgen.train.augment.device import DeviceAugment, center, timm_transform
    from fracgen.train.augment.mix import Mixer, lpce
    from fracgen.train.data.old.choose import Resident, Stream, choose_feed, open_source
    from fracgen.train.engine import benchmark as speed
    from fracgen.train.engine import checkpoint, metrics, schedule
    from fracgen.train.engine import model as models
    from fracgen.train.engine import trainer as loop
    from fracgen.train.ranks import join, leave
    from fracgen.train.seeding import key

    # where: this process among the others, and what it computes in
    ranks = join(settings.run.device)
    last = folder.checkpoint() if folder is not None else None
    settings = as_begun(settings, last.config) if last is not None else settings
    precision = models.resolve_precision(settings.run.precision, ranks.device)
    torch.set_float32_matmul_precision("high")
    amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    # what: the samples, and how long
    feed, size = settings.feed, settings.augment.size
    source = open_source(
        settings.shards,
        num_classes=settings.num_classes or None,
        resize=feed.resize or None,
        skip_bad=feed.skip_bad,
        progress=console.bar("counting"),
    )
    transform = timm_transform(settings.augment) if feed.augment == "timm" else None
    mode: FeedMode = "resident" if feed.repeats > 1 and feed.mode == "auto" else feed.mode
    if feed.repeats > 1 and mode == "stream":
        raise UsageError(f"feed.repeats {feed.repeats}: is for resident sets; leave it out, or --data stream")
    choice = ranks.agree(choose_feed(source, mode, ranks.device, transform=transform))
    place = {"rank": ranks.rank, "world": ranks.world, "device": ranks.device}
    common: dict[str, Any] = {"batch_size": feed.batch_size, "seed": settings.run.seed, "transform": transform, **place}
    batches = (
        Resident(source, **common, repeats=feed.repeats, num_workers=feed.workers, progress=console.bar("decoding"))
        if choice.mode == "resident"
        else Stream(source, **common, num_workers=feed.workers, shuffle=feed.shuffle)
    )
    plan = schedule.resolve(
        settings.schedule, settings.optim, batch_size=feed.batch_size, num_samples=source.num_samples
    )
    settings = replace(
        settings,
        num_classes=source.num_classes,
        schedule=replace(settings.schedule, steps=plan.steps, samples=0, epochs=0.0),
        feed=replace(feed, mode=choice.mode),
        run=replace(settings.run, device="cuda" if ranks.device.type == "cuda" else "cpu", precision=precision),
    )

    # the model, and what changes it; the weights depend on the seed alone
    torch.manual_seed(key(settings.run.seed, "init"))
    model = models.create(settings.model, num_classes=source.num_classes, size=size).to(ranks.device)
    optimizer = models.optimizer(model, settings.optim, lr=plan.lr)
    state = loop.State(model=model, optimizer=optimizer, scaler=torch.amp.GradScaler(enabled=precision == "fp16"))
    rates = schedule.cosine(optimizer, plan)
    augment = DeviceAugment(settings.augment, seed=settings.run.seed, device=ranks.device)
    mix = Mixer(settings.mix, num_classes=source.num_classes, seed=settings.run.seed, rank=ranks.rank)
    mix.check_batch(feed.batch_size // ranks.world)

    # where it goes on
    values = to_values(settings)
    if folder is not None:
        if ranks.first:
            folder.lock()
        if last is not None:
            if not allow_changes:
                changed = differences(told(last.config), told(values))
                checkpoint.check_same(
                    last, config=changed, data=source.fingerprint, world=ranks.world, path=folder.path
                )
            state.restore(last)
        if ranks.any(ranks.agree(state.step) != state.step):
            raise UsageError(f"{folder.path}: the processes do not see the same run there; --out must be shared by all")
        if ranks.first:
            folder.write(CONFIG, to_yaml(values))

    def inputs(step: int, images: Tensor, labels: Tensor, positions: Any) -> tuple[Tensor, Tensor]:
        augmented = images if feed.augment == "timm" else augment(images, positions)
        return mix(augmented, labels, step)

    learn = loop.Learner(
        state=state,
        loss=lpce,
        network=loop.wrapped(model, ranks, compiled=settings.run.compile),
        rates=rates,
        amp=amp,
        clip=settings.optim.clip,
        seed=settings.run.seed,
        ranks=ranks,
    )

    if ranks.first:
        console.say(
            {
                "data": source.description,
                "feed": choice.why,
                "model": models.describe(settings.model, model, precision, ranks),
                "steps": schedule.describe(plan, feed.batch_size, source.num_samples) + checkpoint.describe(last),
                "rate": schedule.describe_rate(plan, settings.optim, feed.batch_size),
            }
        )
    if folder is None:
        with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
            measured = speed.measure(batches, inputs, learn, batch_size=feed.batch_size, ranks=ranks)
        if ranks.first:
            console.result(measured, as_json=as_json)
        return

    def save() -> None:
        if ranks.first:
            now = state.to_checkpoint(config=values, data=source.fingerprint, world=ranks.world)
            checkpoint.save(now, folder / checkpoint.LAST)

    def clean() -> dict[str, float]:
        """Share of images, unaugmented and whole, that are told apart; every rank looks at some of them."""
        stats = settings.augment.mean, settings.augment.std
        found = batches.clean(clean_images, rank=ranks.rank, world=ranks.world)
        right, count = models.count_right(
            model, ((center(batch.images, size, 1.0, *stats), batch.labels) for batch in found), amp
        )
        share = ranks.mean(torch.tensor([right, count], dtype=torch.float64, device=ranks.device))
        return {"clean_accuracy": float((share[0] / share[1]).item())}

    clean_images = min(settings.run.clean_images, source.num_samples)
    journal = metrics.Journal(
        folder.path if ranks.first else None,
        steps=plan.steps,
        start=state.step,
        tensorboard=settings.run.tensorboard,
    )
    feeder: Any = batches.batches(state.step)

    def take_step(step: int) -> Tensor:
        images, targets = inputs(step, *next(feeder))
        loss = learn(step, images, targets)
        if step == start:
            clock.append(time.perf_counter())
        if step == start and ranks.first:
            console.say({"first": f"step after {time.perf_counter() - began:.1f} s"})
        return loss

    start, clock = state.step, list[float]()
    beside = loop.Loop(log=journal.log, save=save, check=clean if clean_images else None, advance=journal.advance)
    pace = loop.Pace(
        steps=plan.steps,
        batch_size=feed.batch_size,
        stop_after=stop_after,
        log_every=settings.run.log_every,
        checkpoint_every=settings.run.checkpoint_every,
        check_every=settings.run.clean_every,
    )
    try:
        ending = loop.fit(state, take_step, beside, pace, ranks)
    finally:
        feeder.close()
        journal.close()
    leave()
    if not ranks.first:
        return
    seconds, later = (time.perf_counter() - clock[0], state.step - start - 1) if clock else (0.0, 0)
    metrics.draw_curves(folder / metrics.METRICS, folder / metrics.CURVES)
    models.export(
        model,
        folder / MODEL,
        size=size,
        mean=settings.augment.mean,
        std=settings.augment.std,
        tag=f"fracgen_{source.fingerprint[:8]}",
        options=settings.model.options,
    )
    lines = metrics.read(folder / metrics.METRICS)
    told_last: dict[str, Any] = next((line for line in reversed(lines) if line["step"] == state.step), {})
    outcome: dict[str, Any] = {
        "run": str(folder.path),
        "ending": ending,
        "steps": state.step,
        "samples": state.step * feed.batch_size,
        "seconds": round(time.perf_counter() - began, 1),
        **{name: float(f"{told_last[name]:.4g}") for name in ("loss", "clean_accuracy") if name in told_last},
        **({"images_per_second": round(later * feed.batch_size / seconds, 1)} if later else {}),
        "skipped": sum(batches.skipped.values()),
        "model": str(folder / MODEL),
    }
    console.result(outcome, as_json=as_json)
    if ending == "interrupted":
        raise console.StopError(
            f"stopped at step {state.step} of {plan.steps}; the same command goes on", beside.asked[0]
        )


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen pretrain` and `python train/pretrain.py`. Returns its exit code."""
    return console.run(app, "pretrain", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
