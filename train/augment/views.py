"""What a network sees: images as training batches have them, turned back into pictures."""

import numpy as np
import numpy.typing as npt
import torch

from fracgen.train.augment.inputs import TrainInputs
from fracgen.train.augment.settings import Augmentation, Mix

Bytes = npt.NDArray[np.uint8]


def augmented_views(images: Bytes, augment: Augmentation, mix: Mix, *, seed: int, draws: int) -> Bytes:
    """Several augmentations of the same images, each draw a batch: uint8 (draws, B, size, size, 3).

    images: uint8 (B, H, W) or (B, H, W, 3). In a batch, image n is mixed with image B - 1 - n; of an odd number the
    first is there once more, at the end. What normalisation and noise put beyond black and white is cut off.
    """
    count = len(images)
    if count % 2:
        images = np.concatenate([images, images[:1]])
    batch = torch.from_numpy(images[:, None] if images.ndim == 3 else np.ascontiguousarray(np.moveaxis(images, 3, 1)))
    inputs = TrainInputs(augment, mix, num_classes=2, seed=seed, rank=0, device=torch.device("cpu"))
    labels = torch.zeros(len(batch), dtype=torch.int64)
    mean, std = (torch.tensor(levels).view(3, 1, 1) for levels in (augment.mean, augment.std))
    views = np.empty((draws, count, augment.size, augment.size, 3), np.uint8)
    for draw in range(draws):
        positions = draw * len(batch) + np.arange(len(batch), dtype=np.int64)
        mixed, _ = inputs(draw, batch, labels, positions, transformed=False)
        levels = ((mixed * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        views[draw] = np.moveaxis(levels.numpy(), 1, 3)[:count]
    return views
