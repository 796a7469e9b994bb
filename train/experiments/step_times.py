"""How long each step of a study took, and which steps are finished."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fracgen.shards.files import read_json, write_atomically
from fracgen.train.experiments.plan import Step
from fracgen.train.experiments.subprocesses import SubprocessRunner


class StepTimes:
    """Seconds by step, summed over interruptions, and the key of each finished step, in a file that is kept current."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file is damaged."""
        self._path = path
        self._records: dict[str, Any] = read_json(path) if path.exists() else {}

    def is_finished(self, step: Step) -> bool:
        """Whether the step has ended with the key that it has now, and its product exists."""
        return self._records.get(step.name, {}).get("done") == step.key and step.product.exists()

    def run(self, step: Step, runner: SubprocessRunner) -> None:
        """Run the step, and record its time. A finished step, which only finds its product complete, adds none."""
        finished = self.is_finished(step)
        seconds_before, began = self._records.get(step.name, {}).get("seconds", 0.0), time.perf_counter()

        def record(key: str | None = None) -> None:
            passed = 0.0 if finished else time.perf_counter() - began
            self._records[step.name] = {
                "seconds": round(seconds_before + passed, 1),
                "done": step.key if finished else key,
            }
            write_atomically(self._path, json.dumps(self._records, indent=1))

        try:
            runner.run(step.argv, step.name, tick=record)
        except BaseException:
            record()
            raise
        record(step.key)

    def seconds(self, steps: Iterable[Step]) -> dict[str, float]:
        """Seconds by name of the step."""
        return {step.name: self._records[step.name]["seconds"] for step in steps}
