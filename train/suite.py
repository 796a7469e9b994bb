"""Fine-tune from several starts on every task of a suite, and report accuracies and their means in one table.

    python train/suite.py seven --check --root data
    python train/suite.py seven --start scratch=none --start 1p-frac=runs/1p-frac --root data --out runs/seven
    python train/suite.py vtab-1k --protocol published --start 1p-frac=runs/1p-frac --root data --out runs/vtab

Each task is a comparison of train/compare.py in a folder of its own, OUT/TASK, by the task's split and settings. Tasks
whose images are not here are listed with how to get them. The same command goes on after a stop.
"""

import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import DataError, UsageError, printable
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.settings import Setting, from_json
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.config import load
from fracgen.train.experiments import suite_figure, suite_report
from fracgen.train.experiments.comparison import (
    Comparison,
    FinetuneRun,
    LogOfRuns,
    ModelOfStarts,
    NumSeeds,
    Starts,
    log_overrides,
    parse_starts,
    plan_comparison,
)
from fracgen.train.experiments.finetuning import Finetuning
from fracgen.train.experiments.finished_runs import COMPARED, FinishedRuns, read_or_none
from fracgen.train.experiments.report import summarize_runs, write_report
from fracgen.train.experiments.run_comparison import Report, lock_folder, run_comparison
from fracgen.train.experiments.study_report import describe_machine, read_settings
from fracgen.train.experiments.subprocesses import (
    Jobs,
    KeepGoing,
    Launcher,
    SubprocessError,
    SubprocessRunner,
    python_command,
)
from fracgen.train.experiments.suite_file import ProtocolName, find_suite, load_suite, refuse_own
from fracgen.train.experiments.suite_tasks import SuiteSetup, TaskData, parse_places, read_base


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """What the command line says of a suite, beside fine-tuning's settings."""

    start: Starts = ()
    model: ModelOfStarts = None
    root: Annotated[str, Setting("Folder that the tasks' images lie in, and that timm downloads to.", panel="Data")] = (
        "data"
    )
    data: Annotated[
        tuple[str, ...],
        Setting("Where the images of a task lie, if not there; repeat for more.", metavar="TASK=WHERE", panel="Data"),
    ] = ()
    task: Annotated[
        tuple[str, ...], Setting("A task to take; repeat for more.", default="all of them", panel="Protocol")
    ] = ()
    protocol: Annotated[
        ProtocolName,
        Setting(
            "honest: no choice by test images. published: as those did whose numbers stand beside.", panel="Protocol"
        ),
    ] = "honest"
    seeds: NumSeeds = 3
    seed: Annotated[int, Setting("Seed of the first run; the others follow.", at_least=0, panel="Protocol")] = 0
    log: LogOfRuns = "none"
    jobs: Jobs = 1
    keep_going: KeepGoing = False
    launcher: Launcher = ""
    out: options.Out = None
    config: options.Config = None
    check: Annotated[bool, Setting("Say what is there of each task, and run none.", panel="Output")] = False
    as_json: options.AsJson = False


@options_from(SuiteOptions, into="settings", build=True)
def main(
    *,
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="seven, vtab-1k, or a YAML file such as those (docs/suites.md).")
    ],
    overrides: options.Overrides = None,
    settings: SuiteOptions,
) -> None:
    """Fine-tune from several starts on every task of a suite, and report one table."""
    loaded = load_suite(find_suite(suite))
    names = loaded.choose(settings.task)
    places = parse_places(settings.data, list(loaded.tasks))
    base = read_base(settings.config)
    setup = SuiteSetup(suite=loaded, protocol=settings.protocol, root=settings.root, places=places, base=base)
    refuse_own(overrides or ())
    load(Finetuning, settings.config, {}, overrides)  # a wrong word is said before any image is opened
    run = SuiteRun(
        setup=setup, settings=settings, names=names, out=settings.out or Path(), overrides=tuple(overrides or ())
    )
    if settings.check:
        run.open_tasks()
    else:
        if settings.out is None:
            raise UsageError("--out: give a folder for the runs and the table")
        parse_starts(settings.start)
        with SubprocessRunner(settings.jobs, keep_going=settings.keep_going) as runner, lock_folder(settings.out):
            run.do(runner)
    report = run.gather()
    if settings.as_json:
        print(json.dumps(report))
    else:
        print(suite_report.to_text(report) if not settings.check else suite_report.to_check(report))
        if not settings.check:
            print(f"{printable(str(run.out / 'suite'))}.json, .md, .png")
    if absent := [name for name, data in run.tasks.items() if data.absent]:
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        raise DataError(f"{loaded.name}: no images of {len(absent)} of {len(names)} tasks: {shown}")


app = command_app(main)


@dataclass(kw_only=True)
class SuiteRun:
    """A suite as it runs. names: of the tasks to do. tasks, reports: what is known of each by now.

    kept: entries of suite.json of tasks that were done before: those that are not among these, or not begun yet.
    """

    setup: SuiteSetup
    settings: SuiteOptions
    names: Sequence[str]
    out: Path
    overrides: tuple[str, ...]
    tasks: dict[str, TaskData] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> range:
        """Of the runs of each start."""
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def open_tasks(self) -> None:
        """Look at what is there of each task."""
        for name in self.names:
            self.tasks[name] = self.setup.open(name)

    def do(self, runner: SubprocessRunner) -> None:
        """Do the runs that are not finished, task by task. With `keep_going`, a failure ends its task alone."""
        self._read_earlier_report()
        self.open_tasks()
        for name, data in self.tasks.items():
            if data.absent:
                console.say({"absent": f"{name}: {data.absent}"})
                self.kept.update({name: {**self.kept[name], "absent": data.absent}} if name in self.kept else {})
        comparisons = {name: self._plan(data) for name, data in self.tasks.items() if not data.absent}
        program, failures = python_command("finetune", shlex.split(self.settings.launcher)), list[SubprocessError]()
        self.machine = describe_machine("cpu", runner)
        for name, comparison in comparisons.items():
            console.say({"task": f"{name}: {len(comparison.runs())} runs"})
            self.kept.pop(name, None)
            try:
                with lock_folder(comparison.out):
                    run_comparison(comparison, runner, program, partial(self._write, runner, name, comparison))
            except SubprocessError as error:
                failures.append(SubprocessError(f"task {name}: {error}", error.exit_code))
                if not self.settings.keep_going:
                    break
        self._write_suite()
        if failures:
            more = f"; {len(failures) - 1} more task{'s' * (len(failures) > 2)} failed" if len(failures) > 1 else ""
            raise SubprocessError(f"{failures[0]}{more}", failures[0].exit_code)

    def _read_earlier_report(self) -> None:
        """Keep what suite.json in --out has of other tasks, and of those to do until they begin.

        Raises UsageError where it is of another suite or protocol, and what `_check_kept` raises of other tasks.
        """
        path = self.out / "suite.json"
        if not path.exists():
            return
        try:
            earlier = from_json(suite_report.EarlierReport, read_json(path))
        except (DataError, TypeError) as error:
            raise self._damaged(str(error).removeprefix(f"{path}: ")) from None
        suite, protocol = earlier.suite, earlier.protocol.get("name")
        if (suite, protocol) != (self.setup.suite.name, self.setup.protocol):
            raise UsageError(f"{self.out}: holds suite {suite}, protocol {protocol}; give another --out")
        for name, entry in earlier.tasks.items():
            if name not in self.setup.suite.tasks:
                continue
            try:
                has_runs = self._check_kept(name, entry, earlier.seeds)
            except UsageError:
                if name not in self.names:
                    raise
                continue  # it is done again, or refused where it runs
            if has_runs or name not in self.names:
                self.kept[name] = entry

    def _check_kept(self, name: str, entry: Any, seeds: Sequence[int]) -> bool:
        """Whether a task's entry of suite.json has runs. seeds: of that report.

        Raises UsageError where it is damaged, or they are of other starts, or in another order, or of other seeds,
        settings or weights than the command's.
        """
        try:
            measures = from_json(suite_report.TaskEntry, entry).measures
            measured = [each for by_start in measures.values() for each in by_start.items()]
            ran = {(start, int(seed)) for start, each in measured for seed in each.accuracies.get("0", ())}
        except (TypeError, ValueError) as error:
            raise self._damaged(f"tasks.{name}: {error}") from None
        if not ran:
            return False
        starts = parse_starts(self.settings.start)
        path = self.out / name / "compare.json"
        again = f"missing or damaged; give --task {name} too, which writes it again"
        report = read_or_none(path)
        if report is None or not isinstance(report.get("starts"), dict):
            raise UsageError(f"{path}: {again}")
        # in order, as differences are from the first
        if list(seeds) != list(self.seeds) or list(report["starts"].items()) != list(starts.items()):
            line = f"{self.out}: holds task {name} with other starts, or in another order, or other seeds"
            raise UsageError(f"{line}; give another --out")
        with self.setup.asked(name, overrides=self.overrides, model=self.settings.model) as command:
            comparison = Comparison(command=command, starts=starts, seeds=self.seeds, per_class=[0], out=path.parent)
            finished = FinishedRuns(comparison)
            for run in (run for run in comparison.runs() if (run.start, run.seed) in ran):
                if (changed := finished.changes(run)) is None:
                    raise UsageError(f"{run.path / COMPARED}: {again}")
                if changed:
                    line = f"{self.out}: holds task {name} with other settings ({'; '.join(changed)})"
                    raise UsageError(f"{line}; give another --out")
        return True

    def _damaged(self, fault: str) -> UsageError:
        path = self.out / "suite.json"
        return UsageError(f"{path}: damaged ({fault}); remove it, and do all tasks again: runs are kept")

    def _plan(self, data: TaskData) -> Comparison:
        settings, folder = self.settings, self.out / data.name
        logged = log_overrides(settings.log, self.out.absolute().name)
        folder.mkdir(parents=True, exist_ok=True)
        command = self.setup.command(data, folder, overrides=(*logged, *self.overrides), model=settings.model)
        try:
            return plan_comparison(command, parse_starts(settings.start), seeds=self.seeds, per_class=[0], out=folder)
        except UsageError as error:
            raise UsageError(f"task {data.name}: {error}") from None

    def _write(
        self, runner: SubprocessRunner, name: str, comparison: Comparison, finished: Collection[FinetuneRun]
    ) -> Report:
        """The task's own report, and the suite's so far."""
        report: Report = {"starts": dict(comparison.starts), **summarize_runs(comparison, finished)}
        write_report(report, comparison.out / "compare")
        ran = read_settings([run.path for run in finished])
        self.reports[name] = {**report, "settings": ran}
        self.machine = describe_machine(ran.get("run", {}).get("device", "cpu"), runner)
        self._write_suite()
        return report

    def _write_suite(self) -> None:
        report, path = self.gather(), self.out / "suite"
        write_atomically(path.with_suffix(".json"), json.dumps(report, separators=(",", ":")) + "\n")
        write_atomically(path.with_suffix(".md"), suite_report.to_markdown(report))
        suite_figure.draw(report, path.with_suffix(".png"))

    def gather(self) -> Report:
        """What suite.json holds."""
        return suite_report.gather(
            self.setup.suite,
            self.setup.protocol,
            starts=list(parse_starts(self.settings.start)) if self.settings.start else [],
            seeds=self.seeds,
            tasks=[data for name, data in self.tasks.items() if name not in self.kept],
            reports=self.reports,
            kept=self.kept,
            machine=self.machine,
        )


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen suite` and `python train/suite.py`. Returns its exit code."""
    return console.run(app, "suite", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
