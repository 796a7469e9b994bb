"""What each block of a frozen network has learned: a linear probe and the nearest neighbours, block by block.

    python train/probe.py --checkpoint runs/1p-frac --data cifar10 --out probes
    python train/probe.py --checkpoint fractal=runs/1p-frac --checkpoint noise=runs/noise --data cifar10 --out probes

This is the figure of "Scaling Backwards" (ECCV 2024) that shows which layers pre-training has formed, with a randomly
initialised network of the same architecture for comparison. Features are taken as a block returns them, before any
later norm, and standardised by the training images. Multinomial logistic regression is fitted by L-BFGS, its penalty
chosen on a tenth of the training images; neighbours vote as in DINO. Nothing is chosen on the test images.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import check_local, write_atomically
from fracgen.shards.settings import load_settings
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.probing.settings import OPTIONS, ProbeSettings

if TYPE_CHECKING:
    from fracgen.train.data.examples import Examples
    from fracgen.train.data.splits import Splits

HELD_OUT = 0.1
"""Share of the training images that the penalty is chosen on; then the regression is fitted to all of them."""
_TRAIN, _TEST, _HELD_OUT = 2, 3, 4
"""Purposes of draws by `stratified_subset`; 0 and 1 are the splits' own."""


@options_from(ProbeSettings, OPTIONS)
def main(
    *,
    option_values: Mapping[str, Any],
    overrides: options.Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for probe.json and probe.png.", rich_help_panel="Output")
    ] = None,
    as_json: options.AsJson = False,
    feed: options.OldFeed = None,
) -> None:
    """Linear probe and nearest neighbours on every block of frozen networks."""
    options.refuse_old_feed(feed, "is --loader in training now, and a probe reads each image once; leave it out")
    settings = load_settings(ProbeSettings, None, option_values, overrides or [])
    if not settings.checkpoints:
        raise UsageError("--checkpoint: give the folder of a run, a timm folder, or a file of weights")
    if not settings.data:
        raise UsageError("--data: give a folder of train/ and test/ with class folders or shards, or a timm name")
    if out is None:
        raise UsageError("--out: give a folder for probe.json and probe.png")
    result = probe(settings, out)
    if as_json:
        print(json.dumps(result))
        return
    from fracgen.train.probing import figure

    seconds = ", ".join(f"{name} {each}" for name, each in result["seconds"].items())
    rows = {"chance": f"{100 * result['chance']:.1f}", "skipped": sum(result["skipped"].values()), "seconds": seconds}
    print(figure.table(result["nets"]), end="\n\n")
    console.result({**rows, "json": str(out / "probe.json"), "plot": str(out / "probe.png")}, as_json=False)


app = command_app(main)


def probe(settings: ProbeSettings, out: Path) -> dict[str, Any]:
    """Probe all networks, and write probe.json and probe.png to the folder `out`; returns what probe.json holds.

    Raises UsageError for settings that the images or checkpoints do not allow, DataError for images that cannot be
    read and features that are not finite.
    """
    began = time.perf_counter()
    import torch

    from fracgen.train.data.splits import open_splits
    from fracgen.train.data.subsets import stratified_subset
    from fracgen.train.engine import precision
    from fracgen.train.probing import figure
    from fracgen.train.probing.backbones import load_backbones
    from fracgen.train.probing.block_scores import ProbeData, score_blocks
    from fracgen.train.probing.features import extract
    from fracgen.train.ranks import join

    # the device
    check_local(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a probe is one process's work; start it without torchrun")
    device = join(settings.device).device
    resolved = precision.resolve(settings.precision, device)
    amp = precision.autocast_dtype(resolved)
    if precision.is_emulated(resolved, device):
        console.say({"warning": precision.EMULATED})

    # the images, and the networks
    splits = open_splits(
        settings.data,
        test=settings.test,
        num_classes=settings.num_classes,
        root=settings.root,
        columns=settings.columns,
        val_share=0,
        seed=settings.seed,
        skip_bad=settings.skip_bad,
        cache=settings.cache,
        progress=console.bar("opening"),
    )
    train, test = choose_images(splits, settings)
    backbones = load_backbones(settings, device)
    for backbone in backbones:
        precision.choose_attention(backbone.network, amp, device)
    out.mkdir(parents=True, exist_ok=True)
    console.say(
        {
            "data": splits.description,
            **splits.cache_notes,
            "images": f"{len(train):,} to fit and to be neighbours, {len(test):,} to report on",
            "net": "; ".join(map(str, backbones)),
        }
    )
    for backbone in backbones:
        if backbone.origin:
            console.say({"weights": f"{backbone.name}: {backbone.origin}"})

    # their features
    opened = time.perf_counter()
    reading: dict[str, Any] = {
        "crop": settings.crop,
        "batch_size": settings.batch_size,
        "skip_bad": settings.skip_bad,
        "amp": amp,
    }
    train_features = extract(backbones, train, **reading, progress=console.bar("train images"))
    test_features = extract(backbones, test, **reading, progress=console.bar("test images"))
    seconds = {"opening": opened - began, "features": time.perf_counter() - opened, "linear": 0.0, "knn": 0.0}
    num_train, num_test = len(train_features.labels), len(test_features.labels)
    if settings.k > num_train:
        raise DataError(f"--k {settings.k}: only {num_train} training images can be decoded")

    # the accuracy of each block
    num_held_out = max(1, round(HELD_OUT * num_train))
    held_out = torch.zeros(num_train, dtype=torch.bool)
    rows = stratified_subset(train_features.labels.numpy(), num_held_out, seed=settings.seed, purpose=_HELD_OUT)
    held_out[rows] = True
    nets = []
    for number, backbone in enumerate(backbones):
        data = ProbeData(
            train=train_features.by_block[number],
            test=test_features.by_block[number],
            train_labels=train_features.labels.to(device),
            test_labels=test_features.labels.to(device),
            held_out=held_out.to(device),
            num_classes=len(splits.train.class_names),
        )
        blocks, seconds_of = score_blocks(data, backbone.blocks, k=settings.k)
        seconds |= {name: seconds[name] + each for name, each in seconds_of.items()}
        nets.append({**backbone.describe(), "blocks": blocks})

    # the files
    seconds["all"] = time.perf_counter() - began
    chance = float(test_features.labels.bincount().max()) / num_test
    result: dict[str, Any] = {
        "data": splits.description,
        "fingerprints": {"train": train.fingerprint, "test": test.fingerprint},
        "classes": len(splits.train.class_names),
        "train_images": num_train,
        "held_out_images": num_held_out,
        "test_images": num_test,
        "skipped": dict(splits.skipped.counts + train_features.skipped + test_features.skipped),
        "chance": chance,
        "crop": settings.crop,
        "k": settings.k,
        "seed": settings.seed,
        "precision": resolved,
        "nets": nets,
        "seconds": {name: round(each, 1) for name, each in seconds.items()},
    }
    write_atomically(out / "probe.json", json.dumps(result, indent=2) + "\n")
    figure.draw(nets, chance, out / "probe.png")
    return result


def choose_images(splits: "Splits", settings: ProbeSettings) -> "tuple[Examples, Examples]":
    """(training images, test images) of a probe, class by class, at most as many as the settings say.

    Raises UsageError where there are no test images, or too few training images.
    """
    from fracgen.train.data.subsets import stratified_subset

    if splits.test is None:
        raise UsageError(f"{settings.data}: has no test images to report on; give --test")

    def choose(examples: "Examples", count: int, purpose: int) -> "Examples":
        numbers = stratified_subset(examples.labels, count or len(examples), seed=settings.seed, purpose=purpose)
        return examples.subset(numbers)

    train = choose(splits.train, settings.images, _TRAIN)
    if len(train) < len(train.class_names):
        raise UsageError(f"--images {len(train)}: fewer than the {len(train.class_names)} classes")
    if settings.k > len(train):
        raise UsageError(f"--k {settings.k}: there are only {len(train)} training images")
    return train, choose(splits.test, settings.test_images, _TEST)


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen probe` and `python train/probe.py`. Returns its exit code."""
    return console.run(app, "probe", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
