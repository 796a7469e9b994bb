"""The runs of a comparison: fine-tuning from several starts under the same settings and over the same seeds.

A start is a name for the weights that a run begins with. A run is a folder OUT/[per-class-N/]START/seed-K.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from fracgen.shards.errors import UsageError
from fracgen.shards.files import ONLY_LOCAL
from fracgen.shards.settings import Setting, nearest
from fracgen.shards.urls import is_url
from fracgen.train.cli import say
from fracgen.train.config import load
from fracgen.train.engine.settings import CLOSED_FORMS, SCRATCH, TIMM, Log, Model
from fracgen.train.experiments.finetuning import Finetuning, splits_of

RESERVED_PREFIXES = ("per-class-", "seed-", "compare.")
"""Names in the folder of a comparison that are no start's."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_OPTIONS = {
    "checkpoint": "--checkpoint",
    "run.seed": "--seed",
    "model.init": "--init",
    "per_class": "--per-class",
    "model.name": "--model",
}
"""Options of train/finetune.py by setting."""
_PER_RUN_SETTINGS = {"data": "--data", "checkpoint": "--start", "per_class": "--per-class", "run.seed": "--seed"}

Starts = Annotated[
    tuple[str, ...],
    Setting(
        "Name of a start, and its weights: a --checkpoint of finetune, mimetic or impulse; repeat for more.",
        metavar="NAME=WHERE",
        panel="Networks",
    ),
]
ModelOfStarts = Annotated[
    str | None,
    Setting("timm model of starts that name none.", default="that of the first start that names one", panel="Networks"),
]
NumSeeds = Annotated[int, Setting("Runs of each start, of consecutive seeds.", at_least=1, panel="Protocol")]
LogOfRuns = Annotated[
    Log, Setting("Where each training is logged too; all are one group, of --out's name.", panel="Output")
]


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

    def settings(self, extra: Mapping[str, Any]) -> Finetuning:
        """The settings that train/finetune.py makes of these words and further options, by dotted name.

        An option that is None counts as left out. Raises UsageError for what train/finetune.py refuses, and for initial
        weights of a recipe or an override, which would be those of all starts from scratch, whatever they are called.
        """
        values = {name: value for name, value in {"data": self.data, **extra}.items() if value is not None}
        settings = load(Finetuning, self.config, values, list(self.overrides))
        if (init := settings.model.init) != values.get("model.init", "default"):
            raise UsageError(f"model.init={init}: differs from run to run; give --start {init}={init}")
        if not settings.data:
            raise UsageError(
                "--data: give an image folder, a table, shards, or a name that timm knows, as torch/cifar100"
            )
        return settings


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """One fine-tuning run. per_class: training images of each class, 0 for the command's own number.

    source: the start's weights as a path or timm:NAME, "none", or one of CLOSED_FORMS. path: folder of the run.
    """

    start: str
    source: str
    seed: int
    per_class: int
    path: Path

    @property
    def title(self) -> str:
        """The run in words, for messages."""
        suffix = f", {self.per_class} images a class" if self.per_class else ""
        return f"{self.start}, seed {self.seed}{suffix}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Starts to compare (where their weights lie, by name; the first is compared with), seeds, numbers of images.

    per_class: a table for each number of images a class; 0 is the command's own. out: folder of all runs.
    """

    command: FinetuneCommand
    starts: Mapping[str, str]
    seeds: Sequence[int]
    per_class: Sequence[int]
    out: Path

    def runs(self) -> list[FinetuneRun]:
        """Every run, seed by seed over the starts, so that a comparison that stops early has whole seeds to compare."""
        return [
            FinetuneRun(
                start=name,
                source=source,
                seed=seed,
                per_class=per_class,
                path=(self.out / f"per-class-{per_class}" if per_class else self.out) / name / f"seed-{seed}",
            )
            for seed in self.seeds
            for per_class in self.per_class
            for name, source in self.starts.items()
        ]

    @cached_property
    def model(self) -> Model | None:
        """The architecture of starts that are no folder: the command's, else that of the first folder or file.

        None where the recipe names it. The weights of that start must be there by then.
        Raises UsageError where nothing says it.
        """
        from fracgen.train.engine.init_weights import load_init

        if self.command.model:
            return Model(name=self.command.model)
        settings = self.command.settings({})
        if settings.model.name:
            return None
        paths = [source for source in self.starts.values() if source not in (SCRATCH, *CLOSED_FORMS)]
        if not paths:
            raise UsageError("--model: give the architecture; no start has weights, and the recipe names no model")
        model = load_init(min(paths, key=lambda path: not _names_its_model(path)), settings.model).model
        return Model(name=model.name, options=model.options)

    def argv(self, run: FinetuneRun) -> list[str]:
        """The words for train/finetune.py."""
        argv = ["--config", self.command.config] if self.command.config is not None else []
        argv += ["--data", self.command.data] if self.command.data else []
        for name, value in self._values(run).items():
            argv += [_OPTIONS[name], str(value)] if name in _OPTIONS else [f"{name}={json.dumps(value)}"]
        return [*argv, "--out", str(run.path), *self.command.overrides]

    def settings(self, run: FinetuneRun) -> Finetuning:
        """The settings that these words stand for."""
        return self.command.settings(self._values(run))

    def _values(self, run: FinetuneRun) -> dict[str, Any]:
        """The run's own settings by dotted name."""
        is_init, model = run.source in CLOSED_FORMS, self._model_of(run)
        values: dict[str, Any] = {"checkpoint": SCRATCH if is_init else run.source, "run.seed": run.seed}
        values |= {"model.init": run.source} if is_init else {}
        values |= {"per_class": run.per_class} if run.per_class else {}
        values |= {"model.name": model.name} if model else {}
        return values | ({"model.options": dict(model.options)} if model and model.options else {})

    def _model_of(self, run: FinetuneRun) -> Model | None:
        return None if _names_its_model(run.source) else self.model


def _names_its_model(source: str) -> bool:
    """Whether a start is of an architecture of its own: a folder of weights, or weights that timm knows by name."""
    return source not in CLOSED_FORMS and (source.startswith(TIMM) or Path(source).is_dir())


def log_overrides(log: Log, group: str) -> tuple[str, ...]:
    """The overrides by which every run is logged, in one group."""
    return () if log == "none" else (f"run.log={log}", f"run.log_group={json.dumps(group)}")


def is_folder_name(name: str) -> bool:
    """Whether a start or a task can be called so: it names a folder of runs."""
    return bool(_NAME.fullmatch(name)) and not name.startswith(RESERVED_PREFIXES)


def parse_starts(words: Sequence[str]) -> dict[str, str]:
    """Where the weights lie by name, from words NAME=WHERE.

    Raises UsageError for other words, names that cannot be a folder's, and names that come twice.
    """
    starts: dict[str, str] = {}
    for word in words:
        name, _, checkpoint = word.partition("=")
        if not checkpoint:
            raise UsageError(f"--start {word}: give NAME=WHERE, as scratch=none or 1p-frac=runs/1p-frac")
        if not is_folder_name(name):
            raise UsageError(f"--start {word}: {name!r} is to name a folder; letters, digits, - and _ do")
        if name in starts:
            raise UsageError(f"--start {name}: is given twice")
        if is_url(checkpoint):
            raise UsageError(f"--start {word}: {ONLY_LOCAL}")
        known = (SCRATCH, *CLOSED_FORMS)
        if checkpoint not in known and not Path(checkpoint).exists() and (hint := nearest(checkpoint, known)):
            raise UsageError(f"--start {word}: no such file or folder{hint}")
        starts[name] = checkpoint
    if not starts:
        raise UsageError("--start: give NAME=WHERE, once or more, as scratch=none")
    return starts


def plan_comparison(
    command: FinetuneCommand, starts: Mapping[str, str], *, seeds: Sequence[int], per_class: Sequence[int], out: Path
) -> Comparison:
    """The comparison, after every start and the images were opened: what would fail a later run is refused now.

    Raises UsageError for what is missing or cannot be compared.
    """
    from fracgen.train.engine.build import build
    from fracgen.train.engine.init_weights import load_init

    comparison = Comparison(command=command, starts=starts, seeds=seeds, per_class=per_class, out=out)
    _ = comparison.model
    num_classes = check_data(command, per_class)
    for run in {run.start: run for run in comparison.runs()}.values():
        settings = comparison.settings(run)
        init = load_init(settings.checkpoint, settings.model)
        build(init, num_classes=num_classes, size=settings.augment.size, keep_head=settings.keep_head)
        if warning := init.normalisation_warning(settings.augment.mean, settings.augment.std):
            say({"warning": warning})
    return comparison


def check_data(command: FinetuneCommand, per_class: Sequence[int]) -> int:
    """The number of classes.

    Raises UsageError where images are missing, too few, or without a split to report on.
    """
    settings = command.settings({})
    splits = splits_of(replace(settings, per_class=max(per_class, default=0) or settings.per_class))
    if splits.test is None and settings.protocol == "published":
        raise UsageError(f"{settings.data}: has no test split, on which protocol=published chooses; give test=FOLDER")
    if splits.test is None and splits.val is None:
        raise UsageError(f"{settings.data}: has no split to report on; give test=FOLDER, or val=FOLDER")
    return len(splits.train.class_names)
