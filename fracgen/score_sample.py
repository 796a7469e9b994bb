"""A sample of a set, looked at: measures of its images, the images at one size, and pairs of views of them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from fracgen.recipe import spread
from fracgen.rng import generator, stream_key
from fracgen.score_images import ImageMeasures, find_ground, measure_image
from fracgen.separability import Bytes, Labels, Pairs
from fracgen.shards.errors import UsageError
from fracgen.shards.files import shown_size
from fracgen.shards.images import resize_and_center_crop
from fracgen.shards.sample import Image
from fracgen.shards.sequence import SampleSequence

MIN_QUERIES = 256
"""Views that are compared with others, at least: of a small set, several of each image."""
MAX_VIEW_BYTES = 4 << 30
_CHUNK, _PROBED = 32, 16

Views = Callable[[npt.NDArray[np.uint8], int, int], Bytes]
"""Augmented views: of uint8 (B, H, W[, 3]), a seed and a number n, uint8 (n, B, size, size, 3)."""


@dataclass(frozen=True)
class ImageSource:
    """Labelled images by number: labels (N,), and the images of given numbers, in their order, from any thread."""

    labels: Labels
    read: Callable[[Sequence[int]], Iterator[Image]]

    @classmethod
    def of(cls, samples: SampleSequence) -> "ImageSource":
        """Those of a resolved recipe or of a folder of shards."""
        return cls(samples.labels, lambda numbers: (sample.image for sample in samples.read(numbers)))


@dataclass(frozen=True)
class Comparison:
    """At which size images are compared, and through which views. views: None to compare the images themselves."""

    size: int
    views: Views | None = None


def check_memory(count: int, comparison: Comparison, option: str) -> None:
    """Raises UsageError where views of so many images are more than memory should hold. option: says how many."""
    num_bytes = count * comparison.size**2 * 3 * (2 * _num_pairs(count, comparison) + 1)
    if num_bytes > MAX_VIEW_BYTES:
        raise UsageError(
            f"{count} images at {comparison.size} pixels are {shown_size(num_bytes)} of views; at most "
            f"{shown_size(MAX_VIEW_BYTES)} are held: give fewer {option}, or a smaller --size"
        )


def _num_pairs(count: int, comparison: Comparison) -> int:
    """Pairs of views of each image."""
    return -(-MIN_QUERIES // count) if comparison.views is not None else 1


def choose_sample(labels: Labels, count: int, seed: int) -> npt.NDArray[np.int64]:
    """At most so many of the images, ascending, the same share of each class; of some classes alone where it is less.

    So that neighbours of one class can be found, each class that is chosen has two, unless no class has.
    """
    random = generator(seed, 0, "sample").random
    classes, of_image, counts = np.unique(labels, return_inverse=True, return_counts=True)
    share = 2 if counts.max() > 1 else 1
    place_of_class = np.argsort(np.argsort(random(len(classes)), kind="stable"), kind="stable")
    order = np.argsort(random(len(labels)), kind="stable")
    order = order[np.argsort(of_image[order], kind="stable")]
    place_in_class = np.empty(len(labels), np.int64)
    place_in_class[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.flatnonzero(place_of_class[of_image] < max(count // share, 1))
    turn = np.lexsort((place_of_class[of_image[chosen]], place_in_class[chosen]))
    return np.sort(chosen[turn[:count]])


@dataclass(frozen=True)
class Viewer:
    """One look at some images of a source."""

    source: ImageSource
    comparison: Comparison
    seed: int
    pool: Executor

    def look(self, numbers: Sequence[int], ground: int | None = None) -> tuple[tuple[ImageMeasures, ...], Bytes, Pairs]:
        """(measures of each image; the images at the size of comparison; pairs of views of each)."""
        size, views = self.comparison.size, self.comparison.views
        num_pairs = _num_pairs(len(numbers), self.comparison)
        if ground is None:
            probed = [numbers[place] for place in spread(len(numbers), _PROBED)]
            ground = find_ground(self.source.read(probed))

        size_of_views = (2 * num_pairs, len(numbers), size, size, 3)
        seen = None if views is None else np.empty(size_of_views, np.uint8)

        def look(first: int) -> tuple[list[ImageMeasures], list[Image]]:
            images = list(self.source.read(numbers[first : first + _CHUNK]))
            if seen is not None:
                seed = stream_key(self.seed, first, "sample", 1) >> 1
                seen[:, first : first + _CHUNK] = self._views(images, seed, 2 * num_pairs)
            small = [_at_size(image, size) for image in images]
            return [measure_image(image, ground) for image in images], small

        chunks = list(self.pool.map(look, range(0, len(numbers), _CHUNK)))
        measures = tuple(image for chunk, _ in chunks for image in chunk)
        small = _stack([image for _, chunk in chunks for image in chunk])
        pairs = [(small, small)] if seen is None else list(zip(seen[::2], seen[1::2], strict=True))
        return measures, small, pairs

    def _views(self, images: list[Image], seed: int, count: int) -> Bytes:
        """Views of some images, (count, n, size, size, 3): of those of one shape together."""
        views: Any = self.comparison.views
        seen = np.empty((count, len(images), self.comparison.size, self.comparison.size, 3), np.uint8)
        for shape in {image.shape: None for image in images}:
            places = [place for place, image in enumerate(images) if image.shape == shape]
            seen[:, places] = views(np.stack([images[place] for place in places]), seed, count)
        return seen


def _at_size(image: Image, size: int) -> Image:
    """The image itself at the size of comparison, without augmentation: shorter edge, then the central square."""
    return np.asarray(resize_and_center_crop(PillowImage.fromarray(image), size))


def _stack(images: list[Image]) -> Bytes:
    """Images of one size: (n, H, W) where all are gray, else (n, H, W, 3)."""
    if all(image.ndim == 2 for image in images):
        return np.stack(images)
    return np.stack([image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images])
