"""The command line of `fracgen`: which commands there are. Each is imported when it runs."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated

import typer

from fracgen.formulas import FORMULAS
from fracgen.shards.commandline import LazyCommand, lazy_group, main, show_help
from fracgen.shards.errors import UsageError

BASELINES = {
    name: LazyCommand("fracgen.cli.baselines:command_of", formula.baseline, argument=name)
    for name, formula in FORMULAS.items()
    if formula.baseline
}
_BASELINE = "Render what 1p-frac is compared with: FractalDB, OFDB, ExFractalDB, VisualAtom, RCDB, MultiFractal, noise."
baseline = lazy_group(BASELINES, _BASELINE)

_RENDER, _LOOK, _SHARE, _TRAIN = "Data sets", "Look and check", "Share", "Training, with the extra fracgen[train]"
PROGRAMS = {
    "pretrain": "Pre-train a timm model on shards, by default for the 61.44 million samples of the published recipe.",
    "mae": "Pre-train a ViT as a masked autoencoder, without labels; by default for 800 epochs, as published.",
    "dyck": "Warm up a ViT's blocks on sequences of brackets (k-Dyck), without images; by default for 15,000 steps.",
    "finetune": "Fine-tune a model on labelled images, by default for 1000 epochs, and report its accuracy.",
    "probe": "Linear probe and nearest neighbours by block, few-shot accuracy, and attention maps of frozen networks.",
    "compare": "Fine-tune from several starts under the same settings and seeds, and compare them.",
    "suite": "Fine-tune from several starts on every task of a suite, and report one table.",
    "study": "Render, pre-train, fine-tune and compare the variants of a study.",
}
"""The programs of `fracgen.train`."""
COMMANDS = {
    "render": LazyCommand(
        "fracgen.cli.render:render",
        "Render 1p-frac: one fractal, perturbed into L classes, as WebDataset shards. With --recipe, any data set.",
        _RENDER,
    ),
    "baseline": LazyCommand("fracgen.cli.app:baseline", _BASELINE, _RENDER),
    "perturb": LazyCommand(
        "fracgen.cli.baselines:perturb",
        "Render one image of another formula, perturbed into L classes as 1p-frac is: contour, atom, fractal.",
        _RENDER,
    ),
    "photo": LazyCommand(
        "fracgen.cli.photo:photo",
        "Render one real image, or several: its edges, warped into L classes. Ranges and thresholds are ours.",
        _RENDER,
    ),
    "search": LazyCommand(
        "fracgen.cli.search:search",
        "Search FractalDB's or ExFractalDB's categories, as published. What is found is kept, and found once.",
        _RENDER,
    ),
    "merge": LazyCommand(
        "fracgen.cli.folders:merge",
        "Finish a folder that was rendered in parts: write its manifest, or say which shards are missing.",
        _RENDER,
    ),
    "pack": LazyCommand(
        "fracgen.cli.folders:pack",
        "Pack images into shards, the files as they are: a folder a class, or labels in a table beside them.",
        _RENDER,
    ),
    "inspect": LazyCommand(
        "fracgen.cli.tools:inspect", "Show what a folder holds: recipe, counts, sizes, rejections.", _LOOK
    ),
    "verify": LazyCommand(
        "fracgen.cli.tools:verify",
        "Check file and pixel hashes, tar structure, counts, labels and decodability; exit 1 names what is bad.",
        _LOOK,
    ),
    "score": LazyCommand(
        "fracgen.cli.score:score",
        "Judge a set before training on it: dimension, lacunarity, fill, duplicates, how well classes are told apart.",
        _LOOK,
    ),
    "preview": LazyCommand(
        "fracgen.cli.tools:preview",
        "Draw a contact sheet: some classes, several images of each, and what makes them differ; or a sweep.",
        _LOOK,
    ),
    "explore": LazyCommand(
        "fracgen.cli.explore:explore",
        "Look at data sets while you set them: a page on this machine, drawn live by the renderer.",
        _LOOK,
    ),
    "draw": LazyCommand("fracgen.cli.tools:draw", "Draw one IFS exactly as the published renderer does.", _LOOK),
    "bench": LazyCommand(
        "fracgen.cli.tools:bench",
        "Measure ms per image and images/s: of 1p-frac's steps, or of all data sets end to end.",
        _LOOK,
    ),
    "export": LazyCommand(
        "fracgen.cli.export:export",
        "Export a data set to parquet or an image folder, a model to ONNX; whole, or not at all.",
        _SHARE,
    ),
    "publish": LazyCommand(
        "fracgen.cli.publish:publish",
        "Publish a data set or a model: what is missing is uploaded, and what arrived is compared, size and hash.",
        _SHARE,
    ),
    **{name: LazyCommand(f"fracgen.train.{name}:app", summary, _TRAIN) for name, summary in PROGRAMS.items()},
}


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from fracgen.shards.versions import version_of

        print(version_of("fracgen"))
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    show_help(context)


app = lazy_group(
    COMMANDS, "Synthetic pre-training data from formulas: exact, fast, reproducible to the byte.", _options
)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code. What the user can mend becomes one line on stderr."""
    if arguments and arguments[0] in PROGRAMS:
        return run_program(arguments[0], arguments[1:])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would do nothing but take memory
    return main(app, "fracgen", arguments)


def run_program(name: str, arguments: Sequence[str]) -> int:
    """Run a program of `fracgen.train`; returns its exit code, 2 where what it needs is not installed."""
    try:
        for library in ("torch", "timm"):
            if find_spec(library) is None:
                raise ModuleNotFoundError(name=library)
        code: int = importlib.import_module(f"fracgen.train.{name}").run(arguments)
        return code
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fracgen"):
            raise
        mend = "pip install 'fracgen[train]'"
        print(f"fracgen {name}: needs {error.name}, which is not installed: {mend}", file=sys.stderr)
        return UsageError.exit_code
