"""How fast a run goes: on the screen after the first step and once the rate is known, and in the run's outcome."""

import time
from typing import Any

import torch

from fracgen.train.engine.schedule import describe_seconds

_LEAST_SECONDS, _LEAST_STEPS = 5.0, 3
"""After the first step, so long at least before the length of the run is estimated."""


class RunSpeed:
    """Times of one run. The first step is left out of all rates: it compiles, and waits for the first batch."""

    def __init__(self, began: float, device: torch.device) -> None:
        """began: `time.perf_counter()` of the start."""
        self._began, self._device = began, device
        self._first: tuple[int, float] | None = None  # steps taken, and the clock, when the first step was done
        self._ended = began
        self._is_estimated = False

    def advance(self, step: int, *, steps: int, batch_size: int) -> str | None:
        """Count a step; a line for the screen where there is news: the first step, the expected length of the run."""
        if self._is_estimated:
            return None
        if self._first is None:
            self._first = step, self._clock()
            return f"{'first':<9} step after {self._first[1] - self._began:.1f} s"
        if step - self._first[0] < _LEAST_STEPS or time.perf_counter() - self._first[1] < _LEAST_SECONDS:
            return None
        self._is_estimated = True
        seconds_per_step = (self._clock() - self._first[1]) / (step - self._first[0])
        left, rate = describe_seconds((steps - step) * seconds_per_step), batch_size / seconds_per_step
        return f"{'length':<9} about {left} at this rate ({rate:,.0f} images/s)"

    def _clock(self) -> float:
        """The time when the device has done what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def end(self) -> None:
        """Stop the clock of `outcome`'s rate."""
        self._ended = time.perf_counter()

    def outcome(self, step: int, *, batch_size: int) -> dict[str, Any]:
        """What `step` steps took: steps, samples, images per second after the first step, seconds since the start."""
        rates: dict[str, float] = {}
        if self._first and step > self._first[0]:
            rate = (step - self._first[0]) / (self._ended - self._first[1]) * batch_size
            rates["images_per_second"] = round(rate, 1)
        return {"steps": step, "samples": step * batch_size, **rates, "seconds": self.seconds}

    @property
    def seconds(self) -> float:
        """Seconds since the start, rounded for the screen."""
        return round(time.perf_counter() - self._began, 1)
