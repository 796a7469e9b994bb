"""How long each step of a study took, and which steps are finished; its steps as tasks."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fracgen.shards.files import read_json, write_atomically
from fracgen.train.experiments.plan import Step
from fracgen.train.experiments.subprocesses import Task

_BY_THE_CLOCK = "by the clock"
"""The entry of the seconds during which the study ran, whatever ran at a time."""


class StepTimes:
    """Seconds by step, summed over interruptions, and the key of each finished step, in a file that is kept current."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file is damaged."""
        self._path, self._began = path, time.perf_counter()
        self._records: dict[str, Any] = read_json(path) if path.exists() else {}
        self._seconds_before = self._seconds(_BY_THE_CLOCK)

    def is_finished(self, step: Step) -> bool:
        """Whether the step has ended with the key that it has now, and its product exists."""
        return self._records.get(step.name, {}).get("done") == step.key and step.product.exists()

    def add(self, name: str, seconds: float) -> None:
        """Add to the time of a step, which is not finished."""
        self._write(name, self._seconds(name) + seconds, None)

    def finish(self, step: Step) -> None:
        """Record that a step has ended, and its product is there."""
        self._write(step.name, self._seconds(step.name), step.key)

    def seconds(self, steps: Iterable[Step]) -> dict[str, float]:
        """Seconds by name of the step: of its programs, one after the other."""
        return {step.name: self._seconds(step.name) for step in steps}

    def by_the_clock(self) -> float:
        """Seconds during which the study ran, in all sessions."""
        seconds = self._seconds_before + time.perf_counter() - self._began
        self._write(_BY_THE_CLOCK, seconds, None)
        return round(seconds, 1)

    def _seconds(self, name: str) -> float:
        return float(self._records.get(name, {}).get("seconds", 0.0))

    def _write(self, name: str, seconds: float, key: str | None) -> None:
        self._records[name] = {"seconds": round(seconds, 3), "done": key}
        write_atomically(self._path, json.dumps(self._records, indent=1))


@dataclass(kw_only=True, eq=False)
class StepTask(Task):
    """A step of a study. workers: threads for a step that renders, 0 for what its words say."""

    step: Step
    times: StepTimes
    workers: int = 0

    def command(self) -> Sequence[str] | None:
        """Words of the command line; None where the step is finished."""
        if self.times.is_finished(self.step):
            return None
        words = self.step.argv
        is_rendering, has_own = "fracgen" in words[:3], any(word.partition("=")[0] == "--workers" for word in words)
        return (*words, "--workers", str(self.workers)) if self.workers and is_rendering and not has_own else words

    def count(self, seconds: float) -> None:
        """Add to the step's time."""
        self.times.add(self.step.name, seconds)

    def finish(self) -> None:
        """Record that the step has ended."""
        self.times.finish(self.step)
