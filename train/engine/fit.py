"""The loop of every protocol: steps, logs, evaluations, checkpoints, stops. `TrainStep` says what a step does."""

import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Losses that wait on the device at most: without logs too, one that is not finite is seen, and memory is bounded."""


@dataclass(frozen=True)
class _Due:
    """What comes after a step. last: the loop ends here."""

    log: bool
    evaluate: bool
    save: bool
    last: bool


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """In steps, counted from the start of the run; 0 is never. stop_after: steps in all after which the run pauses."""

    steps: int
    batch_size: int
    stop_after: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    evaluate_every: int = 0

    @property
    def end(self) -> int:
        """The step that the loop ends after."""
        return min(self.steps, self.stop_after) if self.stop_after else self.steps

    def due_after(self, step: int, *, stop: bool) -> _Due:
        """What is due when `step` steps are taken. The last step is logged and saved; the run's last, evaluated too."""
        last = stop or step == self.end
        return _Due(
            log=last or _is_due(step, self.log_every),
            evaluate=step == self.steps or _is_due(step, self.evaluate_every),
            save=last or _is_due(step, self.checkpoint_every),
            last=last,
        )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


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
    losses: list[Tensor] = []  # on the device, of the steps since the last check
    rate = _Rate(state.step)
    with _catch_signals(callbacks.signals):
        while state.step < intervals.end:
            losses.append(take_step(state.step).detach())
            state.step += 1
            callbacks.advance()
            stop = _shared_signal(callbacks.signals, state.step, ranks)
            due = intervals.due_after(state.step, stop=stop > 0)
            if due.log or due.evaluate or due.save or len(losses) >= _MOST_LOSSES:
                latest = deque(state.losses, maxlen=intervals.log_every or _MOST_LOSSES)
                latest.extend(_check_losses(losses, state.step, ranks))
                state.losses = list(latest)
                losses.clear()
                _call_back(state, due, callbacks, intervals.batch_size, rate)
            if due.last:
                ranks.wait()  # for the checkpoint: the end of one process is the end of all
            if stop and state.step < intervals.end:
                callbacks.signals[:] = [stop]
                return "interrupted"
    return "finished" if state.step >= intervals.steps else "stopped"


def _call_back(state: TrainState, due: _Due, callbacks: Callbacks, batch_size: int, rate: "_Rate") -> None:
    """Log, evaluate and save what is due. Evaluation comes before the checkpoint: a run goes on after both."""
    if due.log:
        values = {
            "samples": state.step * batch_size,
            "loss": sum(state.losses) / len(state.losses),
            "lr": max(float(group["lr"]) for group in state.optimizer.param_groups),  # of the layers, the last one's
            "images_per_second": round(rate.steps_per_second(state.step) * batch_size, 1),
        }
        callbacks.log(state.step, values)
    if due.save or due.evaluate:
        _check_weights(state)
    evaluate = callbacks.evaluate if due.evaluate else None
    if evaluate is not None:
        callbacks.log(state.step, dict(evaluate()))
    if due.save:
        callbacks.save()
    rate.restart(state.step)


class _Rate:
    """Steps per second since the last log, evaluation or checkpoint, without the time that these took."""

    def __init__(self, step: int) -> None:
        self.restart(step)

    def restart(self, step: int) -> None:
        """Count from here on."""
        self._step, self._clock = step, time.perf_counter()

    def steps_per_second(self, step: int) -> float:
        """The mean since the last restart."""
        return (step - self._step) / (time.perf_counter() - self._clock)


def _shared_signal(signals: Sequence[int], step: int, ranks: Ranks) -> int:
    """The signal that came to any rank, 0 for none; with several GPUs, known after every tenth step only."""
    shared = ranks.world == 1 or ranks.device.type == "cpu" or step % _SHARE_EVERY == 0
    return ranks.most(max(signals, default=0)) if shared else 0


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
