"""A folder of shards to look through: samples by index or by label, read at their offsets."""

from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from fracgen.explore.limits import MAX_BYTES
from fracgen.explore.messages import FolderImagesRequest, FolderRequest, Picture
from fracgen.explore.turns import Ticket
from fracgen.shards.errors import DataError, UsageError, one_line
from fracgen.shards.manifest import PACK
from fracgen.shards.reader import EncodedSample, open_shards
from fracgen.shards.sample import Image, Sample
from fracgen.shards.sequence import Numbers, SampleView
from fracgen.style import fill_rate

_MAX_NAMES = 1000
"""Class names that the page has at once; those of its samples come with them."""


class FolderView:
    """A finished folder. A sample's number is its place in the order of indices: of rendered sets, its index."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError or DataError where it cannot be opened."""
        self.shards, self.folder = open_shards(folder), folder

    @cached_property
    def samples(self) -> SampleView:
        """The samples in the order of their indices."""
        return self.shards.by_index()

    @cached_property
    def _by_label(self) -> tuple[Numbers, Numbers]:
        """Numbers of the samples label after label, and where each label begins, and ends."""
        manifest = self.shards.manifest
        per_class = len(self.samples) // manifest.num_classes
        is_rendered = not manifest.image.original  # of those a label follows from the index, and no tar is read for it
        labels = np.arange(len(self.samples)) // per_class if is_rendered else self.samples.labels
        order = np.argsort(labels, kind="stable")
        return order, np.searchsorted(labels[order], np.arange(self.shards.manifest.num_classes + 1))

    def describe(self) -> dict[str, Any]:
        """What it holds, JSON-able."""
        manifest = self.shards.manifest
        return {
            "name": self.folder.resolve().name,
            "num_samples": manifest.num_samples,
            "num_classes": manifest.num_classes,
            "class_names": list(manifest.class_names[:_MAX_NAMES]),
            "recipe": None if manifest.recipe.get("recipe") == PACK else dict(manifest.recipe),
            "packed": manifest.image.original,
            "width": manifest.image.width,
            "height": manifest.image.height,
            "mode": manifest.image.mode,
            "one_size": manifest.image.one_size,
            "rejections": manifest.rejections,
        }

    def list_samples(self, request: FolderRequest) -> dict[str, Any]:
        """Some samples with label and metadata; `total` counts those of the label, or all."""
        numbers: range | Numbers = range(len(self.samples))
        if request.label is not None:
            if request.label >= self.shards.manifest.num_classes:
                raise UsageError(f"label {request.label}: there are 0 to {self.shards.manifest.num_classes - 1}")
            order, starts = self._by_label
            numbers = order[starts[request.label] : starts[request.label + 1]]
        chosen = numbers[request.offset : request.offset + request.count]
        return {"total": len(numbers), "samples": [self._read_values(int(number)) for number in chosen]}

    def _read_values(self, number: int) -> dict[str, Any]:
        try:
            raw: EncodedSample = self.shards.read_encoded(int(self.samples.numbers[number]))
            return self._values(number, int(raw.key), raw.label, raw.metadata)
        except DataError as error:
            return {"number": number, "error": one_line(str(error))}

    def _values(self, number: int, index: int, label: int, metadata: Any) -> dict[str, Any]:
        name = self.shards.manifest.class_names[label]
        return {"number": number, "index": index, "label": label, "class_name": name, "metadata": dict(metadata)}

    def draw(self, request: FolderImagesRequest, pool: Executor, ticket: Ticket) -> list[Picture]:
        """Images by number, of one shape: as they are where no size is asked for, or reduced to it.

        Those of folders whose images differ in size lie in the middle of a black square. What is damaged is black, with
        `error` in its values. Raises UsageError where a number is none, or they are too many pixels.
        """
        for number in request.numbers:
            if number >= len(self.samples):
                raise UsageError(f"number {number}: there are 0 to {len(self.samples) - 1}")
        image = self.shards.manifest.image
        shape = self._shape(request.size)
        channels = 3 if image.mode == "RGB" else 1
        if len(request.numbers) * shape[0] * shape[1] * channels > MAX_BYTES:
            raise UsageError(f"{len(request.numbers)} images of {shape[1]} x {shape[0]} pixels are too many at a time")

        def read(number: int) -> Picture:
            ticket.check()
            full_shape = shape if channels == 1 else (*shape, 3)
            try:
                (sample,) = self.samples.read([number])
            except DataError as error:
                return Picture(np.zeros(full_shape, np.uint8), {"number": number, "error": one_line(str(error))})
            return self._picture(number, sample, full_shape)

        return list(pool.map(read, request.numbers))

    def _shape(self, size: int) -> tuple[int, int]:
        """Height and width of all images of a reply. size: of the longer side at most; 0: as they are."""
        image = self.shards.manifest.image
        if not image.one_size:
            side = min(size or 2048, max(image.height, image.width))
            return side, side
        scale = min(1.0, size / max(image.height, image.width)) if size else 1.0
        return max(1, round(image.height * scale)), max(1, round(image.width * scale))

    def _picture(self, number: int, sample: Sample, shape: tuple[int, ...]) -> Picture:
        own = sample.image.shape[:2]
        values = self._values(number, sample.index, sample.label, sample.metadata)
        values |= {"width": own[1], "height": own[0], "fill": fill_rate(sample.image)}
        return Picture(fit(sample.image, shape), values)


def fit(image: Image, shape: tuple[int, ...]) -> Image:
    """An image in the middle of a black one of this shape, reduced where it is greater."""
    scale = min(shape[0] / image.shape[0], shape[1] / image.shape[1], 1.0)
    if scale < 1:
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        image = np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BOX))
    if image.shape == shape:
        return image
    canvas = np.zeros(shape, np.uint8)
    top, left = ((outer - inner) // 2 for outer, inner in zip(shape[:2], image.shape[:2], strict=True))
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas
