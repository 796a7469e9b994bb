"""Fine-tune from several starts under the same settings and seeds, and report how far apart their accuracies are.

    python train/compare.py --config examples/finetune-laptop.yaml --data my-images \\
        --start scratch=none --start 1p-frac=runs/1p-frac --start noise=runs/noise --seeds 3 --out runs/compare

Every run is one of train/finetune.py, seed by seed over the starts. Runs of one seed have the same images, the same
validation split and the same augmentation, so that differences are paired. The same command goes on after a stop.
"""

import json
import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import UsageError, printable
from fracgen.shards.settings import Setting
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.experiments.comparison import (
    FinetuneCommand,
    FinetuneRun,
    LogOfRuns,
    ModelOfStarts,
    NumSeeds,
    Starts,
    log_overrides,
    parse_starts,
    plan_comparison,
)
from fracgen.train.experiments.report import summarize_runs, write_report
from fracgen.train.experiments.run_comparison import Report, lock_folder, run_comparison
from fracgen.train.experiments.subprocesses import Jobs, KeepGoing, Launcher, SubprocessRunner, python_command
from fracgen.train.experiments.tables import to_text


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What the command line says of a comparison, beside fine-tuning's settings."""

    start: Starts = ()
    model: ModelOfStarts = None
    data: Annotated[
        str,
        Setting(
            "Labelled images: class folders, a table, shards, or a timm name such as torch/cifar100.", panel="Data"
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
    seeds: NumSeeds = 3
    seed: Annotated[
        int | None,
        Setting("Seed of the first run; the others follow.", at_least=0, default="the recipe's", panel="Protocol"),
    ] = None
    log: LogOfRuns = "none"
    jobs: Jobs = 1
    keep_going: KeepGoing = False
    launcher: Launcher = ""
    out: options.Out = None
    config: options.Config = None
    as_json: options.AsJson = False


@options_from(CompareOptions, into="settings", build=True)
def main(
    *,
    overrides: options.Overrides = None,
    settings: CompareOptions,
) -> None:
    """Fine-tune from several starts under the same settings and seeds, and compare them."""
    starts, per_class, out = parse_starts(settings.start), settings.per_class, settings.out
    if out is None:
        raise UsageError("--out: give a folder for the runs and the table")
    if len(set(per_class)) < len(per_class):
        raise UsageError(f"--per-class {' '.join(map(str, per_class))}: each once")
    logged = (*log_overrides(settings.log, out.absolute().name), *(overrides or []))
    command = FinetuneCommand(config=settings.config, overrides=logged, data=settings.data, model=settings.model)
    first = command.settings({"run.seed": settings.seed}).run.seed
    program = python_command("finetune", shlex.split(settings.launcher))
    with SubprocessRunner(settings.jobs, keep_going=settings.keep_going) as runner:
        comparison = plan_comparison(
            command, starts, seeds=range(first, first + settings.seeds), per_class=per_class or [0], out=out
        )

        def write(finished: Collection[FinetuneRun]) -> Report:
            report = {"starts": starts, **summarize_runs(comparison, finished)}
            write_report(report, out / "compare")
            return report

        with lock_folder(out):
            report = run_comparison(comparison, runner, program, write)
    if settings.as_json:
        print(json.dumps(report))
        return
    print(f"{to_text(report)}\n{printable(str(out / 'compare'))}.json, .md, .png")


app = command_app(main)


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen compare` and `python train/compare.py`. Returns its exit code."""
    return console.run(app, "compare", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
