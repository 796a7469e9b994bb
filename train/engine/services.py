"""TensorBoard, Weights & Biases and trackio, as `Service` has them. Each library is imported when its log is opened."""

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import yaml

from fracgen.train.engine.settings import LogService

_SECONDS = 60.0
"""That W&B may take to begin a run, and to end one: what is not sent by then stays in the run's folder."""


Picture = npt.NDArray[np.uint8]
"""(H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a service is told of a run. id: of this run there, the same after every resume. config: hyper-parameters.

    folder: of the run, in which services keep what they write on this machine. name: for people; runs of one comparison
    or study share a group.
    """

    id: str
    folder: Path
    project: str
    group: str
    name: str
    config: Mapping[str, Any]


class Service(Protocol):
    """A service that keeps logs. Any exception of it ends the log of this process, and nothing else."""

    def send(self, step: int, values: Mapping[str, float], pictures: Mapping[str, Picture]) -> None:
        """All of one step; steps ascend."""

    def close(self) -> None:
        """Send what waits, within bounds, and end."""


class TensorBoard:
    """Event files in RUN/tensorboard; each step is flushed, so that a kill loses none."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter, summary

        place = run.folder / "tensorboard"
        is_new = not any(place.glob("events.*")) if place.is_dir() else True
        make_writer: Any = SummaryWriter
        self._writer = make_writer(str(place))
        if is_new:
            self._writer.add_text("config", f"```yaml\n{yaml.safe_dump(dict(run.config), sort_keys=False)}\n```")
            scalars = {name: value for name, value in _flat(run.config).items() if isinstance(value, _SCALAR)}
            make_hparams: Any = summary.hparams
            for part in make_hparams(scalars, {"loss": 0.0}):
                self._writer.file_writer.add_summary(part)

    def send(self, step: int, values: Mapping[str, float], pictures: Mapping[str, Picture]) -> None:
        """Write one step, and flush it."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, its files in RUN/wandb; offline where WANDB_MODE or `wandb offline` says so.

    The command line, the code and the console are not sent: they may hold what the settings hide.
    Raises what wandb raises, and RuntimeError where nobody is logged in: it would ask, and training would wait.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._wandb: Any = wandb
        if wandb.setup().settings.mode == "online":
            with contextlib.redirect_stderr(io.StringIO()):
                logged_in = wandb.login(prompt=False, verify=False)
            if not logged_in:
                raise RuntimeError("not logged in; `wandb login`, or WANDB_MODE=offline")
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            init_timeout=_SECONDS,
            finish_timeout=_SECONDS,
            x_transaction_log_flush_interval=0.5,  # seconds: all that a kill can take
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=run.project,
            group=run.group or None,
            name=run.name,
            id=run.id,
            dir=str(run.folder),
            resume="allow",
            reinit="finish_previous",
            config=dict(run.config),
            allow_val_change=True,
            settings=settings,
        )

    def send(self, step: int, values: Mapping[str, float], pictures: Mapping[str, Picture]) -> None:
        """Hand one step to wandb's own process."""
        images = {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._run.log({**values, **images}, step=step, commit=True)

    def close(self) -> None:
        """Wait until all is sent, a minute at most."""
        self._run.finish()


class Trackio:
    """A run of trackio, in its own folder on this machine, or where TRACKIO_SPACE_ID says."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio: Any = trackio
        with _silence():
            self._run = trackio.init(
                project=run.project,
                name=f"{run.name.replace('/', '.')}-{run.id[:6]}",  # runs are told apart by their names
                group=run.group or None,
                config=dict(_flat(run.config)),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def send(self, step: int, values: Mapping[str, float], pictures: Mapping[str, Picture]) -> None:
        """Hand one step to trackio's thread, which writes every half second."""
        images = {name: self._trackio.Image(picture) for name, picture in pictures.items()}
        with _silence():
            self._run.log({**values, **images}, step=step)

    def close(self) -> None:
        """Wait until all is written, half a minute at most."""
        with _silence():
            self._trackio.finish()


SERVICES: Mapping[LogService, Callable[[TrackedRun], Service]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
_SCALAR = (bool, int, float, str)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if value is None or isinstance(value, _SCALAR) else str(value)
    return flat


def _silence() -> contextlib.AbstractContextManager[Any]:
    """Nothing on stdout: the result of a command goes there."""
    return contextlib.redirect_stdout(io.StringIO())
