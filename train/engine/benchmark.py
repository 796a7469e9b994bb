"""The measurement of `--benchmark`: how far the data holds the model back."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fracgen.train.ranks import Ranks

_ROUNDS = 5
_SECONDS, _SECONDS_ON_GPU = 3.0, 0.5
"""Each is measured this long in each round, one after the other: the machine may be shared. A GPU's steps are short."""
_READY = 5
"""Batches that a streaming loader makes ahead at most; they are there at once when the loader is measured."""


def measure(
    batches: Callable[[int], Any],
    inputs: Callable[[int, Any], tuple[Tensor, Tensor]],
    train_step: Callable[[int, Tensor, Tensor], Tensor],
    *,
    batch_size: int,
    ranks: Ranks,
) -> dict[str, float]:
    """Images/s of all ranks: of the model alone (one batch, again and again), of the loader alone, of loading,
    augmenting and mixing, and of all; medians of five rounds, in each of which they are measured in turn.

    Also the median over the rounds of end to end / model only, and the CPU milliseconds of this process for an image,
    end to end, which say more than its rate where other programs have the cores. It trains: the weights are not to be
    kept.
    """
    iterator = batches(0)
    images, targets = inputs(0, next(iterator))
    ready = images.clone(), targets.clone()

    def model_only(step: int) -> None:
        train_step(step, *ready)

    def loader_only(step: int) -> None:
        next(iterator)

    def data_only(step: int) -> None:
        inputs(step, next(iterator))

    def end_to_end(step: int) -> None:
        train_step(step, *inputs(step, next(iterator)))

    kinds = {"model_only": model_only, "loader_only": loader_only, "data_only": data_only, "end_to_end": end_to_end}

    def in_turn() -> Iterator[tuple[str, Callable[[int], None]]]:
        for name, take in kinds.items():
            if name == "loader_only":
                _seconds(take, _READY, ranks)  # what was made ahead while the model was measured
            yield name, take

    try:
        counts = {name: _warm_up(take, ranks) for name, take in in_turn()}
        rates: dict[str, list[float]] = {name: [] for name in kinds}
        cpu_ms: list[float] = []  # an image, of what each round measures last: end to end
        for _ in range(_ROUNDS):
            for name, take in in_turn():
                cpu_start = time.process_time()
                rates[name].append(_seconds(take, counts[name], ranks) ** -1 * counts[name] * batch_size)
            images_here = counts["end_to_end"] * batch_size / ranks.world
            cpu_ms.append((time.process_time() - cpu_start) * 1000 / images_here)
    finally:
        iterator.close()
    ratios = [whole / alone for whole, alone in zip(rates["end_to_end"], rates["model_only"], strict=True)]
    medians = {f"{name}_images_per_second": round(statistics.median(values), 1) for name, values in rates.items()}
    return {
        **medians,
        "end_to_end_of_model_only": round(statistics.median(ratios), 3),
        "end_to_end_cpu_ms_per_image": round(statistics.median(cpu_ms), 3),
    }


def _warm_up(take: Callable[[int], None], ranks: Ranks) -> int:
    """Steps that fill the time of a round, at least two; the same on all ranks."""
    _seconds(take, 2, ranks)
    seconds = torch.tensor([_seconds(take, 2, ranks) / 2], device=ranks.device)
    length = _SECONDS_ON_GPU if ranks.device.type == "cuda" else _SECONDS
    return max(2, round(length / float(ranks.mean(seconds).item())))


def _seconds(take: Callable[[int], None], count: int, ranks: Ranks) -> float:
    _finish(ranks)
    start = time.perf_counter()
    for step in range(count):
        take(step)
    _finish(ranks)
    return time.perf_counter() - start


def _finish(ranks: Ranks) -> None:
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)
    ranks.wait()
