"""The runs of a comparison as tasks, and the report that is written while they end."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from fracgen.shards.errors import FracgenError, UsageError
from fracgen.shards.files import take_lock
from fracgen.train.experiments.comparison import Comparison, FinetuneRun
from fracgen.train.experiments.finished_runs import FinishedRuns
from fracgen.train.experiments.subprocesses import Task

_SECONDS_BETWEEN_REPORTS = 60.0


class ComparisonTasks:
    """The runs of a comparison as tasks, in their order. finished: those with results of these settings, so far."""

    def __init__(
        self,
        comparison: Comparison,
        program: Sequence[str],
        report: Callable[[Collection[FinetuneRun], bool], object],
        *,
        count: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """program: the first words of the command line of train/finetune.py.

        report: writes the report of finished runs, and draws it or not. count: takes seconds that runs took.
        """
        self.comparison, self.program, self.count = comparison, program, count
        self.record = FinishedRuns(comparison)
        self.finished: list[FinetuneRun] = []
        self._report, self._reported = report, time.monotonic()

    def tasks(self, after: Mapping[str, Sequence[Task]] | None = None) -> list[Task]:
        """A task for each run. after: by start, the tasks that make its weights."""
        runs, before = self.comparison.runs(), after or {}
        return [
            FinetuneTask(
                title=run.title,
                label="run",
                number=f"{number} of {len(runs)}",
                log=run.path.with_name(f"{run.path.name}.log"),
                after=before.get(run.start, ()),
                run=run,
                of=self,
            )
            for number, run in enumerate(runs, start=1)
        ]

    def end(self, run: FinetuneRun) -> None:
        """Take a run among the finished ones; now and then the report is written."""
        self.finished.append(run)
        if time.monotonic() - self._reported > _SECONDS_BETWEEN_REPORTS:
            with contextlib.suppress(FracgenError):  # it is written again at the end
                self._report(self.finished, False)
            self._reported = time.monotonic()

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """A context in which the runs are done; after an error in it the report of the finished ones is written."""
        try:
            yield
        except BaseException:
            if self.finished:
                with contextlib.suppress(FracgenError):
                    self._report(self.finished, True)
            raise


@dataclass(kw_only=True, eq=False)
class FinetuneTask(Task):
    """A run of a comparison."""

    run: FinetuneRun
    of: ComparisonTasks

    def command(self) -> Sequence[str] | None:
        """Words of the command line; None where the run is finished."""
        if self.run in self.of.record:
            self.of.end(self.run)
            return None
        return [*self.of.program, *self.of.comparison.argv(self.run)]

    def count(self, seconds: float) -> None:
        """Pass the seconds on."""
        self.of.count(seconds)

    def finish(self) -> None:
        """Record that the run has ended."""
        self.of.record.add(self.run)
        self.of.end(self.run)


def lock_folder(path: Path) -> TextIO:
    """Make a folder, and keep other comparisons and studies out of it while the lock is held.

    Raises UsageError where another one is at work.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = take_lock(path / ".lock")
    if lock is None:
        raise UsageError(f"{path}: another comparison or study is at work there; wait for it, or give another --out")
    return lock
