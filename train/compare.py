"""Fine-tune from several starts under the same settings and seeds, and report how far apart their accuracies are.

    python train/compare.py --config examples/finetune-laptop.yaml --data my-images \\
        --start scratch=none --start 1p-frac=runs/1p-frac --start noise=runs/noise --seeds 3 --out runs/compare

Every run is one of train/finetune.py, seed by seed over the starts. Runs of one seed have the same images, the same
validation split and the same augmentation, so that differences are paired. The same command goes on after a stop.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.experiments.comparison import Comparison, FinetuneCommand, parse_starts, plan_comparison
from fracgen.train.experiments.finished_runs import FinishedRuns
from fracgen.train.experiments.report import NOTE, REPORT, report_tables, to_text, write_report
from fracgen.train.experiments.subprocesses import SubprocessRunner, python_command


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What the command line says of a comparison, beside fine-tuning's settings."""

    start: Annotated[
        tuple[str, ...],
        Setting(
            "Name of a start, and its weights as finetune --checkpoint takes them; repeat for more.",
            metavar="NAME=WHERE",
            panel="Networks",
        ),
    ] = ()
    model: Annotated[
        str | None,
        Setting(
            "timm model of starts that name none.", default="that of the first start that names one", panel="Networks"
        ),
    ] = None
    data: Annotated[
        str,
        Setting(
            "Labelled images: a folder of class folders, shards, or a timm name such as torch/cifar100.", panel="Data"
        ),
    ] = ""
    per_class: Annotated[
        tuple[int, ...],
        Setting(
            "Number of training images of each class; repeat for another table.",
            at_least=1,
            default="the recipe's",
            panel="Protocol",
        ),
    ] = ()
    seeds: Annotated[int, Setting("Runs of each start, of consecutive seeds.", at_least=1, panel="Protocol")] = 3
    seed: Annotated[
        int | None,
        Setting("Seed of the first run; the others follow.", at_least=0, default="the recipe's", panel="Protocol"),
    ] = None
    launcher: Annotated[
        str,
        Setting(
            "Program that starts each run, such as 'torchrun --nproc-per-node 8'.",
            default="this Python",
            panel="Machine",
        ),
    ] = ""


@options_from(CompareOptions)
def main(
    *,
    overrides: options.Overrides = None,
    given: dict[str, Any],
    out: options.Out = None,
    config: options.Config = None,
    as_json: options.AsJson = False,
) -> None:
    """Fine-tune from several starts under the same settings and seeds, and compare them."""
    settings = CompareOptions(**given)
    starts, per_class = parse_starts(settings.start), settings.per_class
    if out is None:
        raise UsageError("--out: give a folder for the runs and the table")
    if len(set(per_class)) < len(per_class):
        raise UsageError(f"--per-class {' '.join(map(str, per_class))}: each once")
    command = FinetuneCommand(config=config, overrides=tuple(overrides or []), data=settings.data, model=settings.model)
    first = command.settings({"run.seed": settings.seed}).run.seed
    program = python_command("finetune", shlex.split(settings.launcher))
    with SubprocessRunner() as runner:
        comparison = plan_comparison(
            command, starts, seeds=range(first, first + settings.seeds), per_class=per_class or [0], out=out
        )
        report = compare(comparison, program, runner)
    if as_json:
        print(json.dumps(report))
        return
    print(f"{to_text(report_tables(report))}\n\n{NOTE}\n{out / REPORT}.json, .md, .png")


app = command_app(main)


def compare(comparison: Comparison, program: list[str], runner: SubprocessRunner) -> dict[str, object]:
    """Do the runs that are not finished, and write the report after each; returns what compare.json holds.

    program: the first words of the command line of train/finetune.py.
    """
    record, runs = FinishedRuns(comparison.command), comparison.runs()
    finished = [each for each in runs if each in record]
    comparison.out.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(runs, start=1):
        if each in finished:
            continue
        console.say({"run": f"{number} of {len(runs)}: {each.title}"})
        runner.run([*program, *each.argv(comparison.command)], each.title)
        record.add(each)
        finished.append(each)
        write_report(comparison, finished)
    return write_report(comparison, finished)


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen compare` and `python train/compare.py`. Returns its exit code."""
    return console.run(app, "compare", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
