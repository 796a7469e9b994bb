"""Pre-train a timm model on shards: one class a perturbation, cross entropy over them (LPCE).

    python train/pretrain.py --shards my-set --out runs/my-run
    torchrun --nproc-per-node 8 train/pretrain.py --shards my-set --out runs/my-run

The defaults are the published recipe of "Scaling Backwards" (ECCV 2024): ViT-Tiny/16 at 224 pixels, 61.4 million
samples in batches of 256, AdamW, DeiT's augmentation. The same command goes on where a run was stopped.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import UsageError
from fracgen.train import cli, options
from fracgen.train.augment.settings import Augmentation, Mix
from fracgen.train.config import load
from fracgen.train.data.settings import ShardsSettings
from fracgen.train.engine.run_folder import RunFolder, open_run_folder
from fracgen.train.engine.settings import CleanRun, Model, Optim, Schedule
from fracgen.train.experiments.finetuning import join_fingerprints


@dataclass(frozen=True, kw_only=True)
class Pretraining(ShardsSettings):
    """A pre-training run."""

    model: Model = field(default_factory=lambda: Model(name=""))
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augmentation = field(default_factory=Augmentation)
    mix: Mix = field(default_factory=Mix)
    run: CleanRun = field(default_factory=CleanRun)


@options_from(Pretraining, ("shards", "checkpoint", "num_classes", *options.NAMES, *options.CACHE))
@options_from(options.RunOptions, into="run_options", build=True)
def main(
    *,
    overrides: options.Overrides = None,
    option_values: dict[str, Any],
    run_options: options.RunOptions,
    estimate: options.Estimate = False,
    data: Annotated[str | None, typer.Option("--data", hidden=True)] = None,
    feed: options.OldFeed = None,
    tensorboard: options.OldTensorboard = False,
) -> None:
    """Pre-train a timm model on shards, by default for the 61.44 million samples of the published recipe."""
    options.refuse_old_feed(feed)
    options.refuse_old_tensorboard(tensorboard)
    if data is not None:
        raise UsageError(f"--data {data}: give --shards PATH for the set, --loader memory or stream for how it is read")
    settings = load(Pretraining, run_options.config, option_values, overrides)
    if estimate:
        from fracgen.train.data.loader import examples_of
        from fracgen.train.engine.estimate import estimate_run

        cli.result(estimate_run(settings, settings.shards, lambda: examples_of(settings)), as_json=run_options.as_json)
        return
    if not settings.shards:
        raise UsageError("--shards: give a folder of shards, as `fracgen render` writes them")
    with open_run_folder(run_options.out, run_options.resume, benchmark=run_options.benchmark) as folder:
        pretrain(settings, folder, run_options)


app = command_app(main)


def pretrain(settings: Pretraining, folder: RunFolder | None, run_options: options.RunOptions) -> None:
    """Pre-train, from the last checkpoint in the folder on; without a folder, measure the speed.

    A set whose images have several labels is learned by binary cross entropy; its accuracy is the share of images whose
    first guess is one of their classes.
    """
    began = time.perf_counter()
    import torch

    from fracgen.train.augment.device import timm_transform
    from fracgen.train.augment.evaluation import EvalTransform
    from fracgen.train.augment.inputs import TrainInputs
    from fracgen.train.data.loader import check_batch, eval_batches, open_shards
    from fracgen.train.data.skipped import Skipped
    from fracgen.train.data.subsets import evenly_spaced
    from fracgen.train.engine import metrics, provenance
    from fracgen.train.engine.build import build, check
    from fracgen.train.engine.closed_form import initialize
    from fracgen.train.engine.evaluate import FIRST_OF_SEVERAL, evaluate
    from fracgen.train.engine.init_weights import load_init
    from fracgen.train.engine.losses import lpce, multi_label_cross_entropy
    from fracgen.train.engine.trainer import Trainer
    from fracgen.train.ranks import join, leave
    from fracgen.train.seeding import key

    # where the run goes on; what cannot work is refused before any data is opened
    ranks = join(settings.run.device)
    trainer = Trainer(settings, folder, ranks, began=began, allow_changes=run_options.allow_changes)
    settings = trainer.settings
    augment, seed = settings.augment, settings.run.seed
    settings.mix.check_batch(check_batch(settings.loader, ranks))
    init = load_init(settings.checkpoint, settings.model)
    check(init, size=augment.size)

    # the data
    transform = timm_transform(augment) if settings.loader.augment == "timm" else None
    examples, loader = open_shards(settings, seed=seed, ranks=ranks, transform=transform)
    num_classes = len(examples.class_names)
    train_inputs = TrainInputs(
        augment,
        settings.mix,
        num_classes=num_classes,
        seed=seed,
        rank=ranks.rank,
        device=ranks.device,
        multi_label=examples.multi_label,
    )

    # the model, whose weights depend on the seed alone, and what trains it
    torch.manual_seed(key(seed, "init"))
    model, loaded = build(init, num_classes=num_classes, size=augment.size)
    initialize(model, init.model.init, seed=seed)
    trainer.set_up(
        model,
        multi_label_cross_entropy if examples.multi_label else lpce,
        num_samples=loader.num_samples,
        fingerprint=join_fingerprints(examples.fingerprint, init.sha256),
        resolved={
            "num_classes": num_classes,
            "model": init.model,
            "loader": replace(settings.loader, mode=loader.mode),
        },
    )

    def inputs(step: int, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return train_inputs(step, *batch, transformed=loader.transformed)

    eval_transform = EvalTransform(size=augment.size, crop=1.0, mean=augment.mean, std=augment.std)
    clean_numbers, clean_skipped = evenly_spaced(len(examples), settings.run.clean_images), Skipped()

    def accuracy(transform: Callable[[torch.Tensor], torch.Tensor]) -> float:
        batches = eval_batches(
            loader.source,
            transform=transform,
            picture_transform=eval_transform,
            ranks=ranks,
            numbers=clean_numbers,
            workers=settings.loader.workers,
            skip_bad=settings.loader.skip_bad,
            skipped=clean_skipped,
        )
        return evaluate(
            trainer.state.eval_model, batches, num_classes=num_classes, amp=trainer.amp, ranks=ranks, confusion=False
        ).top1

    def accuracies() -> dict[str, float]:
        """Accuracy on training images, whole and unaugmented; beside it, that on training crops of the same images."""
        clean = {"clean_accuracy": accuracy(eval_transform.on_device)}
        return clean if loader.transformed else {**clean, "crop_accuracy": accuracy(train_inputs.crops(ranks))}

    trainer.describe(loader.describe() | {"init": f"{init.name}: {loaded.description}"})
    if folder is None:
        measured = trainer.measure(loader.batches, inputs)
        if ranks.first:
            cli.result(measured, as_json=run_options.as_json)
        return

    # steps, and what is left of them
    ending = trainer.fit(
        loader.batches,
        inputs,
        evaluate=accuracies if len(clean_numbers) else None,
        evaluate_every=settings.run.clean_every,
        stop_after=run_options.stop_after,
    )
    num_skipped = sum(loader.skipped().values())
    leave()
    if not ranks.first:
        return
    trainer.end_log()
    logged = metrics.last_values(folder / metrics.METRICS, step=trainer.state.step)
    exported = trainer.export(
        provenance.pretraining(
            provenance.describe_data(settings.shards, examples.fingerprint, examples.folder),
            base=init.base,
            base_sha256=init.sha256,
            licence=provenance.licence_of(examples.folder, from_formula=init.from_formula),
            seed=seed,
            accuracies=logged,
            **({"metric": FIRST_OF_SEVERAL} if examples.multi_label else {}),
        ),
        class_names=examples.class_names,
    )
    labels = {"clean_accuracy": "clean accuracy (whole images)", "crop_accuracy": "accuracy on training crops"}
    if examples.multi_label:
        labels = {name: f"{label}: {FIRST_OF_SEVERAL}" for name, label in labels.items()}
    outcome: dict[str, Any] = {
        "run": str(folder.path),
        "ending": ending,
        **trainer.outcome(),
        **{name: float(f"{logged[name]:.4g}") for name in ("loss", *labels) if name in logged},
        "skipped": num_skipped,
        "model": exported,
    }
    cli.result(outcome, as_json=run_options.as_json, labels=labels)
    trainer.raise_if_interrupted()


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen pretrain` and `python train/pretrain.py`. Returns its exit code."""
    return cli.run(app, "pretrain", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
