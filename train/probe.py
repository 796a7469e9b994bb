"""What a frozen network has learned and looks at: block by block, from a few images, by its attention.

    python train/probe.py --checkpoint runs/1p-frac --data cifar10 --out probes
    python train/probe.py --checkpoint fractal=runs/1p-frac --checkpoint noise=runs/noise --data cifar10 --out probes
    python train/probe.py --checkpoint runs/1p-frac --data cifar10 --data flowers --few-shot --attention --out probes

The layer-wise probe is the figure of "Scaling Backwards" (ECCV 2024) that shows which layers pre-training has formed,
with a randomly initialised network of the same architecture for comparison. Features are taken as a block returns
them, before any later norm, and standardised by the training images. Multinomial logistic regression is fitted by
L-BFGS, its penalty chosen on a tenth of the training images; neighbours vote as in DINO. Nothing is chosen on the test
images.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fracgen.shards.commandline import command_app, options_from
from fracgen.shards.errors import UsageError
from fracgen.shards.files import check_local, write_atomically
from fracgen.shards.settings import Setting, load_settings
from fracgen.train import cli as console
from fracgen.train import options
from fracgen.train.probing.settings import OPTIONS, ProbeSettings

if TYPE_CHECKING:
    from fracgen.train.probing.backbones import Backbone


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the results go."""

    out: Annotated[Path | None, Setting("Folder for probe.json and the figures.", panel="Output")] = None
    as_json: options.AsJson = False


@options_from(ProbeSettings, OPTIONS)
@options_from(Output, into="output", build=True)
def main(
    *,
    option_values: Mapping[str, Any],
    overrides: options.Overrides = None,
    output: Output,
    feed: options.OldFeed = None,
) -> None:
    """Linear probe and nearest neighbours by block, few-shot accuracy, and attention maps of frozen networks."""
    options.refuse_old_feed(feed, "is --loader in training now, and a probe reads each image once; leave it out")
    settings = load_settings(ProbeSettings, None, option_values, overrides or [])
    if not settings.checkpoints:
        raise UsageError("--checkpoint: give the folder of a run, a timm folder, timm:NAME, or a file of weights")
    if not settings.data:
        raise UsageError("--data: give a folder of train/ and test/ with class folders or shards, or a timm name")
    if (out := output.out) is None:
        raise UsageError("--out: give a folder for probe.json and the figures")
    result = probe(settings, out)
    if output.as_json:
        print(json.dumps(result))
        return
    from fracgen.train.probing import figure

    if settings.layers:
        print(figure.table(result["tasks"]), end="\n\n")
    if settings.few_shot:
        print(figure.few_shot_table(result["tasks"]), end="\n\n")
    seconds = ", ".join(f"{name} {each}" for name, each in result["seconds"].items())
    chance = ", ".join(f"{100 * task['chance']:.1f}" for task in result["tasks"])
    skipped = sum(sum(task["skipped"].values()) for task in result["tasks"])
    rows = {"chance": chance, "skipped": skipped, "seconds": seconds, "json": str(out / "probe.json")}
    console.result({**rows, "figures": ", ".join(str(out / name) for name in result["figures"])}, as_json=False)


app = command_app(main)


def probe(settings: ProbeSettings, out: Path) -> dict[str, Any]:
    """Probe all networks, and write probe.json and figures to the folder `out`; returns what probe.json holds.

    Raises UsageError for settings that the images or checkpoints do not allow, DataError for images that cannot be
    read and features that are not finite.
    """
    began = time.perf_counter()
    from fracgen.train.engine import precision
    from fracgen.train.probing import figure
    from fracgen.train.probing.attention import check_attention
    from fracgen.train.probing.attention_report import report_attention
    from fracgen.train.probing.backbones import load_backbones
    from fracgen.train.probing.task_scores import score_task
    from fracgen.train.probing.tasks import open_tasks
    from fracgen.train.ranks import join

    # the device
    check_local(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a probe is one process's work; start it without torchrun")
    device = join(settings.device).device
    resolved = precision.resolve(settings.precision, device)
    amp = precision.autocast_dtype(resolved)
    if precision.is_emulated(resolved, device):
        console.say({"warning": precision.EMULATED})

    # the images, and the networks
    tasks = open_tasks(settings, console.bar("opening"))
    backbones = load_backbones(settings, device)
    for backbone in backbones:
        precision.choose_attention(backbone.network, amp, device)
        if settings.attention:
            check_attention(backbone, settings.heads)
    _check_blocks(settings, backbones)
    out.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        counts = f"{len(task.train):,} to fit and to be neighbours, {len(task.test):,} to report on"
        console.say({"data": f"{task.name}: {task.description}", **task.notes, "images": counts})
    console.say({"net": "; ".join(map(str, backbones))})
    for backbone in backbones:
        if backbone.origin:
            console.say({"weights": f"{backbone.name}: {backbone.origin}"})

    # each task's accuracies, then what the networks look at
    seconds = defaultdict(float, opening=time.perf_counter() - began)
    results = [score_task(task, backbones, settings, amp, seconds) for task in tasks]
    figures = []
    if settings.layers:
        figure.draw(results, [backbone.random for backbone in backbones], out / "probe.png")
        figures.append("probe.png")
    attention: dict[str, Any] = {}
    if settings.attention:
        attention, names = report_attention(tasks[0], backbones, settings, out, seconds)
        figures += names
    seconds["all"] = time.perf_counter() - began
    result: dict[str, Any] = {
        "nets": [backbone.describe() for backbone in backbones],
        "tasks": results,
        **({"attention": attention} if attention else {}),
        "crop": settings.crop,
        "k": settings.k,
        "seed": settings.seed,
        "precision": resolved,
        "figures": figures,
        "seconds": {name: round(each, 1) for name, each in seconds.items()},
    }
    write_atomically(out / "probe.json", json.dumps(result, indent=2) + "\n")
    return result


def _check_blocks(settings: ProbeSettings, backbones: "Sequence[Backbone]") -> None:
    """Raise UsageError for a --block that a network has not."""
    shallowest = min(backbones, key=lambda backbone: len(backbone.blocks))
    if settings.blocks and max(settings.blocks) > len(shallowest.blocks):
        raise UsageError(
            f"--block {max(settings.blocks)}: {shallowest.name} has {len(shallowest.blocks)} blocks, from 1 on"
        )


def run(argv: Sequence[str]) -> int:
    """The program: `fracgen probe` and `python train/probe.py`. Returns its exit code."""
    return console.run(app, "probe", argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
