"""How long each step of a study took, and which steps are finished; its steps as tasks."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from fracgen.shards.errors import DataError
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.settings import from_json
from fracgen.train.experiments.plan import Step
from fracgen.train.experiments.subprocesses import Task

_BY_THE_CLOCK = "by the clock"
"""The entry of the seconds during which the study ran, whatever ran at a time."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """Of a step. done: its key, where it is finished."""

    seconds: float = 0.0
    done: str | None = None


class StepTimes:
    """Seconds by step, summed over interruptions, and the key of each finished step, in a file that is kept current."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file is damaged."""
        self._path, self._began = path, time.perf_counter()
        self._records: dict[str, _Record] = {}
        for name, record in (read_json(path) if path.exists() else {}).items():
            try:
                self._records[name] = from_json(_Record, record)
            except TypeError as error:
                raise DataError(f"{path}: damaged ({name}: {error}); remove it, and the same command goes on") from None
        self._seconds_before = self._seconds(_BY_THE_CLOCK)

    def is_finished(self, step: Step) -> bool:
        """Whether the step has ended with the key that it has now, and its product exists."""
        return self._records.get(step.name, _Record()).done == step.key and step.product.exists()

    def add(self, name: str, seconds: float, key: str | None = None) -> None:
        """Add to the time of a step. key: that of a step which is finished now."""
        self._write(name, self._seconds(name) + seconds, key)

    def seconds(self, names: Iterable[str]) -> dict[str, float]:
        """Seconds by name of the step: of its programs, one after the other."""
        return {name: self._seconds(name) for name in names}

    def by_the_clock(self) -> float:
        """Seconds during which the study ran, in all sessions."""
        seconds = self._seconds_before + time.perf_counter() - self._began
        self._write(_BY_THE_CLOCK, seconds, None)
        return round(seconds, 1)

    def _seconds(self, name: str) -> float:
        return self._records.get(name, _Record()).seconds

    def _write(self, name: str, seconds: float, key: str | None) -> None:
        self._records[name] = _Record(seconds=round(seconds, 3), done=key)
        records = {name: asdict(record) for name, record in self._records.items()}
        write_atomically(self._path, json.dumps(records, indent=1))


def step_tasks(steps: Sequence[Step], times: StepTimes, *, workers: int = 0) -> dict[Step, Task]:
    """The task of each step. workers: threads for a step that renders, 0 for what its words say."""
    tasks: dict[Step, Task] = {}
    for number, step in enumerate(steps, start=1):
        tasks[step] = Task(
            title=step.name,
            label="step",
            number=f"{number} of {len(steps)}",
            log=step.folder.with_name(f"{step.folder.name}.log"),
            command=partial(_command, step, times, workers),
            end=partial(_end, step, times),
            after=[tasks[each] for each in step.after],
        )
    return tasks


def _command(step: Step, times: StepTimes, workers: int) -> Sequence[str] | None:
    if times.is_finished(step):
        return None
    is_rendering = "fracgen" in step.argv[:3]
    has_own = any(word.partition("=")[0] == "--workers" for word in step.argv)
    return (*step.argv, "--workers", str(workers)) if workers and is_rendering and not has_own else step.argv


def _end(step: Step, times: StepTimes, seconds: float, ended_well: bool) -> None:
    times.add(step.name, seconds, step.key if ended_well else None)
