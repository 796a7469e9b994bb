"""A suite's file: YAML of tasks, of the two protocols, and of published accuracies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fracgen.shards.errors import UsageError
from fracgen.shards.files import check_local
from fracgen.shards.settings import Setting, from_plain, nearest, parse_yaml, read_text, to_plain
from fracgen.train.data.split_rules import check_rule
from fracgen.train.experiments.comparison import is_folder_name
from fracgen.train.experiments.finetuning import Finetuning, Metric

ProtocolName = Literal["honest", "published"]
SUITES = Path(__file__).parent / "suites"
"""Where the suites lie that are given by name."""
ALL = "all"
"""The mean over the tasks of all groups."""
_OWN = ("checkpoint", "data", "split", "val", "test", "root", "num_classes", "per_class", "metric")
"""Settings of fine-tuning that a suite's tasks, starts and seeds say."""
_LENGTHS = ("steps", "samples", "epochs")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set. data: what `--data` takes; a path is below the command's --root.

    get: how its images are had, for those who lack them. about: what is worth a word. classes: their number.
    images: published numbers of them by "train", "val" and "test", beside which what is read stands.
    group: of the tasks that a mean is taken of; in_mean: whether this one counts. metric: as of fine-tuning.
    split: see `split_rules`; a path is relative to the suite's file. finetune: settings that differ from the suite's.
    """

    data: str
    classes: Annotated[int, Setting("", at_least=2)]
    get: str = ""
    about: str = ""
    images: Mapping[str, int] = field(default_factory=dict)
    group: str = "mean"
    in_mean: bool = True
    metric: Metric = "accuracy"
    split: Any = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a task is trained and scored. train_on: whether the split's validation images are trained on too.

    finetune: settings over those of suite and task.
    """

    about: str = ""
    train_on: Literal["train", "train+val"] = "train"
    finetune: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Protocols:
    """Both protocols of a suite."""

    honest: Protocol = field(default_factory=Protocol)
    published: Protocol = field(default_factory=Protocol)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A column of published accuracies in %. source: where they stand, and how they were had.

    tasks: by name of the task. means: by group, or "all".
    """

    source: str
    tasks: Mapping[str, float] = field(default_factory=dict)
    means: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite's file. name: of the suite, or of the file without its ending. finetune: settings of all tasks.

    tasks: by name, in the order of the table. published: columns by name.
    """

    name: str = ""
    about: str = ""
    finetune: Mapping[str, Any] = field(default_factory=dict)
    protocols: Protocols = field(default_factory=Protocols)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)

    def settings(self, task: Task, protocol: ProtocolName, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Settings of fine-tuning as a YAML file has them: the suite's, over these the task's, then the protocol's.

        base: takes the place of the suite's own. A length in one unit takes the place of one in another.
        Raises UsageError for what is no setting of fine-tuning.
        """
        chosen: Protocol = getattr(self.protocols, protocol)
        values = dict(self.finetune if base is None else base)
        for layer in (task.finetune, chosen.finetune):
            values = _over(values, layer)
        from_plain(Finetuning, _over(to_plain(Finetuning()), values))
        if own := [name for name in _OWN if name in values]:
            raise UsageError(f"finetune.{own[0]}: is not the suite's to say; the task, the start or the command does")
        return values

    def choose(self, names: Sequence[str]) -> list[str]:
        """These tasks in the suite's order; all, where none is named. Raises UsageError for a task that it has not."""
        for name in names:
            if name not in self.tasks:
                hint = nearest(name, self.tasks)
                raise UsageError(f"{name}: no such task in {self.name}{hint}; there are {', '.join(self.tasks)}")
        return [name for name in self.tasks if name in names or not names]

    def groups(self) -> dict[str, list[str]]:
        """The tasks that each mean is taken of, by group; by "all" too where there are several groups."""
        groups: dict[str, list[str]] = {}
        for name, task in self.tasks.items():
            if task.in_mean:
                groups.setdefault(task.group, []).append(name)
        return groups | ({ALL: [name for names in groups.values() for name in names]} if len(groups) > 1 else {})


def _over(values: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer of settings over values, group by group."""
    merged = dict(values)
    for name, value in layer.items():
        inner = merged.get(name)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            if name == "schedule" and any(length in value for length in _LENGTHS):
                inner = {key: each for key, each in inner.items() if key not in _LENGTHS}
            merged[name] = _over(inner, value)
        else:
            merged[name] = value
    return merged


def refuse_own(overrides: Sequence[str]) -> None:
    """Raises UsageError for an override NAME=VALUE of what a suite's tasks, or other options, say."""
    for override in overrides:
        if (name := override.partition("=")[0]) in (*_OWN, "protocol", "run.seed"):
            mend = {"protocol": "give --protocol", "checkpoint": "give --start", "run.seed": "give --seed"}
            mend |= dict.fromkeys(("data", "root"), f"give --{name}")
            raise UsageError(f"{override}: {mend.get(name, 'the tasks say it; change it in a suite file of your own')}")


def find_suite(name: str) -> Path:
    """The file of a suite: one that is shipped, by name, or a path. Raises UsageError where there is none."""
    check_local(name)
    path = Path(name)
    shipped = sorted(each.stem for each in SUITES.glob("*.yaml"))
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise UsageError(f"{name}: no such file of a suite; by name there are {', '.join(shipped)}")
        return path
    if name not in shipped:
        raise UsageError(f"{name}: no such suite{nearest(name, shipped)}; there are {', '.join(shipped)}, or FILE.yaml")
    return SUITES / f"{name}.yaml"


def load_suite(path: Path) -> Suite:
    """A suite. Raises UsageError with file and key for what is none."""
    values = parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must be a mapping of about, finetune, protocols, tasks, published")
    try:
        suite = _build(values, path)
        for name, task in suite.tasks.items():
            for protocol in ("honest", "published"):
                _in(f"tasks.{name}", suite.settings, task, protocol)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return suite


def _build(values: Mapping[str, Any], path: Path) -> Suite:
    parts: dict[str, Any] = {key: values[key] for key in ("tasks", "published") if values.get(key) is not None}
    for key, each in parts.items():
        if not isinstance(each, Mapping):
            raise UsageError(f"{key}: must be a mapping by name")
    tasks = {str(name): _task(str(name), each, path) for name, each in parts.get("tasks", {}).items()}
    if not tasks:
        raise UsageError("tasks: give one or more")
    columns = {}
    for name, each in parts.get("published", {}).items():
        column = _in(f"published.{name}", from_plain, Published, each)
        _check_published(f"published.{name}", column, tasks)
        columns[str(name)] = column
    rest = {key: value for key, value in values.items() if key not in parts}
    return from_plain(Suite, {"name": path.stem, **rest, "tasks": tasks, "published": columns})


def _task(name: str, values: Any, path: Path) -> Task:
    if not is_folder_name(name) or name.startswith("suite"):
        raise UsageError(f"tasks.{name}: is to name a folder; letters, digits, - and _ do, and not 'suite...'")
    task: Task = _in(f"tasks.{name}", from_plain, Task, values)
    for role in task.images:
        if role not in ("train", "val", "test"):
            raise UsageError(f"tasks.{name}.images.{role}: no split; there are train, val and test")
    if task.group == ALL:
        raise UsageError(f"tasks.{name}.group: {ALL!r} is the mean of all groups; give another name")
    if isinstance(task.split, str):
        return Task(**{**vars(task), "split": str(path.parent / task.split)})
    if not isinstance(task.split, Mapping):
        raise UsageError(f"tasks.{name}.split: must be a file, or a mapping of train, val and test")
    _in(f"tasks.{name}.split", check_rule, task.split)
    return task


def _check_published(name: str, column: Published, tasks: Mapping[str, Task]) -> None:
    groups = {task.group for task in tasks.values()} | {ALL}
    for kind, values, known in (("tasks", column.tasks, tasks), ("means", column.means, groups)):
        for key, value in values.items():
            if key not in known:
                raise UsageError(f"{name}.{kind}.{key}: no such {kind[:-1]}{nearest(str(key), known)}")
            if not math.isfinite(value) or not 0 <= value <= 100:
                raise UsageError(f"{name}.{kind}.{key} {value}: must be an accuracy in %")


def _in(place: str, call: Any, *arguments: Any) -> Any:
    """What a call returns; its UsageError names the place."""
    try:
        return call(*arguments)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None
