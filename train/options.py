"""The options that all protocols have, and how they, a YAML file and overrides become settings."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from fracgen.shards.errors import UsageError
from fracgen.train.config import Device as DeviceName
from fracgen.train.config import FeedMode, Where, load
from fracgen.train.config import Precision as PrecisionName
from fracgen.train.engine import run_folder as rundir

T = TypeVar("T")

_LENGTHS = ("schedule.steps", "schedule.samples", "schedule.epochs")

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Any setting, as augment.erase=0.25.")
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run, to write or to resume.")]
Config = Annotated[str | None, typer.Option(metavar="FILE.yaml", help="Settings; options override them.")]
Steps = Annotated[int | None, typer.Option(help="Length of the run, or --samples, or --epochs.", min=1)]
Samples = Annotated[int | None, typer.Option(min=1)]
Epochs = Annotated[float | None, typer.Option(min=0)]
BatchSize = Annotated[int | None, typer.Option(help="Of all processes together.", min=1)]
LearningRate = Annotated[float | None, typer.Option(help="For a batch of 512; scaled by the batch.")]
NumClasses = Annotated[int | None, typer.Option(help="Of tars without our manifest.", min=1)]
Data = Annotated[FeedMode | None, typer.Option(help="Keep the set on the device, or stream it.")]
Augment = Annotated[Where | None, typer.Option(help="On the device, or timm's pipeline in the workers.")]
Resize = Annotated[int | None, typer.Option(help="Bring all images to this size in pixels.", min=1)]
SkipBad = Annotated[bool | None, typer.Option("--skip-bad", help="Count what cannot be read, and go on.")]
Workers = Annotated[int | None, typer.Option(help="Processes that read, of each rank.", min=0)]
Seed = Annotated[int | None, typer.Option(min=0)]
Device = Annotated[DeviceName | None, typer.Option()]
Precision = Annotated[PrecisionName | None, typer.Option()]
Compile = Annotated[bool | None, typer.Option("--compile", help="Compile the model.")]
Tensorboard = Annotated[bool | None, typer.Option("--tensorboard", help="Write TensorBoard's events too.")]
Resume = Annotated[rundir.Resume, typer.Option(help="Go on with the run in --out, or refuse to.")]
AllowChanges = Annotated[bool, typer.Option("--allow-changes", help="Go on with other settings.")]
StopAfter = Annotated[int, typer.Option(help="Pause after this many steps in all; 0: never.", min=0)]
Benchmark = Annotated[bool, typer.Option("--benchmark", help="Measure images/s instead of training.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def resolve(kind: type[T], config: str | None, given: Mapping[str, Any], overrides: list[str] | None) -> T:
    """Settings from their defaults, the YAML file, the options that were given (not None), then the overrides.

    A length given in one unit takes the place of what the file gives in another.
    Raises UsageError with the option, file, key and value.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    lengths = [name for name in _LENGTHS if name in chosen]
    if len(lengths) > 1:
        raise UsageError("--steps, --samples, --epochs: give one of them")
    epochs = chosen.get("schedule.epochs", 1.0)
    if not 0 < epochs < float("inf"):
        raise UsageError(f"--epochs {epochs}: must be more than 0, and finite")
    if lengths or any(override.startswith(tuple(f"{name}=" for name in _LENGTHS)) for override in overrides or []):
        chosen = {"schedule.steps": 0, "schedule.samples": 0, "schedule.epochs": 0.0, **chosen}
    return load(kind, config, chosen, overrides or [])


def check_tensorboard(wanted: bool) -> None:
    """Raises UsageError where it is wanted and not installed."""
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs TensorBoard: pip install tensorboard")
