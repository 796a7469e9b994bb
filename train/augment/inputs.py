"""From a loaded batch to what the model trains on: augmented, mixed images and their targets."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fracgen.train.augment.device import DeviceAugment, Positions
from fracgen.train.augment.mix import Mixer
from fracgen.train.augment.settings import Augmentation, Mix
from fracgen.train.ranks import Ranks


class TrainInputs:
    """Augmentation and mixing of training batches on one device, drawn by seed, position and step."""

    def __init__(
        self,
        augment: Augmentation,
        mix: Mix,
        *,
        num_classes: int,
        seed: int,
        rank: int,
        device: torch.device,
        multi_label: bool = False,
    ) -> None:
        self._augment = DeviceAugment(augment, seed=seed, device=device)
        self._mix = Mixer(mix, num_classes=num_classes, seed=seed, rank=rank, multi_label=multi_label)

    def __call__(
        self, step: int, images: Tensor, labels: Tensor, positions: Positions, *, transformed: bool
    ) -> tuple[Tensor, Tensor]:
        """Images float32 (B, 3, size, size) and targets (B, num_classes).

        images: uint8 (B, C, H, W); or float32, augmented in the workers, where `transformed`. positions: (B,) int64.
        """
        return self._mix(images if transformed else self._augment(images, positions), labels, step)

    def crops(self, ranks: Ranks) -> Callable[[Tensor], Tensor]:
        """A transform of batches, uint8 to float32, that augments without mixing: image n as sample n of the run is.

        A rank's images are every world-th, as `eval_batches` gives them.
        """
        counter = itertools.count(ranks.rank, ranks.world)

        def augment(images: Tensor) -> Tensor:
            return self._augment(images, np.fromiter(counter, np.int64, len(images)))

        return augment
