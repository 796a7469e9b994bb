"""Render, pre-train, fine-tune and compare the variants of a study, by one command.

    python train/study.py examples/ablations/delta.yaml --data my-images --out runs/delta
    python train/study.py examples/ablations/delta.yaml --data torch/cifar100 --out runs/delta --published
    python train/study.py examples/cifar10-laptop/study.yaml --data cifar10 --out runs/cifar10 --dry-run

Each step is a command of its own that can be run by hand; --dry-run prints them. The same command goes on after a stop.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import UsageError
from fracgen.shards.files import read_json, write_atomically
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.experiments.comparison import check_data
from fracgen.train.experiments.plan import StudyOptions, Variant, load_study, plan_steps
from fracgen.train.experiments.report import NOTE, report_tables, to_markdown, to_text
from fracgen.train.experiments.step_times import StepTimes
from fracgen.train.experiments.subprocesses import SubprocessRunner

REPORT = "study"
TIMES = "times.json"
SPREAD = "Each variant is pre-trained once: the spread is that of fine-tuning."


@options_from(StudyOptions)
def main(
    *,
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study, such as those in examples/ablations.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...", help="Settings, as in pretrain.schedule.steps=100 or finetune.optim.lr=0.05."
        ),
    ] = None,
    given: dict[str, Any],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands in order, and run none.", rich_help_panel="Output")
    ] = False,
    as_json: options.AsJson = False,
    pretrain: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    finetune: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Render, pre-train, fine-tune and compare the variants of a study."""
    for program, words in (("pretrain", pretrain), ("finetune", finetune)):
        if words:
            raise UsageError(f"--{program} {words[0]}: is written {program}.{words[0]} now")
    if "data" not in given:
        raise UsageError("--data: give an image folder, shards, or a name that timm knows, as torch/cifar100")
    if "out" not in given:
        raise UsageError("--out: give a folder for everything")
    settings = StudyOptions(**given, **split_overrides(overrides or []))
    about, size, variants = load_study(study, "published" if settings.published else "laptop")
    steps = plan_steps(size, variants, settings)
    if dry_run:
        print("\n".join(shlex.join(step.argv) for step in steps))
        return
    out = settings.out
    out.mkdir(parents=True, exist_ok=True)
    times = StepTimes(out / TIMES)
    with SubprocessRunner() as runner:
        check_data(settings.finetune_command(size), settings.per_class or size.per_class)
        for number, step in enumerate(steps, start=1):
            if step is steps[-1] or not times.is_finished(step):  # compare.py itself tells which runs are finished
                console.say({"step": f"{number} of {len(steps)}: {step.name}"})
                times.run(step, runner)
    comparison = steps[-1].product
    report = {"about": about, **read_json(comparison), "seconds": times.seconds(steps)}
    report["published"] = {name: dict(variant.published) for name, variant in variants.items()}
    by_title = {**report_tables(report, published_columns(variants)), "time": time_table(report["seconds"])}
    write_atomically(out / f"{REPORT}.json", json.dumps(report, indent=1))
    write_atomically(out / f"{REPORT}.md", f"# {about}\n\n{to_markdown(by_title)}\n\n{NOTE} {SPREAD}\n")
    if as_json:
        print(json.dumps(report))
        return
    print(f"{to_text(by_title)}\n\n{NOTE}\n{SPREAD}\n{out / REPORT}.json, .md; {comparison.with_suffix('.png')}")


app = command_app(main)


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


def published_columns(variants: Mapping[str, Variant]) -> dict[str, dict[str, str]]:
    """Columns of the published accuracies, by heading: cells by variant."""
    data_sets = dict.fromkeys(name for variant in variants.values() for name in variant.published)
    return {
        f"published, {each}": {
            name: f"{variant.published[each]:.1f}" for name, variant in variants.items() if each in variant.published
        }
        for each in data_sets
    }


def time_table(seconds: Mapping[str, float]) -> list[list[str]]:
    """Rows of cells, headings first: the time of each step, and of all."""
    rows = [[name, _duration(each)] for name, each in seconds.items()]
    return [["step", "time"], *rows, ["in all", _duration(sum(seconds.values()))]]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen study` and `python train/study.py`. Returns its exit code."""
    return console.run(app, "study", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
