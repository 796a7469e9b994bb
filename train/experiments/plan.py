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
from typing import Any, Literal

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import from_plain, parse_yaml, read_text
from fracgen.train.experiments.children import python
from fracgen.train.experiments.comparison import SCRATCH, Recipe, parse_starts

SizeName = Literal["laptop", "published"]
PHOTO, FOLDER = "PHOTO", "@"
"""Words in a variant's `render`: PHOTO stands for the photograph's path, @NAME for the set of an earlier variant."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is. Paths are relative to the study's file.

    render: words that follow those of each variant. pretrain, finetune: YAML files of settings; "" for the published
    defaults. protocol: of fine-tuning; published has the best test epoch beside the last one. per_class: images of each
    class to fine-tune with, a table for each; none: all. seeds: of fine-tuning.
    """

    render: str = ""
    pretrain: str = ""
    finetune: str = ""
    protocol: Literal["honest", "published"] = "honest"
    per_class: tuple[int, ...] = ()
    seeds: int = 3


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Those that a study has; one without `pretrain` it has not."""

    laptop: Size = field(default_factory=Size)
    published: Size = field(default_factory=Size)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One start. render: words of `fracgen`, "" for a start from scratch. pretrain: settings by dotted name.

    size: where it is one of the variants. published: accuracies in % that were published for it, by data set.
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
    """about: one line for the screen. variants: by name, in the order of the table; the first is compared with."""

    about: str = ""
    sizes: Sizes = field(default_factory=Sizes)
    variants: Mapping[str, Any] = field(default_factory=dict)


def load_study(path: Path, size: SizeName) -> tuple[str, Size, dict[str, Variant]]:
    """A study at one of its sizes: what it is about, the size, its variants by name.

    Raises UsageError with the file and the key for what is none, or has no such size.
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
        chosen: Size = getattr(study.sizes, size)
        if not chosen.pretrain:
            raise UsageError(f"sizes.{size}: is not there, so the study has no such size")
        shown = {name: each for name, each in variants.items() if each.size in ("both", size)}
        if len(shown) < 2:
            raise UsageError(f"variants: {len(shown)} of size {size}; two or more can be compared")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    beside = {"pretrain": chosen.pretrain, "finetune": chosen.finetune}
    return study.about, replace(chosen, **{key: _beside(path, name) for key, name in beside.items()}), shown  # type: ignore[arg-type]


def _variant(name: str, values: Mapping[str, Any]) -> Variant:
    try:
        return from_plain(Variant, values, f"variants.{name}.")
    except UsageError as error:
        text = str(error)
        raise UsageError(text if f"variants.{name}." in text else f"variants.{name}.{text}") from None


def _beside(path: Path, name: str) -> str:
    return os.path.normpath(path.parent / name) if name else ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user adds to a study. per_class, seeds: in place of the study's; none and 0: those stand."""

    data: str
    out: Path
    photo: Path | None = None
    per_class: tuple[int, ...] = ()
    seeds: int = 0
    launcher: str = ""
    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()

    def recipe(self, size: Size) -> Recipe:
        """That of fine-tuning, as the comparison will read it."""
        overrides = (f"protocol={size.protocol}", *self.finetune)
        return Recipe(config=size.finetune or None, overrides=overrides, data=self.data, model=None)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command. product: what is there when it has ended. key: of all that its product depends on, as far as known."""

    name: str
    words: tuple[str, ...]
    product: Path
    key: str = ""


def plan(size: Size, variants: Mapping[str, Variant], asked: Asked) -> list[Step]:
    """The commands in order: all sets, then all pre-training, then the comparison. A set is rendered once."""
    sets: dict[str, Step] = {}
    trained: dict[str, Step] = {}
    for name, variant in variants.items():
        if variant.render:
            same = next((each for each in sets if variants[each].render == variant.render), None)
            sets[name] = sets[same] if same else _render(name, variant, size, asked, sets)
            trained[name] = _pretrain(name, variant, size, asked, sets[name])
    return [*dict.fromkeys(sets.values()), *trained.values(), _compare(size, variants, asked, trained)]


def _render(name: str, variant: Variant, size: Size, asked: Asked, sets: Mapping[str, Step]) -> Step:
    words, inputs, before = [], [], []
    for word in shlex.split(f"{variant.render} {size.render}"):
        if word == PHOTO:
            inputs.append(asked.photo or _astronaut())
            words.append(str(inputs[-1]))
        elif word.startswith(FOLDER):
            if (other := word.removeprefix(FOLDER)) not in sets:
                raise UsageError(f"variants.{name}.render {word}: {other!r} is no variant before it that has a set")
            before.append(sets[other])
            words.append(str(sets[other].product.parent))
        else:
            words.append(word)
    out = asked.out / "data" / name
    command = (sys.executable, "-m", "fracgen", *words, "--out", str(out))
    return _step(f"render {name}", command, out / "dataset.json", inputs, *before)


def _pretrain(name: str, variant: Variant, size: Size, asked: Asked, rendered: Step) -> Step:
    out = asked.out / "pretrained" / name
    words = [*python("pretrain", shlex.split(asked.launcher)), "--config", size.pretrain]
    words += ["--shards", str(rendered.product.parent), "--out", str(out), *asked.pretrain]
    words += [f"{key}={json.dumps(value)}" for key, value in variant.pretrain.items()]
    return _step(f"pre-train {name}", words, out / "model" / "config.json", [Path(size.pretrain)], rendered)


def _compare(size: Size, variants: Mapping[str, Variant], asked: Asked, trained: Mapping[str, Step]) -> Step:
    out = asked.out / "compare"
    words = [*python("compare"), "--data", asked.data, "--out", str(out), "--seeds", str(asked.seeds or size.seeds)]
    words += ["--config", size.finetune] if size.finetune else []
    for name in variants:
        where = str(trained[name].product.parents[1]) if name in trained else "none"
        words += ["--start", f"{name}={where}"]
    for few in asked.per_class or size.per_class:
        words += ["--per-class", str(few)]
    words += ["--launcher", asked.launcher] if asked.launcher else []
    words += asked.recipe(size).overrides
    inputs = [Path(size.finetune)] if size.finetune else []
    return _step("fine-tune", words, out / "compare.json", inputs, *trained.values())


def _step(name: str, words: Sequence[str], product: Path, inputs: Sequence[Path], *before: Step) -> Step:
    key = hashlib.sha256("\0".join([*words, *(step.key for step in before)]).encode())
    for path in inputs:
        if not path.is_file():
            raise UsageError(f"{path}: no such file, which '{name}' needs")
        key.update(path.read_bytes())
    return Step(name=name, words=tuple(words), product=product, key=key.hexdigest())


def _astronaut() -> Path:
    """scikit-image's photograph in the public domain. Raises UsageError where it is not installed."""
    found = importlib.util.find_spec("skimage")
    places = found.submodule_search_locations if found is not None else None
    path = Path(places[0]) / "data" / "astronaut.png" if places else None
    if path is None or not path.is_file():
        raise UsageError("--photo: give a photograph; or pip install scikit-image, which brings one")
    return path
