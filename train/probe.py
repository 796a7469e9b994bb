"""What each block of a frozen net knows: a linear probe and the nearest neighbours, block by block.

    python train/probe.py --checkpoint runs/1p-frac --data cifar10 --out probes
    python train/probe.py --checkpoint fractal=runs/1p-frac --checkpoint noise=runs/noise --data cifar10 --out probes

The figure of "Scaling Backwards" (ECCV 2024) that shows which layers pre-training has formed, beside a net of the same
architecture that has learned nothing. Features are those that a block leaves, before any later norm, standardised by
the training images. Multinomial logistic regression is fitted by L-BFGS, its penalty chosen on a tenth of the training
images; neighbours vote as in DINO. Nothing is chosen on the test images. One process does it all, without torchrun.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fracgen.shards.errors import DataError, UsageError
from fracgen.train import cli as console
from fracgen.train.config import Device, Model, Precision, load
from fracgen.train.engine.run_folder import write_text
from fracgen.train.seeding import MAX_SEED

if TYPE_CHECKING:
    import torch

    from fracgen.train.engine.init_weights import Start
    from fracgen.train.probing.features import Net

app = console.app()
HELD_OUT = 0.1
"""Share of the training images that the penalty is chosen on; then all are fitted."""
RANDOM = "random init"
_TRAIN, _TEST, _HELD_OUT = 2, 3, 4
"""What the draws of `stratified` are for; 0 and 1 are those of `fracgen.train.data.old.splits`."""
_SIZE, _STATS = 224, (0.5, 0.5, 0.5)
"""For checkpoints that do not say."""


@dataclass(frozen=True, kw_only=True)
class Probing:
    """A probe. images, test_images: at most; 0 is all. size: 0 is the checkpoint's own. crop: of the shorter side."""

    checkpoints: tuple[str, ...] = ()
    data: str = ""
    test: str = ""
    num_classes: int = 0
    root: str = "data"
    model: Model = field(default_factory=lambda: Model(name="", drop_path=0.0))
    feature: Literal["auto", "cls", "mean"] = "auto"
    images: int = 10_000
    test_images: int = 0
    size: int = 0
    crop: float = 1.0
    k: int = 20
    random: bool = True
    batch_size: int = 64
    skip_bad: bool = False
    seed: int = 0
    device: Device = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name, least in (("images", 0), ("test_images", 0), ("size", 0), ("k", 1), ("batch_size", 1), ("seed", 0)):
            if not least <= getattr(self, name) <= MAX_SEED:
                raise UsageError(f"{name} {getattr(self, name)}: must be {least} or more")
        if not 0 < self.crop <= 1:
            raise UsageError(f"crop {self.crop}: give a share of the shorter side, above 0, at most 1")


@app.command()
def main(
    *,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Any setting, as model.options.depth=6.")
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PATH", help="A run, a timm folder or a file of weights; more than one: compared."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of train/ and test/ with class folders or shards; or a timm name.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test images, where they do not lie in --data.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Of tars without our manifest.", min=1)] = None,
    root: Annotated[str | None, typer.Option(help="Where sets of timm names are kept.  [default: data]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for probe.json and probe.png.")] = None,
    model: Annotated[str | None, typer.Option(help="timm model of a file of weights.")] = None,
    feature: Annotated[
        Literal["auto", "cls", "mean"] | None,
        typer.Option(help="Class token, or mean over patches. auto: what the model classifies by."),
    ] = None,
    images: Annotated[int | None, typer.Option(help="Training images; 0: all.  [default: 10000]", min=0)] = None,
    test_images: Annotated[int | None, typer.Option(help="Test images; 0: all.  [default: 0]", min=0)] = None,
    size: Annotated[int | None, typer.Option(help="Pixels.  [default: the checkpoint's own]", min=1)] = None,
    crop: Annotated[float | None, typer.Option(help="Share of the shorter side that is shown.  [default: 1]")] = None,
    k: Annotated[int | None, typer.Option(help="Nearest neighbours.  [default: 20]", min=1)] = None,
    random: Annotated[
        bool | None, typer.Option("--random/--no-random", help="Beside a random net of each architecture, or not.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: 64]", min=1)] = None,
    skip_bad: Annotated[bool | None, typer.Option("--skip-bad", help="Count what cannot be read, and go on.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    device: Annotated[Device | None, typer.Option()] = None,
    precision: Annotated[Precision | None, typer.Option(help="auto: fp32 on a CPU, bf16 or fp16 on a GPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Linear probe and nearest neighbours on every block of frozen nets."""
    given = {
        "checkpoints": checkpoint or None,
        "data": data,
        "test": test,
        "num_classes": num_classes,
        "root": root,
        "model.name": model,
        "feature": feature,
        "images": images,
        "test_images": test_images,
        "size": size,
        "crop": crop,
        "k": k,
        "random": random,
        "batch_size": batch_size,
        "skip_bad": skip_bad,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    chosen = {"model.name": "", "model.drop_path": 0.0} | {k: value for k, value in given.items() if value is not None}
    settings = load(Probing, None, chosen, overrides or [])
    if not settings.checkpoints:
        raise UsageError("--checkpoint: give the folder of a run, a timm folder, or a file of weights")
    if not settings.data:
        raise UsageError("--data: give a folder of train/ and test/ with class folders or shards, or a timm name")
    if out is None:
        raise UsageError("--out: give a folder for probe.json and probe.png")
    probe(settings, out, as_json=as_json)


def probe(settings: Probing, out: Path, *, as_json: bool = False) -> None:
    """Probe all nets, and write what was found."""
    began = time.perf_counter()
    import torch

    from fracgen.train.data.old.splits import open_splits
    from fracgen.train.data.old.stratified import stratified
    from fracgen.train.engine import model as models
    from fracgen.train.probing import figure
    from fracgen.train.probing.features import Reading, extract
    from fracgen.train.ranks import join

    # where: what it computes in
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a probe is one process's work; start it without torchrun")
    place = join(settings.device).device
    wanted: Precision = "fp32" if place.type == "cpu" and settings.precision == "auto" else settings.precision
    precision = models.resolve_precision(wanted, place)
    amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    # what: the images, class by class
    splits = open_splits(
        settings.data,
        test=settings.test,
        num_classes=settings.num_classes,
        root=settings.root,
        val_share=0,
        seed=settings.seed,
        skip_bad=settings.skip_bad,
        progress=console.bar("counting"),
    )
    if splits.test is None:
        raise UsageError(f"{settings.data}: has no test images to report on; give --test")
    num_classes = len(splits.train.class_names)
    images = settings.images or len(splits.train)
    train = splits.train.take(stratified(splits.train.labels, images, seed=settings.seed, purpose=_TRAIN))
    tested = settings.test_images or len(splits.test)
    test = splits.test.take(stratified(splits.test.labels, tested, seed=settings.seed, purpose=_TEST))
    if len(train) < num_classes:
        raise UsageError(f"--images {len(train)}: fewer than the {num_classes} classes")
    if settings.k > len(train):
        raise UsageError(f"--k {settings.k}: there are only {len(train)} training images")

    # who: the nets, frozen, and one of each architecture that has learned nothing
    starts = open_starts(settings)
    nets = [as_net(start, settings, place) for start in starts]
    out.mkdir(parents=True, exist_ok=True)
    console.say(
        {
            "data": splits.description,
            "images": f"{len(train):,} to fit and to be neighbours, {len(test):,} to report on",
            "net": "; ".join(f"{net.name}: {len(net.blocks)} blocks, {net.feature}, {net.size} px" for net in nets),
        }
    )

    # every picture through every net, once
    read = time.perf_counter()
    reading = Reading(
        crop=settings.crop,
        batch_size=settings.batch_size,
        threads=torch.get_num_threads(),
        skip_bad=settings.skip_bad,
    )
    fitted = extract(nets, train, reading=reading, amp=amp, progress=console.bar("train images"))
    judged = extract(nets, test, reading=reading, amp=amp, progress=console.bar("test images"))
    seconds: dict[str, Any] = {"opening": round(read - began, 1), "features": round(time.perf_counter() - read, 1)}
    seconds |= {"linear": 0.0, "knn": 0.0}
    if settings.k > len(fitted.labels):
        raise DataError(f"--k {settings.k}: only {len(fitted.labels)} training images can be decoded")

    # what each block tells
    labels = fitted.labels.numpy()
    count = max(1, round(HELD_OUT * len(labels)))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[torch.from_numpy(stratified(labels, count, seed=settings.seed, purpose=_HELD_OUT))] = True
    found = list[dict[str, Any]]()
    for number, (net, start) in enumerate(zip(nets, starts, strict=True)):
        task = Task(
            fitted=fitted.features[number],
            judged=judged.features[number],
            labels=(fitted.labels.to(place), judged.labels.to(place)),
            held_out=held_out.to(place),
            num_classes=num_classes,
            k=settings.k,
        )
        blocks, took = judge(task, net.blocks, place)
        seconds |= {name: round(seconds[name] + each, 1) for name, each in took.items()}
        found.append({**about(net, start), "blocks": blocks})
    seconds["all"] = round(time.perf_counter() - began, 1)

    # what is left of it
    chance = float(judged.labels.bincount().max()) / len(judged.labels)
    result: dict[str, Any] = {
        "data": splits.description,
        "fingerprints": {"train": train.fingerprint, "test": test.fingerprint},
        "classes": num_classes,
        "train_images": len(fitted.labels),
        "held_out_images": count,
        "test_images": len(judged.labels),
        "skipped": dict(splits.skipped + fitted.skipped + judged.skipped),
        "chance": chance,
        "crop": settings.crop,
        "k": settings.k,
        "seed": settings.seed,
        "precision": precision,
        "nets": found,
        "seconds": seconds,
    }
    write_text(out / "probe.json", json.dumps(result, indent=2) + "\n")
    figure.draw(found, chance, out / "probe.png")
    if as_json:
        print(json.dumps(result))
        return
    print(figure.table(found), end="\n\n")
    told: dict[str, Any] = {"chance": f"{100 * chance:.1f}", "skipped": sum(result["skipped"].values())}
    told["seconds"] = ", ".join(f"{name} {each}" for name, each in seconds.items())
    console.result({**told, "json": str(out / "probe.json"), "plot": str(out / "probe.png")}, as_json=False)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One net's features, by block, float32 (N, D) and (M, D); labels (N,) and (M,); and what is asked of them."""

    fitted: "Sequence[torch.Tensor]"
    judged: "Sequence[torch.Tensor]"
    labels: "tuple[torch.Tensor, torch.Tensor]"
    held_out: "torch.Tensor"
    num_classes: int
    k: int


def judge(task: Task, names: Sequence[str], device: "torch.device") -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(accuracy of each block by both ways, as shares of the test images; seconds of both).

    Raises DataError for features that are not finite.
    """
    import torch

    from fracgen.train.probing.classifiers import Scale, fit_best, nearest_guesses
    from fracgen.train.probing.thread_map import beside

    labels, truth = task.labels
    for name, each in zip(names, task.fitted, strict=True):
        if not each.isfinite().all():
            raise DataError(f"features of {name} are not finite; try --precision fp32")

    def linear(number: int) -> tuple[int, float]:
        features = task.fitted[number].to(device)
        fit, l2 = fit_best(features, labels, task.held_out, task.num_classes)
        return int((fit.guess(Scale.of(features)(task.judged[number].to(device))) == truth).sum()), l2

    def knn(number: int) -> int:
        features = task.fitted[number].to(device)
        scale, queries = Scale.of(features), task.judged[number].to(device)
        guesses = nearest_guesses(scale(features), labels, scale(queries), task.num_classes, k=task.k)
        return int((guesses == truth).sum())

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    began = time.perf_counter()
    lines = list(beside(linear, len(names), threads))
    halfway = time.perf_counter()
    neighbours = list(beside(knn, len(names), threads))
    took = {"linear": halfway - began, "knn": time.perf_counter() - halfway}
    blocks = [
        {"block": name, "dim": features.shape[1], "linear": right / len(truth), "knn": near / len(truth), "l2": l2}
        for name, features, (right, l2), near in zip(names, task.fitted, lines, neighbours, strict=True)
    ]
    return blocks, took


def open_starts(settings: Probing) -> "list[Start]":
    """Every checkpoint by its name; then, unless it is not wanted, a random one of each architecture.

    Raises UsageError for names that are given twice, and what `open_start` does.
    """
    from fracgen.train.engine.init_weights import open_start

    starts: list[Start] = []
    for word in settings.checkpoints:
        name, path = named(word)
        start = replace(open_start(path, settings.model), name=name)
        if name in {each.name for each in starts} | {RANDOM}:
            raise UsageError(f"--checkpoint {word}: another is called {name!r}; give names: --checkpoint NAME={path}")
        starts.append(start)
    if not settings.random:
        return starts
    blank: list[Start] = []
    for start in starts:
        alone = replace(start, weights=None)
        if not any(_same(alone, each) for each in [*blank, *(each for each in starts if each.weights is None)]):
            blank.append(alone)
    names = [RANDOM] if len(blank) == 1 else [f"{RANDOM} as {each.name}" for each in blank]
    return starts + [replace(each, name=name) for each, name in zip(blank, names, strict=True)]


def _same(one: "Start", other: "Start") -> bool:
    """Whether two nets that have learned nothing are one."""
    return (one.model, one.size, one.mean, one.std) == (other.model, other.size, other.mean, other.std)


def named(word: str) -> tuple[str, str]:
    """(name, path) of NAME=PATH, or of PATH, which is called by the name of its run, folder or file."""
    name, equals, path = word.partition("=")
    if equals and name and "/" not in name and not Path(word).exists():
        return name, path
    parts = [part for part in Path(word).absolute().parts if part != "model"]
    return Path(parts[-1]).stem if Path(word).is_file() else parts[-1], word


def as_net(start: "Start", settings: Probing, device: "torch.device") -> "Net":
    """The frozen net; what the checkpoint does not hold (nothing, or all of it) is drawn from the seed.

    Raises UsageError for a model without blocks, or without the feature that is asked for; and what `build` does.
    """
    import torch

    from fracgen.train.engine.init_weights import build
    from fracgen.train.probing.features import Net, block_names, choose_feature
    from fracgen.train.seeding import key

    size = settings.size or start.size or _SIZE
    torch.manual_seed(key(settings.seed, "init"))
    model, _ = build(start, num_classes=0, size=size)
    net = Net(
        name=start.name,
        model=model.to(device).eval().requires_grad_(False),
        device=device,
        size=size,
        mean=start.mean or _STATS,
        std=start.std or _STATS,
        feature=choose_feature(model, settings.feature, start.name),
    )
    return replace(net, blocks=block_names(net))


def about(net: "Net", start: "Start") -> dict[str, Any]:
    """What tells the net, in probe.json."""
    return {
        "name": net.name,
        "random": start.weights is None,
        "model": start.model.name,
        "options": dict(start.model.options),
        "size": net.size,
        "mean": list(net.mean),
        "std": list(net.std),
        "feature": net.feature,
    }


if __name__ == "__main__":
    sys.exit(console.run(app, "probe", sys.argv[1:]))
