"""Metrics of a run: metrics.jsonl, curves.png, a progress bar; and a tracker that sends them on."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from fracgen.shards.files import write_atomically
from fracgen.train.engine.run_folder import write_figure
from fracgen.train.engine.tracking import Tracker, sample_grid

ACCURACIES = ("clean_accuracy", "crop_accuracy", "val_accuracy", "test_accuracy", "masked_accuracy")
_LABELS = {
    "clean_loss": "loss on whole images",
    "clean_accuracy": "whole images",
    "crop_accuracy": "training crops",
    "val_accuracy": "validation split",
    "test_accuracy": "test split",
    "masked_accuracy": "hidden brackets",
}
METRICS, CURVES = "metrics.jsonl", "curves.png"


class MetricLogger:
    """Metrics by step, appended to a file as they come; and the progress bar. Nothing is written where out is None.

    tracker: sends them on, where the run is logged elsewhere too.
    """

    def __init__(self, out: Path | None, *, steps: int, start: int, tracker: Tracker | None = None) -> None:
        """Lines of steps after `start`, of a run that was killed, are dropped: those steps are taken again."""
        self._path = out / METRICS if out else None
        if self._path is not None:
            kept = [line for line in read(self._path) if line["step"] <= start]
            write_atomically(self._path, "".join(f"{json.dumps(line)}\n" for line in kept))
            if tracker is not None:
                tracker.follow(kept)
        self._bar = tqdm(total=steps, initial=start, unit="step", disable=out is None or not sys.stderr.isatty())
        self._tracker = tracker

    def advance(self, step: int) -> None:
        """Move the bar by one step, to this one; what was logged before it is complete, and sent on."""
        self._bar.update()
        if self._tracker is not None:
            self._tracker.send(before=step)

    def write(self, text: str) -> None:
        """A line on stderr, above the bar."""
        if self._bar.disable:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values at a step: a line in the file, a point of the tracker, and beside the bar."""
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        shown = {"loss": ".3f", "lr": ".2e", "images_per_second": ",.0f", **dict.fromkeys(ACCURACIES, ".3f")}
        self._bar.set_postfix({name: format(values[name], form) for name, form in shown.items() if name in values})
        if self._tracker is not None:
            self._tracker.add(step, values)

    def log_images(
        self, step: int, images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        """Some normalised images (B, 3, H, W) of a training batch, for a tracker that has none yet; tokens are none."""
        if images.ndim == 4 and self._tracker is not None and self._tracker.wants_samples:
            self._tracker.add_picture(step, "augmented_images", sample_grid(images, mean, std))

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()

    def draw_curves(self) -> None:
        """curves.png, of the file as it is."""
        if self._path is not None:
            draw_curves(self._path, self._path.with_name(CURVES))

    def end(
        self, step: int, values: Mapping[str, float] | None = None, figures: Mapping[str, Path] | None = None
    ) -> None:
        """Send values and figures (PNG files by name) of the last step, and end the tracker's log. Once."""
        self.close()
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.add(step, values or {})
            for name, path in (figures or {}).items():
                tracker.add_picture(step, name, path)
            tracker.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The values in metrics.jsonl, one mapping a step; lines that are damaged are passed over."""
    by_step: dict[int, dict[str, Any]] = {}
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and type(values.get("step")) is int:
            numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
            by_step.setdefault(values["step"], {}).update(numbers)
    return list(by_step.values())


def last_values(path: Path, *, step: int) -> dict[str, Any]:
    """The values that were logged at `step`; empty where there are none."""
    return next((line for line in reversed(read(path)) if line["step"] == step), {})


def draw_curves(metrics: Path, picture: Path) -> None:
    """Loss, learning rate and accuracies over steps, as a PNG. All panels show the whole run so far."""
    from matplotlib.figure import Figure

    lines = read(metrics)
    logged = {name for line in lines for name in line}
    titles = {"loss": ("loss", "clean_loss"), "lr": ("lr",), "accuracy": ACCURACIES}
    panels = {title: [name for name in names if name in logged] for title, names in titles.items()}
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        return
    figure = Figure(figsize=(8, 2.4 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axes, (title, names) in zip(rows, panels.items(), strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line and math.isfinite(line[name])]
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=_LABELS.get(name, name))
        axes.set_ylabel(title)
        if len(names) > 1 or title == "accuracy":
            axes.legend()
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    axes.set_xlim(0, max(line["step"] for line in lines))
    write_figure(picture, figure)
