"""The loop of every protocol: steps, logs, evaluations, checkpoints, stops. What a step does is the protocol's."""

import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fracgen.shards.errors import DataError
from fracgen.train.engine.train_step import TrainState
from fracgen.train.ranks import Ranks

Ending = Literal["finished", "stopped", "interrupted"]
_SHARE_EVERY = 10
"""With several GPUs, a signal is shared this often, in steps; on CPUs, where steps are slow, after each."""
_MOST_LOSSES = 1000


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """In steps, counted from the start of the run; 0 is never. stop_after: steps in all after which the run pauses."""

    steps: int
    batch_size: int
    stop_after: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    evaluate_every: int = 0


@dataclass(kw_only=True)
class Callbacks:
    """Callbacks between steps; every rank calls them.

    log: takes values at a step. save: writes a checkpoint. evaluate: accuracies on held-out or clean images, to log.
    advance: after each step. signals: those that came, which ask for a stop.
    """

    log: Callable[[int, Mapping[str, float]], None]
    save: Callable[[], None]
    evaluate: Callable[[], Mapping[str, float]] | None = None
    advance: Callable[[], None] = lambda: None
    signals: list[int] = field(default_factory=list)


def fit(
    state: TrainState, take_step: Callable[[int], Tensor], callbacks: Callbacks, intervals: Intervals, ranks: Ranks
) -> Ending:
    """Take steps until the end, `stop_after` or a signal (SIGINT, SIGTERM), and leave a checkpoint there.

    take_step: takes step number k, and gives its loss, a scalar on the device. Losses stay there, so that nothing waits
    for the device between logs, and all are checked before anything is logged or saved.
    Raises DataError with the step of the first loss that is not finite; the last checkpoint is good.
    """
    end = min(intervals.steps, intervals.stop_after) if intervals.stop_after else intervals.steps
    losses: list[Tensor] = []
    latest = deque(state.losses, maxlen=intervals.log_every or _MOST_LOSSES)
    clock, counted = time.perf_counter(), state.step
    with _catch_signals(callbacks.signals):
        while state.step < end:
            losses.append(take_step(state.step).detach())
            state.step += 1
            callbacks.advance()
            log, save, evaluate = (
                _is_due(state.step, every)
                for every in (intervals.log_every, intervals.checkpoint_every, intervals.evaluate_every)
            )
            evaluate = evaluate or state.step == intervals.steps
            share = ranks.world == 1 or ranks.device.type == "cpu" or state.step % _SHARE_EVERY == 0
            stop = ranks.most(max(callbacks.signals, default=0)) if share else 0
            last = state.step == end or stop > 0
            if not (log or save or evaluate or last or len(losses) >= _MOST_LOSSES):
                continue
            latest.extend(_check_losses(losses, state.step, ranks))
            losses.clear()
            state.losses = list(latest)
            logged = log or last
            if logged:
                rate = (state.step - counted) * intervals.batch_size / (time.perf_counter() - clock)
                values = {
                    "samples": state.step * intervals.batch_size,
                    "loss": sum(latest) / len(latest),
                    "lr": float(state.optimizer.param_groups[0]["lr"]),
                    "images_per_second": round(rate, 1),
                }
                callbacks.log(state.step, values)
            if save or evaluate or last:
                _check_weights(state)
            if callbacks.evaluate is not None and evaluate:  # before the checkpoint: a run goes on after both
                callbacks.log(state.step, dict(callbacks.evaluate()))
                logged = True
            if save or last:
                callbacks.save()
            if last:
                ranks.wait()  # for the checkpoint: the end of one process is the end of all
            if logged:
                clock, counted = time.perf_counter(), state.step
            if stop and state.step < end:
                callbacks.signals[:] = [stop]
                return "interrupted"
    return "finished" if state.step >= intervals.steps else "stopped"


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _check_losses(losses: list[Tensor], step: int, ranks: Ranks) -> list[float]:
    """The means of these losses over the ranks; step: number of steps after the last of them."""
    means: list[float] = ranks.mean(torch.stack(losses).float()).tolist()
    for number, loss in enumerate(means, start=step - len(means) + 1):
        if not math.isfinite(loss):
            raise DataError(
                f"step {number}: the loss is {loss}; the last checkpoint is from before. A lower --lr, a longer "
                "warm-up or optim.clip=1 may help"
            )
    return means


def _check_weights(state: TrainState) -> None:
    """A step may have a finite loss and infinite gradients: such weights are never saved."""
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in state.model.parameters()]).all()
    if not finite.item():
        raise DataError(
            f"step {state.step}: weights are not finite; the last checkpoint is from before. Try a lower --lr"
        )


@contextlib.contextmanager
def _catch_signals(signals: list[int]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a stop; a second one stops at once, as without us."""

    def catch(number: int, frame: Any) -> None:
        signals.append(number)
        for each in before:
            signal.signal(each, before[each])

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, catch)
    except ValueError:  # not the main thread, which has the signals
        before.clear()
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
