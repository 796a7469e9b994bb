"""Options that several commands of training share: which settings have one, and what is no setting."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fracgen.shards.errors import UsageError

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
    typer.Argument(metavar="[NAME=VALUE]...", help="Any setting by its dotted name, as in model.options.depth=4."),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder to write the run to, or to resume it from.", rich_help_panel="Output")
]
Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.yaml", help="YAML file of settings; options and NAME=VALUE override it.", rich_help_panel="Output"
    ),
]
Resume = Annotated[
    Literal["auto", "never"],
    typer.Option(help="auto: go on with the run that --out holds. never: refuse to.", rich_help_panel="Output"),
]
AllowChanges = Annotated[
    bool,
    typer.Option(
        "--allow-changes", help="Go on with a run even if its settings were others.", rich_help_panel="Output"
    ),
]
StopAfter = Annotated[
    int,
    typer.Option(
        help="Pause when the run has taken this many steps in all; 0: do not pause.", min=0, rich_help_panel="Training"
    ),
]
Benchmark = Annotated[
    bool,
    typer.Option(
        "--benchmark", help="Measure images/s of model, data and both, and keep nothing.", rich_help_panel="Output"
    ),
]
Estimate = Annotated[
    bool,
    typer.Option(
        "--estimate",
        help="Estimate hours and memory on 8 x H100, and here, and keep nothing. Data is opened only for what "
        "--num-classes and --samples or --steps do not say.",
        rich_help_panel="Output",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel="Output")]
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
