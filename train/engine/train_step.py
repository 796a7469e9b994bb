"""One training step, and the state that it changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fracgen.shards.errors import DataError
from fracgen.train.engine.checkpoint import Checkpoint
from fracgen.train.engine.cuda_graph import GraphedGradients
from fracgen.train.ranks import Ranks
from fracgen.train.seeding import key


@dataclass(kw_only=True)
class TrainState:
    """What a step changes.

    step: steps taken so far. model: as timm made it, not wrapped. losses: of the latest steps, means over the ranks, as
    many as one logged average takes.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    losses: list[float] = field(default_factory=list)

    def restore(self, last: Checkpoint) -> None:
        """Go back to a checkpoint. Raises DataError where it is of another model or optimiser."""
        options = [{name: group[name] for name in group if name != "params"} for group in self.optimizer.param_groups]
        try:
            self.model.load_state_dict(dict(last.model))
            if [set(group) - {"params"} for group in last.optimizer["param_groups"]] != [set(each) for each in options]:
                raise ValueError("the optimiser has other settings")
            self.optimizer.load_state_dict(dict(last.optimizer))
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

    loss: a mean over the batch, from logits and targets. network: the model, wrapped. lr_schedule: timm's. amp: the
    dtype of autocast, None for float32. clip: largest norm of the gradients; 0 is none. cuda_graph: whether the
    gradients are computed by one.
    """

    state: TrainState
    loss: Callable[[Tensor, Tensor], Tensor]
    network: Any
    lr_schedule: Any
    amp: torch.dtype | None
    clip: float
    seed: int
    ranks: Ranks
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        """Make what records the gradients."""
        self._graphed = GraphedGradients(self._gradients) if self.cuda_graph else None

    def __call__(self, step: int, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of step number `step`, a scalar on the device. images: (B, 3, H, W). targets: (B, num_classes)."""
        state = self.state
        # drop path and dropout draw from torch's global generator: seeded here, each step draws alike after a resume
        torch.manual_seed(key(self.seed, "layers", step, self.ranks.rank))
        self.lr_schedule.step_update(step)
        loss = (self._graphed or self._gradients)(images, targets)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if self._graphed is None or not self._graphed.is_recorded:
            state.optimizer.zero_grad(set_to_none=True)
        return loss

    def _gradients(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss, whose gradients, clipped, are in the parameters."""
        state = self.state
        with torch.autocast(self.ranks.device.type, dtype=self.amp, enabled=self.amp is not None):
            logits = self.network(images)
        loss = self.loss(logits, targets)
        torch.autograd.backward(state.scaler.scale(loss))
        if self.clip:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.clip)
        return loss
