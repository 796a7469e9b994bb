"""One training step, and the state that it changes."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fracgen.shards.errors import DataError
from fracgen.train.engine.checkpoint import Checkpoint
from fracgen.train.engine.cuda_graph import GraphedGradients
from fracgen.train.engine.settings import Optim, Run
from fracgen.train.ranks import Ranks
from fracgen.train.seeding import key

_NO_SETTINGS = {"params", "step", "lookahead_step"}
"""Of an optimiser's groups. Some of timm's (LAMB, Adan, Lookahead) count their steps there: a resumed run counts on."""


@dataclass(kw_only=True)
class TrainState:
    """What a step changes.

    step: steps taken so far. model: as timm made it, not wrapped. ema: the moving average of its weights, if there is
    one. losses: of the latest steps, means over the ranks, as many as one logged average takes.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None = None
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated and exported: the moving average, where there is one."""
        return self.model if self.ema is None else self.ema.module

    def restore(self, last: Checkpoint) -> None:
        """Go back to a checkpoint. Raises DataError where it is of another model or optimiser."""
        groups = self.optimizer.param_groups
        options = [{name: group[name] for name in group if name not in _NO_SETTINGS} for group in groups]
        try:
            self.model.load_state_dict(dict(last.model))
            if self.ema is not None:  # one that begins in the middle of a run begins with its weights
                self.ema.module.load_state_dict(dict(last.ema or last.model))
            saved = last.optimizer["param_groups"]
            if [set(group) - _NO_SETTINGS for group in saved] != [set(each) for each in options]:
                raise ValueError("the optimiser has other settings")
            self.optimizer.load_state_dict(dict(last.optimizer))
            if last.scaler:  # a run that goes on in fp16 after another precision begins with a scale of its own
                self.scaler.load_state_dict(dict(last.scaler))
            for group, each in zip(self.optimizer.param_groups, options, strict=True):
                group.update(each)  # today's settings hold, where changes were allowed
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            first = str(error).strip().splitlines()[:2]
            raise DataError(f"the checkpoint is of another model or optimiser ({' '.join(first)})") from error
        self.step, self.losses = last.step, list(last.losses)

    def to_checkpoint(self, *, config: Mapping[str, Any], data: str, world: int) -> Checkpoint:
        """The checkpoint that `restore` goes back to."""
        return Checkpoint(
            step=self.step,
            config=config,
            data=data,
            world=world,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            ema={} if self.ema is None else self.ema.module.state_dict(),
            losses=list(self.losses),
            threads=0 if next(self.model.parameters()).is_cuda else torch.get_num_threads(),
        )


def wrap(model: nn.Module, ranks: Ranks, *, compiled: bool) -> Any:
    """The model as it is called in training: compiled where that is asked for, and in DDP with several ranks."""
    network: Any = torch.compile(model) if compiled else model
    if ranks.world > 1:
        network = DistributedDataParallel(network, device_ids=[ranks.device] if ranks.device.type == "cuda" else None)
    return network.train()


@dataclass(kw_only=True)
class TrainStep:
    """Loss, gradients, new weights.

    loss: a mean over the batch, from the network's output and targets. network: the model, wrapped. lr_schedule:
    timm's. amp: the dtype of autocast, None for float32. optim, run: how gradients are clipped, in how many parts they
    are computed, whether by a CUDA graph, and the seed.
    """

    state: TrainState
    loss: Callable[[Any, Tensor], Tensor]
    network: Any
    lr_schedule: Any
    amp: torch.dtype | None
    optim: Optim
    run: Run
    ranks: Ranks

    def __post_init__(self) -> None:
        """Make what records the gradients."""
        self._graphed = GraphedGradients(self._gradients) if self.run.cuda_graph else None

    def __call__(self, step: int, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of step number `step`, a scalar on the device. images: (B, 3, H, W). targets: (B, num_classes)."""
        state = self.state
        # drop path and dropout draw from torch's global generator: seeded here, each step draws alike after a resume
        torch.manual_seed(key(self.run.seed, "layers", step, self.ranks.rank))
        self.lr_schedule.step_update(step)
        loss = (self._graphed or self._gradients)(images, targets)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if self._graphed is None or not self._graphed.is_recorded:
            state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None:
            state.ema.update(state.model)
        return loss

    def _gradients(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss, whose gradients, clipped, are in the parameters: means over the parts of the batch."""
        state, num_parts = self.state, self.run.accumulate
        losses = list[Tensor]()
        for part in zip(images.chunk(num_parts), targets.chunk(num_parts), strict=True):
            waits = self.ranks.world > 1 and len(losses) + 1 < num_parts  # DDP sums over ranks once, at the last part
            with self.network.no_sync() if waits else contextlib.nullcontext():
                losses.append(self._part_gradients(*part) / num_parts)
        if self.optim.clip:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.optim.clip)
        return torch.stack(losses).sum() if num_parts > 1 else losses[0]

    def _part_gradients(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a part, whose gradients are added to those in the parameters, as a share of the batch's."""
        with torch.autocast(self.ranks.device.type, dtype=self.amp, enabled=self.amp is not None):
            output = self.network(images)
        loss = self.loss(output, targets)
        torch.autograd.backward(self.state.scaler.scale(loss / self.run.accumulate))
        return loss.detach()
