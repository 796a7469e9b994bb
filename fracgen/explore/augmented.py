"""Images as the network sees them, through the augmentation of `fracgen.train`, which the command brings."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from fracgen.explore.folder_view import FolderView
from fracgen.explore.limits import MAX_BYTES, describe_fields
from fracgen.explore.messages import AugmentRequest, Picture
from fracgen.explore.turns import Ticket
from fracgen.recipe import Recipe
from fracgen.shards.errors import UsageError
from fracgen.shards.images import resize_and_center_crop
from fracgen.shards.sample import Image
from fracgen.shards.settings import from_plain

_SIDE = 256
"""To which the shorter side of images is brought that differ in size; then the central square is taken."""
MISSING = "needs torch and timm, which are not installed: pip install 'fracgen[train]'"
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Augmenter:
    """The augmentation of training, loaded when it is used.

    settings: gives the dataclasses of its settings, of augmentation and of mixing. views: turns uint8 (B, H, W[, 3])
    and such settings, with seed and draws, into uint8 (draws, B, size, size, 3).
    """

    settings: Callable[[], tuple[type, type]]
    views: Callable[..., Any]

    def describe(self) -> dict[str, Any]:
        """What controls are made of."""
        augment, mix = self.settings()
        return {"fields": describe_fields(augment), "mix_fields": describe_fields(mix), "size": augment().size}


def draw_views(request: AugmentRequest, images: list[Image], augmenter: Augmenter, ticket: Ticket) -> list[Picture]:
    """Several draws of each image, image after image. Raises UsageError for settings that are none."""
    augment_kind, mix_kind = augmenter.settings()
    augment: Any = from_plain(augment_kind, request.augment, "augment.")
    mix: Any = from_plain(mix_kind, request.mix, "mix.")
    if len(images) * request.draws * augment.size**2 * 3 > MAX_BYTES:
        raise UsageError(f"augment.size {augment.size}: too many pixels at a time; ask for fewer images or draws")
    with _one_at_a_time:
        ticket.check()
        views = augmenter.views(np.stack(images), augment, mix, seed=request.seed, draws=request.draws)
    partners = request.indices[::-1] if len(images) % 2 == 0 else (request.indices[0], *request.indices[:0:-1])
    mixes = bool(getattr(mix, "mixes", False)) and len(images) > 1
    return [
        Picture(
            views[draw, number],
            {
                "index": index,
                "draw": draw,
                "caption": f"image {index}, draw {draw}",
                "partner": partners[number] if mixes else None,
            },
        )
        for number, index in enumerate(request.indices)
        for draw in range(request.draws)
    ]


def images_of_recipe(recipe: Recipe, indices: tuple[int, ...]) -> list[Image]:
    """The images of a resolved recipe. Raises DataError where one cannot be drawn."""
    return [sample.image for sample in recipe.render(indices)]


def images_of_folder(folder: FolderView, numbers: tuple[int, ...]) -> list[Image]:
    """Images of a folder by number, of one size. Raises UsageError where there is no such, DataError for damaged."""
    if outside := [number for number in numbers if number >= len(folder.samples)]:
        raise UsageError(f"number {outside[0]}: there are 0 to {len(folder.samples) - 1}")
    images = [sample.image for sample in folder.samples.read(numbers)]
    if folder.shards.manifest.image.one_size:
        return images
    return [np.asarray(resize_and_center_crop(PillowImage.fromarray(image), _SIDE)) for image in images]
