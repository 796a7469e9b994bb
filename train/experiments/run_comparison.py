"""Does the runs of a comparison that are not finished, and has its report written meanwhile."""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.files import check_local, take_lock
from fracgen.train.experiments.comparison import Comparison, FinetuneRun
from fracgen.train.experiments.finished_runs import FinishedRuns
from fracgen.train.experiments.subprocesses import SubprocessRunner, Task

Report = dict[str, Any]
_SECONDS_BETWEEN_REPORTS = 60.0


def run_comparison(
    comparison: Comparison,
    runner: SubprocessRunner,
    program: Sequence[str],
    write: Callable[[Collection[FinetuneRun]], Report],
    *,
    steps: Sequence[Task] = (),
    after: Mapping[str, Sequence[Task]] | None = None,
    count: Callable[[float], None] = lambda seconds: None,
) -> Report:
    """Do the steps, and the runs that are not finished, in their order; returns what `write` does.

    program: the first words of the command line of train/finetune.py. write: writes the report of finished runs; at the
    end, when something stops or fails, and now and then. steps: what comes before the runs; after: by start, those of
    them that make its weights. count: takes the seconds of each run.
    """
    record, taken, reported = FinishedRuns(comparison), set[FinetuneRun](), time.monotonic()
    runs = comparison.runs()

    def finished() -> list[FinetuneRun]:
        return [run for run in runs if run in taken]

    def command(run: FinetuneRun) -> list[str] | None:
        if run not in taken and run not in record:
            return [*program, *comparison.argv(run)]
        take(run)
        return None

    def end(run: FinetuneRun, seconds: float, ended_well: bool) -> None:
        count(seconds)
        if ended_well:
            record.add(run)
            take(run)

    def take(run: FinetuneRun) -> None:
        nonlocal reported
        taken.add(run)
        if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
            with contextlib.suppress(FracgenError):  # it is written again at the end
                write(finished())
            reported = time.monotonic()

    for run in runs:  # what is finished is in every report, also where a stop comes before its turn
        with contextlib.suppress(DataError, UsageError):  # said at its turn
            if all(step.command() is None for step in (after or {}).get(run.start, ())) and run in record:
                taken.add(run)
    tasks = [
        Task(
            title=run.title,
            label="run",
            number=f"{number} of {len(runs)}",
            log=run.path.with_name(f"{run.path.name}.log"),
            command=partial(command, run),
            end=partial(end, run),
            after=(after or {}).get(run.start, ()),
        )
        for number, run in enumerate(runs, start=1)
    ]
    try:
        runner.run([*steps, *tasks])
    except BaseException:
        if taken:
            with contextlib.suppress(FracgenError):
                write(finished())
        raise
    return write(finished())


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there. Raises UsageError for a URL, and where a file is in the way."""
    check_local(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{path}: a file is in the way of this folder; give another --out") from error


def lock_folder(path: Path) -> TextIO:
    """Make a folder, and keep other comparisons and studies out of it while the lock is held.

    Raises UsageError where another one is at work, or a file is in the way.
    """
    make_folder(path)
    lock = take_lock(path / ".lock")
    if lock is None:
        raise UsageError(f"{path}: another comparison or study is at work there; wait for it, or give another --out")
    return lock
