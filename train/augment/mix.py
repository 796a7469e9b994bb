"""timm's mixup and cutmix, drawn by seed and step."""

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from fracgen.train.augment.settings import Mix
from fracgen.train.seeding import key


class Mixer:
    """timm's mixup and cutmix, drawn for each step from (seed, step, rank) alone."""

    def __init__(self, settings: Mix, *, num_classes: int, seed: int, rank: int, multi_label: bool = False) -> None:
        self._settings, self._seed, self._rank = settings, seed, rank
        self._multi_label = multi_label
        alphas = settings.mixup > 0 or settings.cutmix > 0
        self._mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=settings.mixup if alphas else 1.0,
            cutmix_alpha=settings.cutmix,
            prob=settings.prob if alphas else 0.0,
            switch_prob=settings.switch,
            label_smoothing=0.0 if multi_label else settings.smoothing,
            num_classes=2 if multi_label else num_classes,
        )

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), changed in place, and their targets (B, num_classes) float32.

        labels: (B,) int64; of images with several, (B, num_classes) of zeros and ones, which are mixed as the images
        are, and smoothed as timm smooths one label: 1 becomes 1 - s + s / num_classes, 0 becomes s / num_classes.
        """
        if self._multi_label:
            return self._mix_multi_hot(images, labels.float(), step)
        if not self._settings.mixes:
            whole = 1.0  # share of each image in itself
            num_classes, smoothing = self._mixup.num_classes, self._mixup.label_smoothing
            return images, mixup_target(labels, num_classes, whole, smoothing)  # type: ignore[no-untyped-call]
        return self._mix(images, labels, step)

    def _mix_multi_hot(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if self._settings.mixes:
            # timm keeps the share of each image to itself: that of two classes, one in each half of the batch, tells it
            halves = torch.arange(len(images), device=images.device) * 2 // len(images)
            images, shares = self._mix(images, halves, step)
            labels = labels * shares[0, 0] + labels.flip(0) * shares[0, 1]
        off = self._settings.smoothing / labels.shape[1]
        return images, labels * (1 - self._settings.smoothing) + off

    def _mix(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        state = np.random.get_state()
        np.random.seed(key(self._seed, "mix", step, self._rank) & 0xFFFFFFFF)
        try:
            mixed, targets = self._mixup(images, labels)
        finally:
            np.random.set_state(state)
        return mixed, targets
