"""timm's mixup and cutmix, drawn by seed and step."""

import numpy as np
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from fracgen.train.augment.settings import Mix
from fracgen.train.seeding import key


class Mixer:
    """timm's mixup and cutmix, drawn for each step from (seed, step, rank) alone."""

    def __init__(self, settings: Mix, *, num_classes: int, seed: int, rank: int) -> None:
        self._settings, self._seed, self._rank = settings, seed, rank
        alphas = settings.mixup > 0 or settings.cutmix > 0
        self._mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=settings.mixup if alphas else 1.0,
            cutmix_alpha=settings.cutmix,
            prob=settings.prob if alphas else 0.0,
            switch_prob=settings.switch,
            label_smoothing=settings.smoothing,
            num_classes=num_classes,
        )

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), changed in place, and their targets (B, num_classes) float32. labels: (B,) int64."""
        if not self._settings.mixes:
            whole = 1.0  # share of each image in itself
            num_classes, smoothing = self._mixup.num_classes, self._mixup.label_smoothing
            return images, mixup_target(labels, num_classes, whole, smoothing)  # type: ignore[no-untyped-call]
        state = np.random.get_state()
        np.random.seed(key(self._seed, "mix", step, self._rank) & 0xFFFFFFFF)
        try:
            mixed, targets = self._mixup(images, labels)
        finally:
            np.random.set_state(state)
        return mixed, targets
