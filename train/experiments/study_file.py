"""A study's file: YAML of sizes and variants."""

import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting, from_plain, parse_yaml, read_text
from fracgen.train.engine.settings import SCRATCH, Init
from fracgen.train.experiments.comparison import parse_starts

SizeName = Literal["laptop", "published"]
Program = Literal["pretrain", "mae", "dyck"]
"""The protocols of pre-training, by their scripts."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is rendered and trained. Paths are relative to the study's file.

    render: words that follow those of each variant. pretrain, finetune: YAML files of settings; "" for the published
    defaults. protocol: of fine-tuning; "published" reports the best test epoch too. per_class: images of each class to
    fine-tune with, a table for each number; none: all. seeds: fine-tuning runs of each start.
    bases: starts of each variant that has a set. With several, set b is rendered with --seed b and pre-trained on with
    run.seed=b, from 0 on; with one, both are as the words and settings say.
    """

    render: str = ""
    pretrain: str = ""
    finetune: str = ""
    protocol: Literal["honest", "published"] = "honest"
    per_class: tuple[int, ...] = ()
    seeds: Annotated[int, Setting("", at_least=1)] = 3
    bases: Annotated[int, Setting("", at_least=1)] = 1

    def __post_init__(self) -> None:
        """Raises UsageError where `render` is not words."""
        _check_words("render", self.render)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a study. One without `pretrain` is not offered."""

    laptop: Size = field(default_factory=Size)
    published: Size = field(default_factory=Size)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table. render: words of `fracgen` for the set to pre-train on; "": none, fine-tuned from scratch.

    init: initial weights, of pre-training where there is one, else of fine-tuning. pretrain: settings by dotted name.
    program: what pre-trains; `dyck` has no set. config: its YAML file, "": of `pretrain` the size's, of others the
    published defaults. after: the variant before it whose weights pre-training begins with.
    size: the sizes at which the variant takes part. published: published accuracies of it in %, by data set.
    Raises UsageError for pre-training without a data set, and for accuracies that are no numbers.
    """

    render: str = ""
    init: Init = "default"
    program: Program = "pretrain"
    config: str = ""
    after: str = ""
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    size: Literal["both", "laptop", "published"] = "both"
    published: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.program == "dyck" and (self.render or self.after):
            raise UsageError("program dyck: trains on sequences, and from scratch; leave out render and after")
        needing = (
            "program"
            if self.program == "mae"
            else next((name for name in ("pretrain", "config", "after") if getattr(self, name)), "")
        )
        if needing and not self.is_trained:
            raise UsageError(f"{needing}: needs a set to train on; give render")
        if self.after and self.init != "default":
            raise UsageError("init: is given beside after, whose weights take its place")
        if self.init != "default" and "model.init" in self.pretrain:
            raise UsageError("init: is given twice, as init and as pretrain.model.init")
        _check_words("render", self.render)
        for name, value in self.published.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UsageError(f"published.{name} {value!r}: must be a number")

    @property
    def is_trained(self) -> bool:
        """Whether there is a pre-training."""
        return bool(self.render) or self.program == "dyck"


def _check_words(name: str, text: str) -> None:
    """Raises UsageError where a shell could not part the words of a text."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{name} {text!r}: {error}") from None


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
            variant = _variant(name, each)
            variants[name] = replace(variant, config=_relative_to(path, variant.config))
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
