"""Losses over distributions of classes, as mixup, cutmix and label smoothing give them, and over several labels."""

from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

_soft_cross_entropy = SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of -sum_c q(c) log p(c | image) over the images, float32. logits, targets q: (B, num_classes)."""
    loss: Tensor = _soft_cross_entropy(logits.float(), targets)
    return loss


def multi_label_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over images and classes of the binary cross entropy, float32 (Anderson & Farrell, WACV 2022).

    The term of a class that is in the image is weighted by C / k, with C classes and k labels of that image, as the
    published program has it; with mixed targets, k is their sum. logits, targets: (B, C), targets in 0..1.
    """
    weights = logits.shape[1] / targets.sum(1, keepdim=True)
    return binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weights)


def lpce(logits: Tensor, targets: Tensor) -> Tensor:
    """The locally perturbed cross entropy (Nakamura et al., ECCV 2024, section 3).

    Around one base fractal with parameters Omega, L perturbed ones Omega + eps_l are drawn, |eps| <= Delta / 2 in each
    coefficient (LIEP), and each perturbation is a class: the loss is the mean over the images of -log p(l | image),
    cross entropy over the L perturbations. As Delta goes to 0 all classes become one image. Under mixup, cutmix and
    label smoothing the target is a distribution q over l, and the loss is the mean of -sum_l q(l) log p(l | image).

    logits: (B, L). targets: (B, L) float, rows that sum to one. Returns a float32 scalar.
    """
    return cross_entropy(logits, targets)
