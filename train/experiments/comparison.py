"""The runs of a comparison: fine-tuning from several starts under the same settings and over the same seeds.

A start is a name for the weights that a run begins with. A run is a folder OUT/[per-class-N/]START/seed-K.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fracgen.shards.errors import UsageError
from fracgen.train.config import load
from fracgen.train.engine.settings import Model
from fracgen.train.experiments.finetuning import Finetuning

if TYPE_CHECKING:
    from fracgen.train.data.splits import Splits

SCRATCH = "none"
"""The path that stands for no weights at all."""
RESERVED_PREFIXES = ("per-class-", "seed-", "compare.")
"""Names in the folder of a comparison that are no start's."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_PER_RUN_SETTINGS = {"data": "--data", "checkpoint": "--start", "per_class": "--per-class", "run.seed": "--seed"}


@dataclass(frozen=True, kw_only=True)
class FinetuneCommand:
    """The words for train/finetune.py that all runs share: a YAML file, overrides NAME=VALUE, where the images are.

    model: name of a timm model, for starts that do not name theirs.
    Raises UsageError for overrides of settings that differ from run to run.
    """

    config: str | None
    overrides: tuple[str, ...]
    data: str
    model: str | None

    def __post_init__(self) -> None:
        """Refuse overrides of what differs from run to run."""
        for override in self.overrides:
            name = override.partition("=")[0]
            if name in _PER_RUN_SETTINGS:
                raise UsageError(f"{override}: differs from run to run; give {_PER_RUN_SETTINGS[name]}")

    def settings(self, options_given: Mapping[str, Any]) -> Finetuning:
        """The settings that train/finetune.py makes of these words and further options, by dotted name.

        Raises UsageError for what it refuses.
        """
        settings = load(Finetuning, self.config, {"data": self.data, **options_given}, list(self.overrides))
        if not settings.data:
            raise UsageError("--data: give an image folder, shards, or a name that timm knows, as torch/cifar100")
        return settings


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """One fine-tuning run. per_class: training images of each class, 0 for the command's own number.

    checkpoint: path of the start's weights, or "none". model: the architecture, for checkpoints that do not say it.
    path: folder of the run.
    """

    start: str
    checkpoint: str
    seed: int
    per_class: int
    model: Model | None = field(hash=False)
    path: Path

    @property
    def title(self) -> str:
        """The run in words, for messages."""
        suffix = f", {self.per_class} images a class" if self.per_class else ""
        return f"{self.start}, seed {self.seed}{suffix}"

    def argv(self, command: FinetuneCommand) -> list[str]:
        """The words for train/finetune.py."""
        argv = ["--config", command.config] if command.config is not None else []
        argv += ["--data", command.data] if command.data else []
        argv += ["--checkpoint", self.checkpoint, "--seed", str(self.seed), "--out", str(self.path)]
        argv += ["--per-class", str(self.per_class)] if self.per_class else []
        argv += ["--model", self.model.name] if self.model else []
        if self.model and self.model.options:
            argv.append(f"model.options={json.dumps(dict(self.model.options))}")
        return [*argv, *command.overrides]

    def settings(self, command: FinetuneCommand) -> Finetuning:
        """The settings that these words stand for."""
        values: dict[str, Any] = {"checkpoint": self.checkpoint, "run.seed": self.seed}
        values |= {"per_class": self.per_class} if self.per_class else {}
        if self.model:
            values |= {"model.name": self.model.name}
            values |= {"model.options": dict(self.model.options)} if self.model.options else {}
        return command.settings(values)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Starts to compare (path of the weights by name; the first is compared with), seeds, numbers of images a class.

    per_class: a table for each number; 0 is the command's own. out: folder of all runs. model: as in FinetuneRun.
    """

    command: FinetuneCommand
    starts: Mapping[str, str]
    seeds: Sequence[int]
    per_class: Sequence[int]
    out: Path
    model: Model | None

    def runs(self) -> list[FinetuneRun]:
        """Every run, seed by seed over the starts, so that a comparison that stops early has whole seeds to compare."""
        return [
            FinetuneRun(
                start=name,
                checkpoint=checkpoint,
                seed=seed,
                per_class=per_class,
                model=None if Path(checkpoint).is_dir() else self.model,
                path=(self.out / f"per-class-{per_class}" if per_class else self.out) / name / f"seed-{seed}",
            )
            for seed in self.seeds
            for per_class in self.per_class
            for name, checkpoint in self.starts.items()
        ]


def parse_starts(words: Sequence[str]) -> dict[str, str]:
    """Paths by name, from words NAME=PATH.

    Raises UsageError for other words, names that cannot be a folder's, and names that come twice.
    """
    starts: dict[str, str] = {}
    for word in words:
        name, _, checkpoint = word.partition("=")
        if not checkpoint:
            raise UsageError(f"--start {word}: give NAME=WHERE, as scratch=none or 1p-frac=runs/1p-frac")
        if not _NAME.fullmatch(name) or name.startswith(RESERVED_PREFIXES):
            raise UsageError(f"--start {word}: {name!r} is to name a folder; letters, digits, - and _ do")
        if name in starts:
            raise UsageError(f"--start {name}: is given twice")
        starts[name] = checkpoint
    if not starts:
        raise UsageError("--start: give NAME=WHERE, once or more, as scratch=none")
    return starts


def plan_comparison(
    command: FinetuneCommand, starts: Mapping[str, str], *, seeds: Sequence[int], per_class: Sequence[int], out: Path
) -> Comparison:
    """The comparison, after every start and the images were opened: what would fail a later run is refused now.

    A start that is no folder gets the architecture that the command names, else that of the first start with one.
    Raises UsageError for what is missing or cannot be compared.
    """
    from fracgen.train.engine.init_weights import build, load_init

    settings = command.settings({"model.name": command.model})
    model: Model | None = None
    if command.model:
        model = Model(name=command.model)
    elif not settings.model.name:
        checkpoints = sorted(
            (path for path in starts.values() if path != SCRATCH), key=lambda path: not Path(path).is_dir()
        )
        if not checkpoints:
            raise UsageError("--model: give the architecture; every start is 'none', and the recipe names no model")
        model = load_init(checkpoints[0], settings.model).model
    num_classes = check_data(command, per_class)
    comparison = Comparison(command=command, starts=starts, seeds=seeds, per_class=per_class, out=out, model=model)
    for run in {run.start: run for run in comparison.runs()}.values():
        settings = run.settings(command)
        init = load_init(run.checkpoint, settings.model)
        build(init, num_classes=num_classes, size=settings.augment.size, keep_head=settings.keep_head)
    return comparison


def check_data(command: FinetuneCommand, per_class: Sequence[int]) -> int:
    """The number of classes.

    Raises UsageError where images are missing, too few, or without a split to report on.
    """
    settings = command.settings({})
    splits = open_run_splits(replace(settings, per_class=max(per_class, default=0) or settings.per_class))
    if splits.test is None and settings.protocol == "published":
        raise UsageError(f"{settings.data}: has no test split, on which protocol=published chooses; give test=FOLDER")
    if splits.test is None and splits.val is None:
        raise UsageError(f"{settings.data}: has no split to report on; give test=FOLDER, or val=FOLDER")
    return len(splits.train.class_names)


def open_run_splits(settings: Finetuning) -> "Splits":
    """The splits that train/finetune.py opens for these settings."""
    from fracgen.train.data.splits import open_splits

    return open_splits(
        settings.data,
        val=settings.val,
        test=settings.test,
        num_classes=settings.num_classes,
        root=settings.root,
        val_share=0.0 if settings.protocol == "published" else settings.val_share,
        per_class=settings.per_class,
        seed=settings.run.seed,
        skip_bad=settings.loader.skip_bad,
    )
