"""Render, pre-train, fine-tune and compare the variants of a study, by one command.

    python train/study.py examples/ablations/delta.yaml --data my-images --out runs/delta
    python train/study.py examples/ablations/delta.yaml --data torch/cifar100 --out runs/delta --published
    python train/study.py examples/equal-budget/study.yaml --data cifar10 --out runs/equal-budget --dry-run

Each step is a command of its own that can be run by hand; --dry-run prints them. The same command goes on after a stop.
"""

import json
import shlex
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.shards.commandline import OVERRIDES, command_app, options_from
from fracgen.shards.errors import UsageError, printable
from fracgen.shards.urls import redact
from fracgen.train import cli as console
from fracgen.train.experiments.comparison import FinetuneRun, check_data
from fracgen.train.experiments.plan import StudyOptions, plan_study
from fracgen.train.experiments.report import write_report
from fracgen.train.experiments.run_comparison import Report, lock_folder, make_folder, run_comparison
from fracgen.train.experiments.step_times import StepTimes, step_tasks
from fracgen.train.experiments.study_file import SizeName, load_study
from fracgen.train.experiments.study_report import StudyReport
from fracgen.train.experiments.subprocesses import SubprocessRunner, python_command
from fracgen.train.experiments.tables import to_text


@options_from(StudyOptions)
def main(
    *,
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study, such as those in examples/ablations.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar=OVERRIDES, help="Settings, as in pretrain.schedule.steps=100 or finetune.optim.lr=0.05."
        ),
    ] = None,
    option_values: dict[str, Any],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands in order, and run none.", rich_help_panel="Output")
    ] = False,
    pretrain: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    finetune: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Render, pre-train, fine-tune and compare the variants of a study."""
    for program, words in (("pretrain", pretrain), ("finetune", finetune)):
        if words:
            raise UsageError(f"--{program} {words[0]}: is written {program}.{words[0]} now")
    if "data" not in option_values:
        raise UsageError("--data: give an image folder, a table, shards, or a name that timm knows, as torch/cifar100")
    if "out" not in option_values:
        raise UsageError("--out: give a folder for everything")
    settings = StudyOptions(**option_values, **split_overrides(overrides or []))
    size_name: SizeName = "published" if settings.published else "laptop"
    about, size, variants = load_study(study, size_name)
    plan = plan_study(size, variants, settings)
    if dry_run:
        for step in (*plan.steps, plan.comparison):
            print(" ".join(map(_quote, step.argv)))
        return
    out = settings.out
    make_folder(out)
    comparison = settings.comparison(size, plan.starts)
    with SubprocessRunner(settings.jobs, keep_going=settings.keep_going) as runner:
        check_data(comparison.command, comparison.per_class)
        with lock_folder(out), lock_folder(comparison.out):
            study_report = StudyReport(
                about=about,
                size=size_name,
                variants=variants,
                plan=plan,
                comparison=comparison,
                times=StepTimes(out / "times.json"),
                runner=runner,
            )
            report = run_study(study_report, out / "study", shlex.split(settings.launcher))
    if settings.as_json:
        print(json.dumps(report))
        return
    print(f"{to_text(report)}\n{printable(str(out / 'study'))}.json, .md, .png")


app = command_app(main)


def run_study(study_report: StudyReport, path: Path, launcher: Sequence[str]) -> Report:
    """Do the steps and runs that are not finished, and return what study.json holds. path: of the report's files.

    A run of fine-tuning waits for its own start alone; one without weights, for the first start with an architecture.
    """

    def write(finished: Collection[FinetuneRun]) -> Report:
        report = study_report.gather(finished)
        write_report(report, path, heading=study_report.about)
        return report

    plan, times, runner = study_report.plan, study_report.times, study_report.runner
    steps = step_tasks(plan.steps, times, workers=runner.threads if runner.jobs > 1 else 0)
    first = next((start.pretraining for start in plan.starts.values() if start.pretraining), None)
    before = {name: start.pretraining or first for name, start in plan.starts.items()}
    return run_comparison(
        study_report.comparison,
        runner,
        python_command("finetune", launcher),
        write,
        steps=list(steps.values()),
        after={name: [steps[step]] for name, step in before.items() if step is not None},
        count=partial(times.add, plan.comparison.name),
    )


def split_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`pretrain` and `finetune` of StudyOptions, from words PROGRAM.NAME=VALUE.

    Raises UsageError for words of no program, and for what a study says itself.
    """
    overrides: dict[str, tuple[str, ...]] = {"pretrain": (), "finetune": ()}
    for word in words:
        program, dot, override = word.partition(".")
        if not dot or program not in overrides or "=" in program:
            raise UsageError(f"{word!r}: give pretrain.NAME=VALUE or finetune.NAME=VALUE, as finetune.optim.lr=0.05")
        if word.startswith("finetune.checkpoint="):
            raise UsageError(f"{word}: the starts of a study are its variants; `fracgen compare` takes others")
        overrides[program] += (override,)
    return dict(overrides)


def _quote(word: str) -> str:
    """A word as a shell reads it, without control characters and without secrets of URLs."""
    word = redact(word)
    return shlex.quote(word) if word.isprintable() else f"$'{printable(word.replace(chr(92), chr(92) * 2))}'"


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen study` and `python train/study.py`. Returns its exit code."""
    return console.run(app, "study", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
