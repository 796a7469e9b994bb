"""Fine-tune from several starts under the same settings and seeds, and tell how far apart they are.

    python train/compare.py --config examples/finetune-laptop.yaml --data my-images \\
        --start scratch=none --start 1p-frac=runs/1p-frac --start noise=runs/noise --seeds 3 --out runs/compare

Every run is one of train/finetune.py, seed by seed over the starts. A seed means the same images, the same carving and
the same augmentation for all of them, so that differences are paired. The same command goes on after a stop.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fracgen.shards.errors import UsageError
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.experiments import comparison, contrast
from fracgen.train.experiments.children import Children, python

app = console.app()


@app.command()
def main(
    *,
    overrides: options.Overrides = None,
    start: Annotated[
        list[str] | None, typer.Option(metavar="NAME=WHERE", help="A checkpoint as finetune takes it; again for more.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Image folder, shards, or a name of timm's: torch/cifar100.")] = None,
    out: options.Out = None,
    config: options.Config = None,
    seeds: Annotated[int, typer.Option(help="Runs of each start, of seeds one after the other.", min=1)] = 3,
    seed: Annotated[int | None, typer.Option(help="The first one.  [default: the recipe's]", min=0)] = None,
    per_class: Annotated[
        list[int] | None, typer.Option(help="Images of each class to train with; again for another table.", min=1)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A timm model, for 'none'.  [default: the first start's that has one]")
    ] = None,
    launcher: Annotated[
        str, typer.Option(help="What starts each run, as 'torchrun --nproc-per-node 8'.  [default: this Python]")
    ] = "",
    as_json: options.AsJson = False,
) -> None:
    """Fine-tune from several starts under the same settings and seeds, and compare them."""
    starts = comparison.parse_starts(start or [])
    if out is None:
        raise UsageError("--out: give a folder for the runs and the table")
    if len(set(per_class or [])) < len(per_class or []):
        raise UsageError(f"--per-class {' '.join(map(str, per_class or []))}: each once")
    recipe = comparison.Recipe(config=config, overrides=tuple(overrides or []), data=data or "", model=model)
    first = recipe.settings({"run.seed": seed}).run.seed
    program = python("finetune", shlex.split(launcher))
    with Children() as children:
        asked = comparison.compose(
            recipe, starts, seeds=range(first, first + seeds), per_class=per_class or [0], out=out
        )
        report = compare(asked, program, children)
    show(report, out, as_json=as_json)


def compare(asked: comparison.Comparison, program: list[str], children: Children) -> dict[str, object]:
    """Do the runs that are not done, and write the report after each."""
    ledger, trials = comparison.Ledger(asked.recipe), asked.trials()
    done = {trial for trial in trials if ledger.is_done(trial)}
    asked.out.mkdir(parents=True, exist_ok=True)
    for number, trial in enumerate(trials, start=1):
        if trial not in done:
            console.say({"run": f"{number} of {len(trials)}: {trial.name}"})
            children.run([*program, *trial.words(asked.recipe)], trial.name)
            ledger.record(trial)
            done.add(trial)
            comparison.write_report(asked, done)
    return comparison.write_report(asked, done)


def show(report: dict[str, object], out: Path, *, as_json: bool) -> None:
    """The tables, or JSON, on stdout."""
    if as_json:
        print(json.dumps(report))
        return
    for title, rows in comparison.tables(report).items():
        print(f"{title}\n{contrast.aligned(rows)}\n")
    print(f"{comparison.NOTE}\n{out / comparison.REPORT}.json, .md, .png")


if __name__ == "__main__":
    sys.exit(console.run(app, "compare", sys.argv[1:]))
