"""The tasks of a suite on this machine: where their images lie, their splits as files, the settings of their runs."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fracgen.shards.errors import AbsentError, DataError, UsageError
from fracgen.shards.files import write_atomically
from fracgen.shards.settings import load_settings, nearest, parse_yaml, read_text, to_plain, to_yaml
from fracgen.shards.urls import is_url
from fracgen.train.data.examples import Examples
from fracgen.train.data.opening import is_name
from fracgen.train.data.split_files import ROLES, Ids, check_ids, read_split_file, write_split_file
from fracgen.train.data.split_rules import apply_rule, train_on_both
from fracgen.train.data.splits import open_sources
from fracgen.train.data.tars import is_pattern
from fracgen.train.experiments.comparison import FinetuneCommand
from fracgen.train.experiments.finetuning import Finetuning
from fracgen.train.experiments.suite_file import ProtocolName, Suite, Task

SPLIT, SETTINGS = "split.json", "finetune.yaml"
"""In a task's folder: its sample ids, and the settings of its runs."""


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """What is there of a task. where: what `--data` takes. absent: why its images cannot be had; "" where they can.

    ids: of the samples by role. sources: the splits as they lie.
    """

    name: str
    task: Task
    where: str
    absent: str = ""
    ids: Ids = field(default_factory=dict)
    sources: Mapping[str, Examples] = field(default_factory=dict)

    @property
    def images(self) -> dict[str, int]:
        """The number of images by role."""
        return {role: len(self.ids[role]) for role in ROLES if self.ids.get(role)}

    @property
    def difference(self) -> str:
        """How the number of images differs from the published one, in words; "" where it does not."""
        published = self.task.images
        parts = [
            f"{self.images.get(role, 0):,} images in {role}, and {number:,} were published"
            for role, number in published.items()
            if not self.absent and self.images.get(role, 0) != number
        ]
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class SuiteSetup:
    """How a suite is run here. root: of the tasks' data. places: where single tasks' images lie, by task.

    base: settings in the place of the suite's own; None for those.
    """

    suite: Suite
    protocol: ProtocolName
    root: str
    places: Mapping[str, str]
    base: Mapping[str, Any] | None = None

    def open(self, name: str) -> TaskData:
        """What is there of a task, whose settings are looked at first.

        Raises UsageError and DataError, which name the task, where there is something, but not what the suite says.
        """
        task = self.suite.tasks[name]
        self.suite.settings(task, self.protocol, self.base)
        data = TaskData(name=name, task=task, where=self._where(name, task))
        is_path = not (is_url(data.where) or is_name(data.where) or is_pattern(data.where))
        if is_path and not Path(data.where).exists():
            return replace(data, absent=f"{data.where}: no such folder")
        try:
            sources = open_sources(data.where, num_classes=_num_classes(data.where, task), root=self.root)
            ids = apply_rule(task.split, sources)
            if getattr(self.suite.protocols, self.protocol).train_on == "train+val":
                ids = train_on_both(ids)
            check_ids(ids, "split")
            _check(sources["train"], task, ids)
        except AbsentError as error:
            return replace(data, absent=str(error))
        except UsageError as error:
            raise UsageError(f"task {name}: {error}") from None
        except DataError as error:
            raise DataError(f"task {name}: {error}") from None
        return replace(data, sources=sources, ids=ids)

    def _where(self, name: str, task: Task) -> str:
        where = self.places.get(name, task.data)
        is_typed = name in self.places
        return where if is_typed or is_url(where) or is_name(where) else str(Path(self.root) / where)

    def command(self, data: TaskData, folder: Path, *, overrides: Sequence[str], model: str | None) -> FinetuneCommand:
        """The words for train/finetune.py of a task, after its split and its settings were written.

        A split that is there already is the task's as long as nothing changed.
        Raises UsageError where the rule is another by now, DataError where the images are.
        """
        path = folder / SPLIT
        if path.exists():
            written = read_split_file(path)
            try:
                written.select(data.sources)
            except DataError as error:
                raise DataError(f"task {data.name}: {error}; bring them back, or give another --out") from None
            if {role: list(ids) for role, ids in written.ids.items()} != {r: i for r, i in data.ids.items() if i}:
                raise UsageError(
                    f"task {data.name}: {path} is of another split than the suite's now; give another --out"
                )
        else:
            write_split_file(path, data.sources, data.ids)
        return self._command(data.task, data.where, path, folder / SETTINGS, overrides=overrides, model=model)

    @contextlib.contextmanager
    def asked(self, name: str, *, overrides: Sequence[str], model: str | None) -> Iterator[FinetuneCommand]:
        """The words of a task for its settings alone, for as long as they are needed.

        Its images need not be here, and nothing in its folder is changed.
        """
        task = self.suite.tasks[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            where = self._where(name, task)
            yield self._command(task, where, path / SPLIT, path / SETTINGS, overrides=overrides, model=model)

    def _command(
        self, task: Task, where: str, split: Path, settings: Path, *, overrides: Sequence[str], model: str | None
    ) -> FinetuneCommand:
        """The words, after the file of settings was written."""
        values = self.suite.settings(task, self.protocol, self.base)
        num_classes = _num_classes(where, task)
        values |= {"split": str(split), "root": self.root, "metric": task.metric}
        values |= {"num_classes": num_classes} if num_classes else {}
        write_atomically(settings, to_yaml(values))
        return FinetuneCommand(config=str(settings), overrides=tuple(overrides), data=where, model=model)


def read_base(config: str | None) -> dict[str, Any] | None:
    """Settings of fine-tuning from a YAML file that take the place of a suite's, if any. Raises UsageError."""
    if config is None:
        return None
    load_settings(Finetuning, config, {})
    return to_plain(parse_yaml(read_text(config), config) or {})  # type: ignore[no-any-return]


def parse_places(words: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """Where images lie by task, from words TASK=WHERE. Raises UsageError for other words, and for other tasks."""
    places: dict[str, str] = {}
    for word in words:
        name, _, where = word.partition("=")
        if not where:
            raise UsageError(f"--data {word}: give TASK=WHERE, as {next(iter(tasks), 'cars')}=my-images")
        if name not in tasks:
            raise UsageError(f"--data {word}: no such task{nearest(name, tasks)}; there are {', '.join(tasks)}")
        places[name] = where
    return places


def _num_classes(where: str, task: Task) -> int:
    """What the opening of tars without a manifest has to be told; 0 for all else, which say it themselves."""
    return task.classes if is_pattern(where) and not Path(where).is_dir() else 0


def _check(train: Examples, task: Task, ids: Ids) -> None:
    if len(train.class_names) != task.classes:
        raise UsageError(f"{train.name}: {len(train.class_names)} classes, and the task has {task.classes}")
    if not ids.get("test"):
        raise UsageError(f"{train.name}: no test images, on which accuracy is reported; give split, or test/ beside it")
