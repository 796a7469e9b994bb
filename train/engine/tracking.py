"""A run's log in TensorBoard, Weights & Biases or trackio: what metrics.jsonl holds, sent on; never more, never twice.

metrics.jsonl is the record, and a tracker follows it. `trackers.json` in the run's folder keeps, for each service, the
id of the run there and the last step that was sent. So a run that was killed goes on as the same run, steps that it
takes again are not sent again, and what could not be sent (no network, a service that was chosen later) is sent by the
next start. Whatever fails in a service is one line on the screen, and training goes on without it.
"""

import importlib.util
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fracgen.shards.errors import one_line
from fracgen.shards.files import read_json, write_atomically
from fracgen.train.cli import say
from fracgen.train.engine.services import SERVICES, Picture, Service, TrackedRun
from fracgen.train.engine.settings import LogService, Run

STATE = "trackers.json"
_MOST_SAMPLES = 16


class Tracker:
    """Follows one run in one service. Nothing is opened before the first step is sent: workers are forked by then.

    run_name, group, project, config: as `TrackedRun` has them.
    """

    def __init__(
        self, service: LogService, folder: Path, *, project: str, group: str, config: Mapping[str, Any]
    ) -> None:
        self._name, self._folder = service, folder
        self._state = _read_state(folder, service)
        self._run = TrackedRun(
            id=self._state["id"],
            folder=folder,
            project=project,
            group=group,
            name=run_name(folder),
            config=config,
        )
        self._service: Service | None = None
        self._values: dict[int, dict[str, float]] = {}
        self._pictures: dict[int, dict[str, Picture | Path]] = {}
        self._failed = False

    @property
    def wants_samples(self) -> bool:
        """Whether no images of the training batches were sent yet."""
        return not self._failed and not self._state["step"] and not self._pictures

    def follow(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in lines of metrics.jsonl, of an earlier process of this run."""
        for line in lines:
            self.add(line["step"], {name: value for name, value in line.items() if name != "step"})

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Values at a step, sent when the next step is taken; a step that was sent before is left out."""
        if step > self._state["step"] and not self._failed:
            self._values.setdefault(step, {}).update(values)

    def add_picture(self, step: int, name: str, picture: Picture | Path) -> None:
        """A picture, or a PNG file of one, at a step, as `add` takes values."""
        if step > self._state["step"] and not self._failed:
            self._pictures.setdefault(step, {})[name] = picture

    def send(self, *, before: int | None = None) -> None:
        """Send the steps before this one; all, where it is None."""
        steps = sorted({*self._values, *self._pictures})
        for step in steps if before is None else [each for each in steps if each < before]:
            values, pictures = self._values.pop(step, {}), self._pictures.pop(step, {})
            if self._failed:
                continue
            last = self._state["step"]
            try:
                self._remember(step)  # first: a kill between the two leaves out a point, and doubles none
                if self._service is None:
                    self._service = SERVICES[self._name](self._run)
                self._service.send(step, values, {name: read_picture(each) for name, each in pictures.items()})
            except Exception as error:  # of any library: the training is not to suffer from it
                self._fail(error, last)

    def close(self) -> None:
        """Send all, and end the run in the service."""
        self.send()
        service, self._service = self._service, None
        if service is not None:
            try:
                service.close()
            except Exception as error:
                self._fail(error, self._state["step"])

    def _remember(self, step: int) -> None:
        self._state["step"] = step
        _write_state(self._folder, self._name, self._state)

    def _fail(self, error: Exception, last: int) -> None:
        self._failed = True
        text = (one_line(str(error)) or type(error).__name__)[:300]
        say({"warning": f"--log {self._name} stopped: {text}; training goes on, and the next start sends the rest"})
        try:
            self._remember(last)
        except Exception:  # the disk is full: the next start leaves out this step
            self._state["step"] = last


def open_tracker(settings: Run, folder: Path | None, config: Mapping[str, Any]) -> Tracker | None:
    """The tracker of the settings; None for none, without a folder, and where its library is missing, with a line."""
    service = settings.log
    if service == "none" or folder is None:
        return None
    spec = importlib.util.find_spec(service)
    if spec is None or spec.origin is None:  # a folder is no library: W&B leaves `wandb/` where it works
        words = f"--log {service}: not installed (pip install 'fracgen[{service}]'); training goes on without it"
        say({"warning": words})
        return None
    return Tracker(service, folder, project=settings.log_project, group=settings.log_group, config=config)


def run_name(folder: Path) -> str:
    """The last name of a run's folder, with those above it that seeds and numbers of images lie in."""
    parts = folder.absolute().parts
    count = 1
    while count < len(parts) and re.fullmatch(r"(seed|base)-\d+", parts[-count]):
        count += 1
    if count < len(parts) and re.fullmatch(r"per-class-\d+", parts[-count - 1]):
        count += 1
    return "/".join(parts[-count:])


def sample_grid(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Picture:
    """Up to 16 of a batch of normalised images (B, 3, H, W), as they were before that, four in a row."""
    few = images[:_MOST_SAMPLES].detach().float().cpu().numpy()
    levels = few.transpose(0, 2, 3, 1) * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    pixels = (levels.clip(0, 1) * 255).round().astype(np.uint8)
    columns = min(4, len(pixels))
    rows = -(-len(pixels) // columns)
    side = pixels.shape[1]
    grid = np.zeros((rows * side, columns * side, 3), np.uint8)
    for number, image in enumerate(pixels):
        top, left = number // columns * side, number % columns * side
        grid[top : top + side, left : left + side] = image
    return grid


def read_picture(source: Picture | Path) -> Picture:
    """A picture, from its PNG file where it is one."""
    if not isinstance(source, Path):
        return source
    with Image.open(source) as picture:
        return np.asarray(picture.convert("RGB"))


def _read_state(folder: Path, service: LogService) -> dict[str, Any]:
    try:
        state = read_json(folder / STATE)[service]
        if re.fullmatch(r"[0-9a-f]{16}", state["id"]) and type(state["step"]) is int:
            return {"id": state["id"], "step": state["step"]}
    except Exception:  # none yet, or damaged: another run in the service
        pass
    return {"id": secrets.token_hex(8), "step": 0}


def _write_state(folder: Path, service: LogService, state: Mapping[str, Any]) -> None:
    path = folder / STATE
    try:
        others = read_json(path)
    except Exception:
        others = {}
    write_atomically(path, json.dumps({**others, service: dict(state)}, indent=1))
