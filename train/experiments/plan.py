"""A study: a YAML file of variants, and the commands that render, pre-train, fine-tune and compare them."""

import hashlib
import importlib.util
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting, from_plain, parse_yaml, read_text
from fracgen.train.experiments.comparison import SCRATCH, FinetuneCommand, parse_starts
from fracgen.train.experiments.subprocesses import python_command

SizeName = Literal["laptop", "published"]
PHOTO, SET_OF = "PHOTO", "@"
"""Words in a variant's `render`: PHOTO stands for the photograph's path, @NAME for the data set of variant NAME."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is rendered and trained. Paths are relative to the study's file.

    render: words that follow those of each variant. pretrain, finetune: YAML files of settings; "" for the published
    defaults. protocol: of fine-tuning; "published" reports the best test epoch too. per_class: images of each class to
    fine-tune with, a table for each number; none: all. seeds: fine-tuning runs of each variant.
    """

    render: str = ""
    pretrain: str = ""
    finetune: str = ""
    protocol: Literal["honest", "published"] = "honest"
    per_class: tuple[int, ...] = ()
    seeds: int = 3


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a study. One without `pretrain` is not offered."""

    laptop: Size = field(default_factory=Size)
    published: Size = field(default_factory=Size)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One start. render: words of `fracgen`, "" for a start from scratch. pretrain: settings by dotted name.

    size: the sizes at which the variant takes part. published: published accuracies of it in %, by data set.
    Raises UsageError for pre-training without a data set, and for accuracies that are no numbers.
    """

    render: str = ""
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    size: Literal["both", "laptop", "published"] = "both"
    published: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.pretrain and not self.render:
            raise UsageError("pretrain: needs a set to train on; give render")
        for name, value in self.published.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UsageError(f"published.{name} {value!r}: must be a number")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study's file. about: one line for the screen. variants: by name, in the order of the table.

    Differences in the table are from the first variant.
    """

    about: str = ""
    sizes: Sizes = field(default_factory=Sizes)
    variants: Mapping[str, Any] = field(default_factory=dict)


def load_study(path: Path, size_name: SizeName) -> tuple[str, Size, dict[str, Variant]]:
    """(what it is about, the size, its variants by name) of a study's file.

    Raises UsageError with file and key for what is no study, or has no such size.
    """
    values = parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must be a mapping of about, sizes, variants")
    try:
        study = from_plain(Study, values)
        variants = {}
        for name, each in study.variants.items():
            if not isinstance(name, str) or not isinstance(each, Mapping):
                raise UsageError(f"variants.{name}: must be a name, and a mapping")
            variants[name] = _variant(name, each)
            parse_starts([f"{name}={SCRATCH}"])
        size: Size = getattr(study.sizes, size_name)
        if not size.pretrain:
            raise UsageError(f"sizes.{size_name}: is not there, so the study has no such size")
        chosen = {name: each for name, each in variants.items() if each.size in ("both", size_name)}
        if len(chosen) < 2:
            raise UsageError(f"variants: {len(chosen)} of size {size_name}; two or more can be compared")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    size = replace(size, pretrain=_relative_to(path, size.pretrain), finetune=_relative_to(path, size.finetune))
    return study.about, size, chosen


def _variant(name: str, values: Mapping[str, Any]) -> Variant:
    try:
        return from_plain(Variant, values, f"variants.{name}.")
    except UsageError as error:
        text = str(error)
        raise UsageError(text if f"variants.{name}." in text else f"variants.{name}.{text}") from None


def _relative_to(study: Path, name: str) -> str:
    return os.path.normpath(study.parent / name) if name else ""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What the command line adds to a study. pretrain, finetune: overrides NAME=VALUE of the two programs."""

    data: Annotated[
        str,
        Setting(
            "Images to fine-tune on: a folder of class folders, shards, or a timm name such as torch/cifar100.",
            panel="Data",
        ),
    ]
    out: Annotated[Path, Setting("Folder to write everything to, or to resume it from.", panel="Output")]
    photo: Annotated[
        Path | None,
        Setting("Photograph, for studies of one.", default="scikit-image's astronaut", panel="Data"),
    ] = None
    published: Annotated[
        bool, Setting("Run the study at its published size, not at that for a laptop.", panel="Protocol")
    ] = False
    per_class: Annotated[
        tuple[int, ...],
        Setting(
            "Number of training images of each class; repeat for another table.",
            at_least=1,
            default="the study's",
            panel="Protocol",
        ),
    ] = ()
    seeds: Annotated[
        int | None,
        Setting("Fine-tuning runs of each variant.", at_least=1, default="the study's", panel="Protocol"),
    ] = None
    seed: Annotated[
        int | None,
        Setting(
            "Seed of the first fine-tuning run; the others follow.",
            at_least=0,
            default="the recipe's",
            panel="Protocol",
        ),
    ] = None
    launcher: Annotated[
        str,
        Setting(
            "Program that starts training, such as 'torchrun --nproc-per-node 8'.",
            default="this Python",
            panel="Machine",
        ),
    ] = ""
    pretrain: Annotated[tuple[str, ...], Setting("", option="")] = ()
    finetune: Annotated[tuple[str, ...], Setting("", option="")] = ()

    def finetune_command(self, size: Size) -> FinetuneCommand:
        """What train/compare.py will make of the words of the last step."""
        overrides = (f"protocol={size.protocol}", *self.finetune)
        return FinetuneCommand(config=size.finetune or None, overrides=overrides, data=self.data, model=None)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command of a study. product: a file that exists when it has ended.

    key: sha256 (hex) of its words, input files and the steps before it: of an equal key, the product is the same.
    """

    name: str
    argv: tuple[str, ...]
    product: Path
    key: str = ""


def plan_steps(size: Size, variants: Mapping[str, Variant], options: StudyOptions) -> list[Step]:
    """The commands in order: all rendering, then all pre-training, then the comparison.

    Variants of equal `render` share a data set. Raises UsageError for words and files that do not exist.
    """
    rendering: dict[str, Step] = {}
    pretraining: dict[str, Step] = {}
    for name, variant in variants.items():
        if variant.render:
            same = next((other for other in rendering if variants[other].render == variant.render), None)
            step = rendering[same] if same else _render_step(name, variant, size, options, rendering)
            rendering[name] = step
            pretraining[name] = _pretrain_step(name, variant, size, options, step)
    return [
        *dict.fromkeys(rendering.values()),
        *pretraining.values(),
        _compare_step(size, variants, options, pretraining),
    ]


def _render_step(name: str, variant: Variant, size: Size, options: StudyOptions, rendering: Mapping[str, Step]) -> Step:
    words: list[str] = []
    inputs: list[Path] = []
    before: list[Step] = []
    for word in shlex.split(f"{variant.render} {size.render}"):
        if word == PHOTO:
            inputs.append(options.photo or _astronaut())
            words.append(str(inputs[-1]))
        elif word.startswith(SET_OF):
            if (other := word.removeprefix(SET_OF)) not in rendering:
                raise UsageError(f"variants.{name}.render {word}: {other!r} is no variant before it that has a set")
            before.append(rendering[other])
            words.append(str(rendering[other].product.parent))
        else:
            words.append(word)
    out = options.out / "data" / name
    argv = (sys.executable, "-m", "fracgen", *words, "--out", str(out))
    return _step(f"render {name}", argv, out / "dataset.json", inputs, *before)


def _pretrain_step(name: str, variant: Variant, size: Size, options: StudyOptions, rendered: Step) -> Step:
    out = options.out / "pretrained" / name
    argv = [*python_command("pretrain", shlex.split(options.launcher)), "--config", size.pretrain]
    argv += ["--shards", str(rendered.product.parent), "--out", str(out), *options.pretrain]
    argv += [f"{key}={json.dumps(value)}" for key, value in variant.pretrain.items()]
    return _step(f"pre-train {name}", argv, out / "model" / "config.json", [Path(size.pretrain)], rendered)


def _compare_step(
    size: Size, variants: Mapping[str, Variant], options: StudyOptions, pretraining: Mapping[str, Step]
) -> Step:
    out, seeds = options.out / "compare", options.seeds or size.seeds
    argv = [*python_command("compare"), "--data", options.data, "--out", str(out), "--seeds", str(seeds)]
    argv += ["--seed", str(options.seed)] if options.seed is not None else []
    argv += ["--config", size.finetune] if size.finetune else []
    for name in variants:
        checkpoint = str(pretraining[name].product.parents[1]) if name in pretraining else SCRATCH
        argv += ["--start", f"{name}={checkpoint}"]
    for per_class in options.per_class or size.per_class:
        argv += ["--per-class", str(per_class)]
    argv += ["--launcher", options.launcher] if options.launcher else []
    argv += options.finetune_command(size).overrides
    inputs = [Path(size.finetune)] if size.finetune else []
    return _step("fine-tune", argv, out / "compare.json", inputs, *pretraining.values())


def _step(name: str, argv: Sequence[str], product: Path, inputs: Sequence[Path], *before: Step) -> Step:
    key = hashlib.sha256("\0".join([*argv, *(step.key for step in before)]).encode())
    for path in inputs:
        if not path.is_file():
            raise UsageError(f"{path}: no such file, which '{name}' needs")
        key.update(path.read_bytes())
    return Step(name=name, argv=tuple(argv), product=product, key=key.hexdigest())


def _astronaut() -> Path:
    """scikit-image's photograph in the public domain. Raises UsageError where it is not installed."""
    spec = importlib.util.find_spec("skimage")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / "data" / "astronaut.png" if folders else None
    if path is None or not path.is_file():
        raise UsageError("--photo: give a photograph; or pip install scikit-image, which brings one")
    return path
