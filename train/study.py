"""Render, pre-train, fine-tune and compare the variants of a study, by one command.

    python train/study.py examples/ablations/delta.yaml --data my-images --out runs/delta
    python train/study.py examples/ablations/delta.yaml --data torch/cifar100 --out runs/delta --published
    python train/study.py examples/cifar10-laptop/study.yaml --data cifar10 --out runs/cifar10 --dry-run

Each step is a command of its own that can be run by hand; --dry-run prints them. The same command goes on after a stop.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.engine.run_folder import read_json, write_text
from fracgen.train.experiments import comparison, contrast
from fracgen.train.experiments.children import Children
from fracgen.train.experiments.plan import Asked, Step, Variant, load_study, plan

app = console.app()
REPORT = "study"
TIMES = "times.json"


@app.command()
def main(
    *,
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="As in examples/ablations.")],
    data: Annotated[str, typer.Option(help="Labelled images to fine-tune on, as train/finetune.py takes them.")],
    out: Annotated[Path, typer.Option(help="Folder for everything, to write or to resume.")],
    published: Annotated[bool, typer.Option("--published", help="At the published size.  [default: laptop]")] = False,
    photo: Annotated[
        Path | None, typer.Option(help="For studies of one photograph.  [default: scikit-image's astronaut]")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Fine-tuning runs of each variant; 0: the study's.", min=0)] = 0,
    per_class: Annotated[
        list[int] | None, typer.Option(help="Images of each class, in place of the study's; again for more.", min=1)
    ] = None,
    pretrain: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A setting of every pre-training; again for more.")
    ] = None,
    finetune: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A setting of every fine-tuning; again for more.")
    ] = None,
    launcher: Annotated[str, typer.Option(help="What starts training, as 'torchrun --nproc-per-node 8'.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands in order, and run none.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Render, pre-train, fine-tune and compare the variants of a study."""
    about, size, variants = load_study(study, "published" if published else "laptop")
    asked = Asked(
        data=data,
        out=out,
        photo=photo,
        per_class=tuple(per_class or ()),
        seeds=seeds,
        launcher=launcher,
        pretrain=tuple(pretrain or ()),
        finetune=tuple(finetune or ()),
    )
    steps = plan(size, variants, asked)
    if dry_run:
        print("\n".join(shlex.join(step.words) for step in steps))
        return
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock(out / TIMES)
    with Children() as children:
        comparison.check_data(asked.recipe(size), asked.per_class or size.per_class)
        for number, step in enumerate(steps, start=1):
            if not clock.is_done(step) or step is steps[-1]:  # the comparison knows itself what it has done
                console.say({"step": f"{number} of {len(steps)}: {step.name}"})
                clock.run(step, children)
    report = {"about": about, **read_json(steps[-1].product), "seconds": clock.seconds(steps)}
    report["published"] = {name: dict(variant.published) for name, variant in variants.items()}
    write_text(out / f"{REPORT}.json", json.dumps(report, indent=1))
    found = {**comparison.tables(report, _published(variants)), "time": _times(report["seconds"])}
    text = "\n\n".join(
        f"## {title[0].upper()}{title[1:]}\n\n{contrast.markdown(rows)}" for title, rows in found.items()
    )
    write_text(out / f"{REPORT}.md", f"# {about}\n\n{text}\n\n{comparison.NOTE} {SPREAD}\n")
    if as_json:
        print(json.dumps(report))
        return
    for title, rows in found.items():
        print(f"{title}\n{contrast.aligned(rows)}\n")
    print(f"{comparison.NOTE}\n{SPREAD}\n{out / REPORT}.json, .md; {steps[-1].product.with_suffix('.png')}")


SPREAD = "Each variant is pre-trained once: the spread is that of fine-tuning."


class Clock:
    """How long each step took in all, over interruptions, and which have ended. Kept in a file as time passes."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file is damaged."""
        self._path = path
        self._kept: dict[str, Any] = read_json(path) if path.exists() else {}

    def is_done(self, step: Step) -> bool:
        """Whether it has ended, as it is asked for now, and what it made is there."""
        return self._kept.get(step.name, {}).get("done") == step.key and step.product.exists()

    def run(self, step: Step, children: Children) -> None:
        """Run it. The time of one that is done already, and only looks at what is there, is not counted."""
        done = self.is_done(step)
        before, began = self._kept.get(step.name, {}).get("seconds", 0.0), time.perf_counter()

        def keep(key: str | None = None) -> None:
            passed = 0.0 if done else time.perf_counter() - began
            self._kept[step.name] = {"seconds": round(before + passed, 1), "done": step.key if done else key}
            write_text(self._path, json.dumps(self._kept, indent=1))

        try:
            children.run(step.words, step.name, tick=keep)
        except BaseException:
            keep()
            raise
        keep(step.key)

    def seconds(self, steps: list[Step]) -> dict[str, float]:
        """By name of the step."""
        return {step.name: self._kept[step.name]["seconds"] for step in steps}


def _published(variants: Mapping[str, Variant]) -> dict[str, dict[str, str]]:
    """Columns of the published numbers, by heading: cells by variant."""
    sets = dict.fromkeys(name for variant in variants.values() for name in variant.published)
    return {
        f"published, {each}": {
            name: f"{variant.published[each]:.1f}" for name, variant in variants.items() if each in variant.published
        }
        for each in sets
    }


def _times(seconds: Mapping[str, float]) -> list[list[str]]:
    rows = [[name, _duration(each)] for name, each in seconds.items()]
    return [["step", "time"], *rows, ["in all", _duration(sum(seconds.values()))]]


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


if __name__ == "__main__":
    sys.exit(console.run(app, "study", sys.argv[1:]))
