"""Options that several commands of training share: which settings have one, and what is no setting."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from fracgen.shards.commandline import OVERRIDES
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting

NAMES = (
    "model.name",
    "model.init",
    "schedule.steps",
    "schedule.samples",
    "schedule.epochs",
    "loader.batch_size",
    "optim.lr",
    "loader.mode",
    "loader.augment",
    "loader.resize",
    "loader.skip_bad",
    "loader.workers",
    "run.seed",
    "run.device",
    "run.precision",
    "run.compile",
    "run.log",
)
"""Settings of pre-training and fine-tuning that have an option; all others are given as NAME=VALUE, or in a file."""

CACHE = ("cache.folder", "cache.limit")
"""Settings of the cache for URLs, which have an option too."""

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar=OVERRIDES, help="Any setting by its dotted name, as in model.options.depth=4."),
]
Out = Annotated[Path | None, Setting("Folder to write the run to, or to resume it from.", panel="Output")]
Config = Annotated[
    str | None,
    Setting("YAML file of settings; options and NAME=VALUE override it.", metavar="FILE.yaml", panel="Output"),
]
AsJson = Annotated[bool, Setting("Print the result as JSON.", option="--json", panel="Output")]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line says of one run of training, beside its settings."""

    out: Out = None
    config: Config = None
    resume: Annotated[
        Literal["auto", "never"],
        Setting("auto: go on with the run that --out holds. never: refuse to.", panel="Output"),
    ] = "auto"
    allow_changes: Annotated[bool, Setting("Go on with a run even if its settings were others.", panel="Output")] = (
        False
    )
    stop_after: Annotated[
        int,
        Setting("Pause when the run has taken this many steps in all; 0: do not pause.", at_least=0, panel="Training"),
    ] = 0
    benchmark: Annotated[
        bool, Setting("Measure images/s of model, data and both, and keep nothing.", panel="Output")
    ] = False
    as_json: AsJson = False


Estimate = Annotated[
    bool,
    typer.Option(
        "--estimate",
        help="Estimate hours and memory on 8 x H100, and here, and keep nothing. Data is opened only for what "
        "--num-classes and --samples or --steps do not say.",
        rich_help_panel="Output",
    ),
]
OldFeed = Annotated[str | None, typer.Option("--feed", hidden=True)]
"""A spelling that fracgen 0.2 had for what --loader is now."""

OldTensorboard = Annotated[bool, typer.Option("--tensorboard", hidden=True)]
"""A spelling that fracgen 0.3 had for --log tensorboard."""


def refuse_old_tensorboard(typed: bool) -> None:
    """Raises UsageError with what to give instead, where the old option was typed."""
    if typed:
        raise UsageError("--tensorboard: is --log tensorboard now")


def refuse_old_feed(mode: str | None, mend: str = "is --loader memory or --loader stream now") -> None:
    """Raises UsageError with what to give instead, where the old name was typed."""
    if mode is not None:
        raise UsageError(f"--feed {mode}: {mend}")
