"""Fine-tune a model on labelled images, and report its accuracy honestly.

    python train/finetune.py --checkpoint runs/my-run --data my-images --out runs/finetuned
    python train/finetune.py --checkpoint none --data torch/cifar100 --seeds 3 --out runs/scratch
    torchrun --nproc-per-node 8 train/finetune.py --config examples/finetune-imagenet1k.yaml --data ... --out ...

The defaults are the published fine-tuning recipe of "Scaling Backwards" (ECCV 2024) for small sets. The epoch is chosen
on a validation split, and the test split is looked at when the run has ended. The same command goes on after a stop.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import UsageError
from fracgen.shards.files import write_atomically
from fracgen.train import cli, options
from fracgen.train.config import load
from fracgen.train.engine import results
from fracgen.train.engine.run_folder import CONFIG, RunFolder, open_run_folder
from fracgen.train.experiments.finetuning import (
    COMPARABLE,
    Finetuning,
    fingerprint_of,
    images_fingerprint,
    splits_of,
)

if TYPE_CHECKING:
    from fracgen.train.engine.evaluate import Scores
    from fracgen.train.ranks import Ranks

Split = Literal["val", "test"]
_EPOCHS = 1000.0
"""Length of the published recipe."""
_COLUMNS = ("columns.file_column", "columns.label_column", "columns.split_column")
_SPLITS = ("val", "test", "split", "val_share")
_NAMES = ("checkpoint", "data", *_COLUMNS, *_SPLITS, "root", "num_classes", "per_class", "keep_head")


@options_from(Finetuning, (*_NAMES, "protocol", "metric", *options.NAMES, *options.CACHE), defaults=Finetuning())
@options_from(options.RunOptions, into="run_options", build=True)
def main(
    *,
    overrides: options.Overrides = None,
    option_values: dict[str, Any],
    seeds: Annotated[
        int,
        typer.Option(help="Number of runs, of consecutive seeds from --seed on.", min=1, rich_help_panel="Protocol"),
    ] = 1,
    run_options: options.RunOptions,
    estimate: options.Estimate = False,
    feed: options.OldFeed = None,
    tensorboard: options.OldTensorboard = False,
) -> None:
    """Fine-tune a model on labelled images, by default for 1000 epochs, and report its accuracy."""
    options.refuse_old_feed(feed)
    options.refuse_old_tensorboard(tensorboard)
    settings = load(Finetuning, run_options.config, option_values, overrides)
    if not settings.schedule.has_length:
        settings = replace(settings, schedule=replace(settings.schedule, epochs=_EPOCHS))
    if estimate:
        from fracgen.train.engine.estimate import estimate_run

        cli.result(
            estimate_run(settings, settings.data, lambda: splits_of(settings).train), as_json=run_options.as_json
        )
        return
    if not settings.data:
        raise UsageError("--data: give an image folder, a table, shards, or a name that timm knows, as torch/cifar100")
    out = None if run_options.benchmark else run_options.out
    if out is not None and seeds > 1 and (out / CONFIG).exists():
        raise UsageError(f"{out}: holds the run of one seed; give another --out for {seeds}")
    from fracgen.train.engine.model_card import write_metrics
    from fracgen.train.engine.provenance import accuracies_of
    from fracgen.train.ranks import join, leave

    ranks = join(settings.run.device)
    if settings.run.log != "none" and not settings.run.log_group and out is not None and seeds > 1:
        settings = replace(settings, run=replace(settings.run, log_group=out.absolute().name))
    outcomes = []
    for number in range(1 if out is None else seeds):
        one = replace(settings, run=replace(settings.run, seed=settings.run.seed + number))
        path = out if out is None or seeds == 1 else out / f"seed-{one.run.seed}"
        with open_run_folder(path, run_options.resume, benchmark=run_options.benchmark) as folder:
            outcomes.append(finetune(one, folder, ranks, run_options))
    leave()
    if not ranks.first:
        return
    if out is None or seeds == 1:
        cli.result(outcomes[0], as_json=run_options.as_json)
        return
    together = results.summary(outcomes)
    write_atomically(out / results.RESULTS, json.dumps(together, indent=1))
    for outcome in outcomes:
        if "model" in outcome:
            write_metrics(Path(outcome["model"]), accuracies_of(together, seeds=together["seeds"]))
    as_json = run_options.as_json
    cli.result(together if as_json else results.in_words(together), as_json=as_json)


app = command_app(main)


def finetune(
    settings: Finetuning, folder: RunFolder | None, ranks: "Ranks", run_options: options.RunOptions
) -> dict[str, Any]:
    """Fine-tune, from the last checkpoint in the folder on, and return the outcome; without a folder, the speed."""
    began = time.perf_counter()
    import torch

    from fracgen.train.augment.device import timm_transform
    from fracgen.train.augment.evaluation import EvalTransform
    from fracgen.train.augment.inputs import TrainInputs
    from fracgen.train.data.loader import TrainLoader, check_batch, eval_batches
    from fracgen.train.data.skipped import Skipped
    from fracgen.train.engine import provenance
    from fracgen.train.engine.best_weights import BestWeights
    from fracgen.train.engine.build import build, check
    from fracgen.train.engine.closed_form import initialize
    from fracgen.train.engine.evaluate import evaluate
    from fracgen.train.engine.init_weights import load_init
    from fracgen.train.engine.losses import cross_entropy
    from fracgen.train.engine.trainer import Trainer
    from fracgen.train.seeding import key

    # where the run goes on; what cannot work is refused before any data is opened
    trainer = Trainer(settings, folder, ranks, began=began, allow_changes=run_options.allow_changes)
    settings = trainer.settings
    augment, seed, batch_size = settings.augment, settings.run.seed, settings.loader.batch_size
    settings.mix.check_batch(check_batch(settings.loader, ranks))
    init = load_init(settings.checkpoint, settings.model)
    check(init, size=augment.size)

    # the data
    published = settings.protocol == "published"
    with ranks.in_turn():
        splits = splits_of(settings)
    if published and splits.test is None:
        raise UsageError(f"--protocol published: {settings.data} has no test split to choose on")
    class_names, num_classes = splits.train.class_names, len(splits.train.class_names)
    others = {name: each for name, each in (("val", splits.val), ("test", splits.test)) if each is not None}
    loader = TrainLoader(
        splits.train,
        settings.loader,
        seed=seed,
        ranks=ranks,
        transform=timm_transform(augment),
        others=list(others.values()),
        progress=cli.bar("decoding"),
    )
    eval_skipped = Skipped()
    sources = {
        name: loader.eval_source(each, skipped=eval_skipped, progress=cli.bar("decoding"))
        for name, each in others.items()
    }
    train_inputs = TrainInputs(
        augment, settings.mix, num_classes=num_classes, seed=seed, rank=ranks.rank, device=ranks.device
    )
    eval_transform = EvalTransform(size=augment.size, crop=settings.eval_crop, mean=augment.mean, std=augment.std)

    # the model: all of it is the checkpoint's but for the head, which depends on the seed alone
    torch.manual_seed(key(seed, "init"))
    model, loaded = build(init, num_classes=num_classes, size=augment.size, keep_head=settings.keep_head)
    initialize(model, init.model.init, seed=seed)
    trainer.set_up(
        model,
        cross_entropy,
        num_samples=loader.num_samples,
        fingerprint=fingerprint_of(splits, init),
        resolved={"model": init.model, "loader": replace(settings.loader, mode=loader.mode)},
    )
    if folder is not None and trainer.is_finished and not run_options.allow_changes:
        kind, config, fingerprint = type(settings), trainer.config, trainer.fingerprint
        earlier = results.read(folder.path, kind, fingerprint=fingerprint, config=config) if ranks.first else None
        if (earlier := ranks.agree(earlier)) is not None:
            trainer.end_log(results.accuracies(earlier), results.figures(folder.path))
            return earlier
    best = BestWeights(trainer, COMPARABLE)
    if folder is not None and ranks.first:
        (folder / results.RESULTS).unlink(missing_ok=True)  # of other settings, or of fewer steps

    def inputs(step: int, batch: Any) -> "tuple[torch.Tensor, torch.Tensor]":
        return train_inputs(step, *batch, transformed=loader.transformed)

    def score(split: Split) -> "Scores":
        batches = eval_batches(
            sources[split],
            transform=eval_transform.on_device,
            picture_transform=eval_transform,
            ranks=ranks,
            workers=settings.loader.workers,
            skip_bad=settings.loader.skip_bad,
            skipped=eval_skipped,
        )
        return evaluate(trainer.state.eval_model, batches, num_classes=num_classes, amp=trainer.amp, ranks=ranks)

    chosen_on: Split = "test" if published else "val"
    metric = settings.metric.replace("-", "_")

    def choose() -> dict[str, float]:
        """Scores on the split that weights are chosen on; the best ones, by the metric, are kept."""
        scores = score(chosen_on)
        values = {"accuracy": scores.top1} | ({} if metric == "accuracy" else {metric: scores.mean_per_class})
        best.update(values[metric])
        return {f"{chosen_on}_{name}": round(value, 6) for name, value in values.items()}

    if ranks.first and (warning := init.normalisation_warning(augment.mean, augment.std)):
        cli.say({"warning": warning})
    trainer.describe(
        {
            "data": splits.description,
            **splits.cache_notes,
            "loader": loader.reason,
            "init": f"{init.name}: {loaded.description}",
            **({"weights": init.origin} if init.origin else {}),
            "seed": str(seed),
        }
    )
    if folder is None:
        return trainer.measure(loader.batches, inputs)
    ending = trainer.fit(
        loader.batches,
        inputs,
        evaluate=choose if published or splits.val is not None else None,
        evaluate_every=max(1, round(settings.check_epochs * loader.num_samples / batch_size)),
        stop_after=run_options.stop_after,
    )
    outcome: dict[str, Any] = {"run": str(folder.path), "start": init.name, "seed": seed, "ending": ending}
    trainer.raise_if_interrupted()
    if ending != "finished":
        return outcome | trainer.outcome()

    # how good it is: the last weights and the chosen ones, on the split that is reported on
    outcome |= trainer.outcome()
    reported: Split = "test" if splits.test is not None else "val"
    accuracies: dict[str, Any] = {"protocol": settings.protocol}
    scores = score(reported) if others else None
    if scores is not None:
        accuracies |= {"split": reported, "last": {"step": trainer.state.step, **scores.to_dict(class_names)}}
        outcome |= scores.named(reported, "last", settings.metric)
    if best.step:
        best.load()
        scores = score(reported)
        chosen = {"step": best.step, "chosen_on": chosen_on, f"{chosen_on}_{metric}": best.accuracy}
        accuracies["best"] = chosen | scores.to_dict(class_names)
        outcome["best_epoch"] = round(best.step * batch_size / loader.num_samples, 2)
        outcome["chosen_on"] = results.CHOSEN_ON[chosen_on, reported]
        outcome |= scores.named(reported, "best", settings.metric)
        if chosen_on != reported:
            outcome[f"val_{metric}_best"] = round(best.accuracy, 6)
    skipped = loader.skipped() + eval_skipped.over_ranks(ranks) + splits.skipped.over_ranks(ranks)
    outcome |= {"skipped": sum(skipped.values()), "seconds": trainer.speed.seconds}
    if ranks.first:
        training = provenance.finetuning(
            provenance.describe_data(settings.data, images_fingerprint(splits), splits.train.folder),
            base=init.base,
            base_sha256=init.sha256,
            protocol=settings.protocol,
            outcome=outcome,
        )
        outcome["model"] = trainer.export(training, crop=settings.eval_crop, class_names=class_names)
        record = {"outcome": outcome, **accuracies, "loaded": vars(loaded), "skipped": skipped}
        record |= {"config": trainer.config, "data": splits.description, "fingerprint": trainer.fingerprint}
        results.write(folder.path, record, scores, class_names=class_names, split=reported)
        trainer.end_log(results.accuracies(outcome), results.figures(folder.path))
    return outcome


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen finetune` and `python train/finetune.py`. Returns its exit code."""
    return cli.run(app, "finetune", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
