"""Warm up the blocks of a timm ViT on sequences of brackets (k-Dyck), before any image.

    python train/dyck.py --out runs/my-run
    torchrun --nproc-per-node 8 train/dyck.py --out runs/my-run

Shinnick et al., "Can You Learn to See Without Images? Procedural Warm-Up for Vision Transformers" (arXiv 2511.13945):
15,000 steps of 256 fresh sequences, as long as an image has patches; hidden closing brackets are predicted. Fine-tuning
and pre-training take blocks and final norm from the run, and begin all else anew. What the paper leaves open is as in
public code for it, as read (`procedural/`). The same command goes on where a run was stopped.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting
from fracgen.train import cli, options
from fracgen.train.config import load
from fracgen.train.data.settings import BatchSettings
from fracgen.train.engine.run_folder import RunFolder, open_run_folder
from fracgen.train.engine.settings import ImageInput, Model, Optim, Run, Schedule
from fracgen.train.procedural.brackets import Brackets

_STEPS = 15_000
"""Length of the published recipe."""
_CHECK_FROM, _CHECK_BATCH = 1 << 62, 256
"""Numbers of the sequences that accuracy is measured on begin where no run comes to."""


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """A run on sequences of brackets."""

    brackets: Brackets = field(default_factory=Brackets)
    model: Model = field(default_factory=lambda: Model(drop_path=0.0))
    optim: Optim = field(default_factory=lambda: Optim(lr=4e-3, clip=1.0))  # lr 2e-3 for a batch of 256
    schedule: Schedule = field(
        default_factory=lambda: Schedule(warmup_steps=1000, warmup_share=0.1, warmup_lr=2e-6, min_lr=2e-5)
    )
    augment: ImageInput = field(default_factory=ImageInput)
    loader: BatchSettings = field(default_factory=BatchSettings)
    check_every: Annotated[
        int,
        Setting("Steps between two measurements of accuracy; 0: at the end.", at_least=0, identity=False),
    ] = 1000
    check_sequences: Annotated[
        int, Setting("Sequences, apart from those trained on, that it is measured on.", at_least=1, identity=False)
    ] = 1024
    run: Run = field(default_factory=Run)


_NAMES = ("brackets.language", "brackets.types", "augment.size", "schedule.steps", "schedule.samples")
_LEFT_OUT = ("schedule.epochs", "loader.mode", "loader.augment", "loader.resize", "loader.skip_bad", "loader.workers")


@options_from(WarmUp, [*_NAMES, *(name for name in options.NAMES if name not in (*_NAMES, *_LEFT_OUT))])
@options_from(options.RunOptions, into="run_options", build=True)
def main(
    *,
    overrides: options.Overrides = None,
    option_values: dict[str, Any],
    run_options: options.RunOptions,
) -> None:
    """Warm up a ViT's blocks on sequences of brackets (k-Dyck), without images; by default for 15,000 steps."""
    settings = load(WarmUp, run_options.config, option_values, overrides)
    with open_run_folder(run_options.out, run_options.resume, benchmark=run_options.benchmark) as folder:
        warm_up(settings, folder, run_options)


app = command_app(main)


def warm_up(settings: WarmUp, folder: RunFolder | None, run_options: options.RunOptions) -> None:
    """Train, from the last checkpoint in the folder on; without a folder, measure the speed."""
    began = time.perf_counter()
    import numpy as np
    import torch
    from torch import Tensor

    from fracgen.train.data.loader import check_batch
    from fracgen.train.engine import metrics, provenance
    from fracgen.train.engine import model as models
    from fracgen.train.engine.closed_form import initialize
    from fracgen.train.engine.trainer import Trainer
    from fracgen.train.procedural import token_model
    from fracgen.train.procedural.brackets import draw
    from fracgen.train.ranks import join, leave
    from fracgen.train.seeding import key

    # where the run goes on; what cannot work is refused
    ranks = join(settings.run.device)
    schedule = settings.schedule
    if schedule.epochs or schedule.warmup_epochs:
        raise UsageError("schedule: sequences are drawn anew, so there are no epochs; give --steps or --samples")
    if not schedule.has_length:
        settings = replace(settings, schedule=replace(schedule, steps=_STEPS))
    trainer = Trainer(settings, folder, ranks, began=began, allow_changes=run_options.allow_changes)
    settings = trainer.settings
    brackets, seed, size = settings.brackets, settings.run.seed, settings.augment.size
    batch_size, per_rank = settings.loader.batch_size, check_batch(settings.loader, ranks)

    # the model for images, and the one of tokens, which has its blocks
    def create() -> Any:
        torch.manual_seed(key(seed, "init"))
        model = models.create(settings.model, num_classes=0, size=size)
        token_model.check(model, settings.model.name, brackets.vocabulary)
        initialize(model, settings.model.init, seed=seed)
        return model

    model = create()
    grid = model.patch_embed.grid_size
    length = model.patch_embed.num_patches
    token_model.to_token_model(model, brackets.vocabulary, seed=seed)
    trainer.set_up(
        model,
        token_model.masked_cross_entropy,
        num_samples=0,
        fingerprint=brackets.fingerprint(length),
        resolved={},
        example=lambda batch: torch.zeros(batch, length, dtype=torch.int64),
    )

    # the sequences: position p of the run has the same one, whatever the ranks
    def sequences(start: int, count: int) -> tuple[Tensor, Tensor]:
        tokens, targets = draw(brackets, length, seed=seed, positions=np.arange(start, start + count))
        return torch.from_numpy(tokens), torch.from_numpy(targets)

    def batches(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield sequences(step * batch_size + ranks.rank * per_rank, per_rank)
            step += 1

    def inputs(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        tokens, targets = (each.to(ranks.device, non_blocking=True) for each in batch)
        return tokens, targets

    def accuracy() -> dict[str, float]:
        """Share of hidden brackets that are guessed, on sequences that no run trains on."""
        starts = range(ranks.rank * _CHECK_BATCH, settings.check_sequences, ranks.world * _CHECK_BATCH)
        parts = (
            inputs(0, sequences(_CHECK_FROM + start, min(_CHECK_BATCH, settings.check_sequences - start)))
            for start in starts
        )
        share = token_model.masked_accuracy(trainer.state.eval_model, parts, amp=trainer.amp, ranks=ranks)
        return {"masked_accuracy": round(share, 6)}

    hidden = f"{100 * brackets.mask_ratio:g} % of the closing ones hidden"
    trainer.describe({"data": f"{brackets}: sequences of {length} tokens, as {grid[0]} x {grid[1]} patches; {hidden}"})
    if folder is None:
        measured = trainer.measure(batches, inputs)
        if ranks.first:
            cli.result(measured, as_json=run_options.as_json)
        return

    # steps, and what is left of them
    ending = trainer.fit(
        batches, inputs, evaluate=accuracy, evaluate_every=settings.check_every, stop_after=run_options.stop_after
    )
    leave()
    if not ranks.first:
        return
    trainer.end_log()
    logged = metrics.last_values(folder / metrics.METRICS, step=trainer.state.step)
    images = create()
    token_model.copy_trained(trainer.state.eval_model, images)
    training = provenance.warm_up(
        str(brackets),
        trainer.fingerprint,
        init=settings.model.init,
        seed=seed,
        accuracy=logged.get("masked_accuracy"),
        modules=token_model.trained_modules(model),
    )
    outcome: dict[str, Any] = {
        "run": str(folder.path),
        "ending": ending,
        **trainer.outcome(),
        **{name: float(f"{logged[name]:.4g}") for name in ("loss", "masked_accuracy") if name in logged},
        "model": trainer.export(training, model=images),
    }
    cli.result(outcome, as_json=run_options.as_json, labels={"masked_accuracy": "accuracy on hidden brackets"})
    trainer.raise_if_interrupted()


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen dyck` and `python train/dyck.py`. Returns its exit code."""
    return cli.run(app, "dyck", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
