"""The loop that every protocol shares: steps, logs, checkpoints, stops. What a step does is the protocol's."""

import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fracgen.shards.errors import DataError
from fracgen.train.engine.checkpoint import Checkpoint
from fracgen.train.ranks import Ranks
from fracgen.train.seeding import key

Ending = Literal["finished", "stopped", "interrupted"]
_ASK_EVERY = 10
"""With several GPUs, a signal is shared this often, in steps; on CPUs, where steps are slow, after each."""


@dataclass(kw_only=True)
class State:
    """What a step changes. step: steps taken so far. model: as timm made it, not wrapped."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0

    def restore(self, last: Checkpoint) -> None:
        """Go back to a checkpoint. Raises DataError where it is of another model or optimiser."""
        asked = [{name: group[name] for name in group if name != "params"} for group in self.optimizer.param_groups]
        try:
            self.model.load_state_dict(dict(last.model))
            if [set(group) - {"params"} for group in last.optimizer["param_groups"]] != [set(each) for each in asked]:
                raise ValueError("the optimiser has other settings")
            self.optimizer.load_state_dict(dict(last.optimizer))
            self.scaler.load_state_dict(dict(last.scaler))
            for group, each in zip(self.optimizer.param_groups, asked, strict=True):
                group.update(each)  # what is asked for now holds, where changes were allowed
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            first = str(error).strip().splitlines()[:2]
            raise DataError(f"the checkpoint is of another model or optimiser ({' '.join(first)})") from error
        self.step = last.step

    def to_checkpoint(self, *, config: Mapping[str, Any], data: str, world: int) -> Checkpoint:
        """What `restore` goes back to."""
        return Checkpoint(
            step=self.step,
            config=config,
            data=data,
            world=world,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            threads=0 if next(self.model.parameters()).is_cuda else torch.get_num_threads(),
        )


def wrapped(model: nn.Module, ranks: Ranks, *, compiled: bool) -> Any:
    """The model as it is called in training: compiled where that is asked for, and one of several processes."""
    network: Any = torch.compile(model) if compiled else model
    if ranks.world > 1:
        network = DistributedDataParallel(network, device_ids=[ranks.device] if ranks.device.type == "cuda" else None)
    return network.train()


@dataclass(frozen=True, kw_only=True)
class Learner:
    """One step: loss, gradients, new weights.

    loss: a mean over the batch, from logits and targets. amp: what autocast computes in, None for float32. clip: of the
    gradients' norm; 0 is never.
    """

    state: State
    loss: Callable[[Tensor, Tensor], Tensor]
    network: Any
    rates: Any
    amp: torch.dtype | None
    clip: float
    seed: int
    ranks: Ranks

    def __call__(self, step: int, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of step number `step`, on the device. images: (B, 3, H, W). targets: (B, num_classes)."""
        state = self.state
        torch.manual_seed(key(self.seed, "layers", step, self.ranks.rank))  # drop path's and dropout's
        self.rates.step_update(step)
        with torch.autocast(self.ranks.device.type, dtype=self.amp, enabled=self.amp is not None):
            logits = self.network(images)
        loss = self.loss(logits, targets)
        torch.autograd.backward(state.scaler.scale(loss))
        if self.clip:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        return loss


@dataclass(frozen=True, kw_only=True)
class Pace:
    """In steps, counted from the start of the run; 0 is never. stop_after: of steps in all, where the run pauses."""

    steps: int
    batch_size: int
    stop_after: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    check_every: int = 0


@dataclass(kw_only=True)
class Loop:
    """What happens beside the steps, all of it on every rank.

    log: values at a step. save: a checkpoint. check: a look at images that are not trained on, where the protocol has
    one; gives values to log.
    """

    log: Callable[[int, Mapping[str, float]], None]
    save: Callable[[], None]
    check: Callable[[], Mapping[str, float]] | None = None
    advance: Callable[[], None] = lambda: None
    asked: list[int] = field(default_factory=list)


def fit(state: State, take_step: Callable[[int], Tensor], loop: Loop, pace: Pace, ranks: Ranks) -> Ending:
    """Take steps until the end, `stop_after` or a signal (SIGINT, SIGTERM), and leave a checkpoint there.

    take_step: takes step number k, and gives its loss, a scalar on the device. Losses stay there, so that nothing waits
    for the device between logs, and are all looked at before anything is logged or saved.
    Raises DataError with the step of the first loss that is not finite; the last checkpoint is good.
    """
    end = min(pace.steps, pace.stop_after) if pace.stop_after else pace.steps
    losses: list[Tensor] = []
    seen = deque[float](maxlen=pace.log_every or 1000)
    clock, counted = time.perf_counter(), state.step
    with _signals(loop.asked):
        while state.step < end:
            losses.append(take_step(state.step).detach())
            state.step += 1
            loop.advance()
            log, save, check = (
                _due(state.step, every) for every in (pace.log_every, pace.checkpoint_every, pace.check_every)
            )
            check = check or state.step == pace.steps
            ask = ranks.world == 1 or ranks.device.type == "cpu" or state.step % _ASK_EVERY == 0
            asked = ranks.most(max(loop.asked, default=0)) if ask else 0
            last = state.step == end or asked > 0
            if not (log or save or check or last or len(losses) >= 1000):
                continue
            seen.extend(_finite(losses, state.step, ranks))
            losses.clear()
            values: dict[str, float] = {}
            if log or last:
                rate = (state.step - counted) * pace.batch_size / (time.perf_counter() - clock)
                lr = float(state.optimizer.param_groups[0]["lr"])
                samples = state.step * pace.batch_size
                values = {
                    "samples": samples,
                    "loss": sum(seen) / len(seen),
                    "lr": lr,
                    "images_per_second": round(rate, 1),
                }
                loop.log(state.step, values)
            if save or check or last:
                _check_weights(state)
            if loop.check is not None and check:  # before the checkpoint, after which it is not made up for
                values = dict(loop.check())
                loop.log(state.step, values)
            if save or last:
                loop.save()
            if last:
                ranks.wait()  # for the checkpoint: the end of one process is the end of all
            clock, counted = (time.perf_counter(), state.step) if values else (clock, counted)
            if asked and state.step < end:
                loop.asked[:] = [asked]
                return "interrupted"
    return "finished" if state.step >= pace.steps else "stopped"


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _finite(losses: list[Tensor], step: int, ranks: Ranks) -> list[float]:
    """The means of these losses over the ranks; step: number of steps after the last of them."""
    means: list[float] = ranks.mean(torch.stack(losses).float()).tolist()
    for number, loss in enumerate(means, start=step - len(means) + 1):
        if not math.isfinite(loss):
            raise DataError(
                f"step {number}: the loss is {loss}; the last checkpoint is from before. A lower --lr, a longer "
                "warm-up or optim.clip=1 may help"
            )
    return means


def _check_weights(state: State) -> None:
    """A step may have a finite loss and infinite gradients: such weights are never saved."""
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in state.model.parameters()]).all()
    if not finite.item():
        raise DataError(
            f"step {state.step}: weights are not finite; the last checkpoint is from before. Try a lower --lr"
        )


@contextlib.contextmanager
def _signals(asked: list[int]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a stop; a second one stops at once, as ever."""

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        for each in before:
            signal.signal(each, before[each])

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread: whoever runs this one has the signals
        before.clear()
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
