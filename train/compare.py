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
from typing import Annotated

import typer

from fracgen.shards.commandline import command_app
from fracgen.shards.errors import UsageError
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.experiments.comparison import Comparison, FinetuneCommand, parse_starts, plan_comparison
from fracgen.train.experiments.finished_runs import FinishedRuns
from fracgen.train.experiments.report import NOTE, REPORT, report_tables, to_text, write_report
from fracgen.train.experiments.subprocesses import SubprocessRunner, python_command


def main(
    *,
    overrides: options.Overrides = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WHERE", help="A checkpoint as finetune takes it; again for more.", rich_help_panel="Networks"
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Image folder, shards, or a name of timm's: torch/cifar100.", rich_help_panel="Data"),
    ] = None,
    out: options.Out = None,
    config: options.Config = None,
    seeds: Annotated[
        int, typer.Option(help="Runs of each start, of seeds one after the other.", min=1, rich_help_panel="Protocol")
    ] = 3,
    seed: Annotated[
        int | None, typer.Option(help="The first one.  [default: the recipe's]", min=0, rich_help_panel="Protocol")
    ] = None,
    per_class: Annotated[
        list[int] | None,
        typer.Option(
            help="Images of each class to train with; again for another table.", min=1, rich_help_panel="Protocol"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A timm model, for 'none'.  [default: the first start's that has one]", rich_help_panel="Networks"
        ),
    ] = None,
    launcher: Annotated[
        str,
        typer.Option(
            help="What starts each run, as 'torchrun --nproc-per-node 8'.  [default: this Python]",
            rich_help_panel="Machine",
        ),
    ] = "",
    as_json: options.AsJson = False,
) -> None:
    """Fine-tune from several starts under the same settings and seeds, and compare them."""
    starts = parse_starts(start or [])
    if out is None:
        raise UsageError("--out: give a folder for the runs and the table")
    if len(set(per_class or [])) < len(per_class or []):
        raise UsageError(f"--per-class {' '.join(map(str, per_class or []))}: each once")
    command = FinetuneCommand(config=config, overrides=tuple(overrides or []), data=data or "", model=model)
    first = command.settings({"run.seed": seed}).run.seed
    program = python_command("finetune", shlex.split(launcher))
    with SubprocessRunner() as runner:
        comparison = plan_comparison(
            command, starts, seeds=range(first, first + seeds), per_class=per_class or [0], out=out
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
