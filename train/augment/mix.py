"""The loss of "Scaling Backwards", and the targets that it takes."""

import numpy as np
from timm.data.mixup import Mixup, mixup_target
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.train.config import Mix
from fracgen.train.seeding import key

_soft_cross_entropy = SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of -sum_c q(c) log p(c | image) over the images, float32. logits, targets q: (B, num_classes)."""
    loss: Tensor = _soft_cross_entropy(logits.float(), targets)
    return loss


def lpce(logits: Tensor, targets: Tensor) -> Tensor:
    """The locally perturbed cross entropy (Nakamura et al., ECCV 2024, section 3).

    Around one base fractal with parameters Omega, L perturbed ones Omega + eps_l are drawn, |eps| <= Delta / 2 in each
    coefficient (LIEP), and each perturbation is a class: the loss is the mean over the images of -log p(l | image),
    cross entropy over the L perturbations. As Delta goes to 0 all classes become one image. Under mixup, cutmix and
    label smoothing the target is a distribution q over l, and the loss is the mean of -sum_l q(l) log p(l | image).

    logits: (B, L). targets: (B, L) float, rows that sum to one. Returns a float32 scalar.
    """
    return cross_entropy(logits, targets)


class Mixer:
    """timm's mixup and cutmix, drawn for each step from (seed, step, rank) alone."""

    def __init__(self, settings: Mix, *, num_classes: int, seed: int, rank: int) -> None:
        """Raises UsageError where a value is not allowed."""
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(settings, name) < float("inf"):
                raise UsageError(f"mix.{name} {getattr(settings, name)}: must be 0 (off) or more")
        for name in ("prob", "switch", "smoothing"):
            if not 0 <= getattr(settings, name) <= 1:
                raise UsageError(f"mix.{name} {getattr(settings, name)}: must be 0 to 1")
        mixes = settings.mixup > 0 or settings.cutmix > 0
        self.mixes = mixes and settings.prob > 0
        self._seed, self._rank = seed, rank
        self._mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=settings.mixup if mixes else 1.0,
            cutmix_alpha=settings.cutmix,
            prob=settings.prob if mixes else 0.0,
            switch_prob=settings.switch,
            label_smoothing=settings.smoothing,
            num_classes=num_classes,
        )

    def check_batch(self, size: int) -> None:
        """timm pairs a batch with itself in reverse. Raises UsageError where a rank's batch is odd."""
        if self.mixes and size % 2:
            raise UsageError(f"a batch of {size} on each rank: mixup and cutmix pair images; make it even")

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), changed in place, and their targets (B, num_classes) float32. labels: (B,) int64."""
        if not self.mixes:
            kept = 1.0  # of each image
            num_classes, smoothing = self._mixup.num_classes, self._mixup.label_smoothing
            return images, mixup_target(labels, num_classes, kept, smoothing)  # type: ignore[no-untyped-call]
        state = np.random.get_state()
        np.random.seed(key(self._seed, "mix", step, self._rank) & 0xFFFFFFFF)
        try:
            mixed, targets = self._mixup(images, labels)
        finally:
            np.random.set_state(state)
        return mixed, targets
