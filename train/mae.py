"""Pre-train a ViT on shards as a masked autoencoder: hidden patches are predicted, and no label is used.

    python train/mae.py --shards my-set --out runs/my-run
    torchrun --nproc-per-node 8 train/mae.py --shards my-set --out runs/my-run

The defaults are the published recipe of He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022,
appendix A.1), but for the net, which is that of `pretrain.py`. The same command goes on where a run was stopped.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import UsageError
from fracgen.train import cli, options
from fracgen.train.augment.settings import Augmentation
from fracgen.train.config import load
from fracgen.train.data.settings import LoaderSettings, ShardsSettings
from fracgen.train.engine.run_folder import RunFolder, open_run_folder
from fracgen.train.engine.settings import Model, Optim, Schedule
from fracgen.train.experiments.finetuning import join_fingerprints
from fracgen.train.masked.settings import Decoder, MaskedRun, Masking

_EPOCHS = 800.0
"""Length of the published recipe."""


@dataclass(frozen=True, kw_only=True)
class MaskedPretraining(ShardsSettings):
    """A pre-training run of a masked autoencoder."""

    model: Model = field(default_factory=lambda: Model(name="", drop_path=0.0))
    mask: Masking = field(default_factory=Masking)
    decoder: Decoder = field(default_factory=Decoder)
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-4, betas=(0.9, 0.95)))  # lr 1.5e-4 for a batch of 256
    schedule: Schedule = field(default_factory=lambda: Schedule(warmup_epochs=40.0, warmup_lr=0.0, min_lr=0.0))
    augment: Augmentation = field(
        default_factory=lambda: Augmentation(
            scale=(0.2, 1.0),
            vflip=0.0,
            rand_augment="",
            color_jitter=0.0,
            erase=0.0,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
    )
    loader: LoaderSettings = field(default_factory=lambda: LoaderSettings(batch_size=4096))
    run: MaskedRun = field(default_factory=MaskedRun)


@options_from(
    MaskedPretraining,
    ("shards", "checkpoint", "num_classes", "mask.ratio", "mask.norm_pix", *options.NAMES, *options.CACHE),
)
@options_from(options.RunOptions, into="run_options", build=True)
def main(
    *,
    overrides: options.Overrides = None,
    option_values: dict[str, Any],
    run_options: options.RunOptions,
) -> None:
    """Pre-train a ViT as a masked autoencoder, without labels; by default for 800 epochs, as published."""
    settings = load(MaskedPretraining, run_options.config, option_values, overrides)
    if not settings.shards:
        raise UsageError("--shards: give a folder of shards, as `fracgen render` writes them")
    with open_run_folder(run_options.out, run_options.resume, benchmark=run_options.benchmark) as folder:
        pretrain(settings, folder, run_options)


app = command_app(main)


def pretrain(settings: MaskedPretraining, folder: RunFolder | None, run_options: options.RunOptions) -> None:
    """Pre-train, from the last checkpoint in the folder on; without a folder, measure the speed."""
    began = time.perf_counter()
    import torch

    from fracgen.train.augment.device import DeviceAugment, timm_transform
    from fracgen.train.augment.evaluation import EvalTransform
    from fracgen.train.data.loader import Batch, check_batch, eval_batches, open_shards
    from fracgen.train.data.subsets import evenly_spaced
    from fracgen.train.engine import metrics, provenance
    from fracgen.train.engine.init_weights import load_init
    from fracgen.train.engine.trainer import Trainer
    from fracgen.train.masked.autoencoder import create
    from fracgen.train.masked.picture import PICTURE, Reconstructions
    from fracgen.train.ranks import join, leave

    # where the run goes on; what cannot work is refused before any data is opened
    ranks = join(settings.run.device)
    if not settings.schedule.has_length:
        settings = replace(settings, schedule=replace(settings.schedule, epochs=_EPOCHS))
    trainer = Trainer(settings, folder, ranks, began=began, allow_changes=run_options.allow_changes)
    settings = trainer.settings
    augment, seed = settings.augment, settings.run.seed
    check_batch(settings.loader, ranks)
    init = load_init(settings.checkpoint, settings.model)
    model, loaded = create(init, settings.decoder, settings.mask, size=augment.size, seed=seed)

    # the data, whose labels are not used
    transform = timm_transform(augment) if settings.loader.augment == "timm" else None
    examples, loader = open_shards(settings, seed=seed, ranks=ranks, transform=transform)
    device_augment = DeviceAugment(augment, seed=seed, device=ranks.device)
    trainer.set_up(
        model,
        model.loss,
        num_samples=loader.num_samples,
        fingerprint=join_fingerprints(examples.fingerprint, init.sha256),
        resolved={"model": init.model, "loader": replace(settings.loader, mode=loader.mode)},
    )

    def inputs(step: int, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, which are their own targets."""
        images = batch.images if loader.transformed else device_augment(batch.images, batch.positions)
        return images, images

    eval_transform = EvalTransform(size=augment.size, crop=1.0, mean=augment.mean, std=augment.std)

    def open_pictured() -> Reconstructions | None:
        """Whole, unaugmented images of the set for the picture, which the first rank draws."""
        batches = eval_batches(
            loader.source,
            transform=eval_transform.on_device,
            picture_transform=eval_transform,
            ranks=replace(ranks, rank=0, world=1),
            numbers=evenly_spaced(len(examples), settings.run.draw_images),
            skip_bad=settings.loader.skip_bad,
        )
        images = [images for images, _ in batches]
        if not images:
            return None
        return Reconstructions(torch.cat(images), mean=augment.mean, std=augment.std, seed=seed, amp=trainer.amp)

    trainer.describe({**loader.describe(), "init": f"{init.name}: {loaded.description}", "masks": model.describe()})
    if folder is None:
        measured = trainer.measure(loader.batches, inputs)
        if ranks.first:
            cli.result(measured, as_json=run_options.as_json)
        return
    pictured = open_pictured() if ranks.first and settings.run.draw_images else None

    def draw() -> dict[str, float]:
        """The loss on whole, unaugmented images, of which it draws a picture."""
        if pictured is None:
            return {}
        autoencoder: Any = trainer.state.eval_model
        return {"clean_loss": pictured.draw(autoencoder, folder / PICTURE, step=trainer.state.step)}

    # steps, and what is left of them
    ending = trainer.fit(
        loader.batches,
        inputs,
        evaluate=draw if settings.run.draw_images else None,
        evaluate_every=settings.run.draw_every,
        stop_after=run_options.stop_after,
    )
    num_skipped = sum(loader.skipped().values())
    leave()
    if not ranks.first:
        return
    trainer.end_log(figures={"reconstructions": folder / PICTURE} if pictured is not None else None)
    logged = metrics.last_values(folder / metrics.METRICS, step=trainer.state.step)
    training = provenance.masked_pretraining(
        provenance.describe_data(settings.shards, examples.fingerprint, examples.folder),
        base=init.base,
        base_sha256=init.sha256,
        licence=provenance.licence_of(examples.folder, from_formula=init.from_formula),
    )
    outcome: dict[str, Any] = {
        "run": str(folder.path),
        "ending": ending,
        **trainer.outcome(),
        **{name: float(f"{logged[name]:.4g}") for name in ("loss", "clean_loss") if name in logged},
        "skipped": num_skipped,
        "model": trainer.export(training, model=trainer.state.eval_model.get_submodule("encoder")),
    }
    cli.result(outcome, as_json=run_options.as_json, labels={"clean_loss": "clean loss (whole images)"})
    trainer.raise_if_interrupted()


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen mae` and `python train/mae.py`. Returns its exit code."""
    return cli.run(app, "mae", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
