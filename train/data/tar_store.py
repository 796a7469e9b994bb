"""The samples of tars at random access, by an index of each tar that is made when the tar is first read."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.images import decode_picture
from fracgen.shards.png import decode_png
from fracgen.shards.reader import parse_sample, read_labels
from fracgen.shards.tar import IMAGE_EXTENSIONS, TarIndex, TarSeries
from fracgen.train.data.examples import Indices, Label, Pixels, Progress
from fracgen.train.data.skipped import BadSampleError, SkippedDataWarning


@dataclass(frozen=True)
class TarStore:
    """Tars, and how their samples are read.

    rendered: where fracgen encoded all images, (shape of their pixels, bits of
    the PNGs). has_manifest: whether the number of classes is the set's own, not the user's. multi_label: whether an
    image has several labels, in the metadata of a set of ours.
    skip_bad: a tar that holds more samples than were counted is no error.
    counted_by: the files beside them that say how many samples tars hold, by the number of the tar.
    """

    tars: TarSeries
    num_classes: int
    rendered: tuple[tuple[int, ...], int] | None = None
    has_manifest: bool = False
    multi_label: bool = False
    skip_bad: bool = False
    counted_by: Mapping[int, str] = field(default_factory=dict)
    _warned: set[int] = field(default_factory=set, compare=False)

    def load(self, number: int, min_size: int) -> tuple[Image.Image | Pixels, Label]:
        """(image, label). Raises BadSampleError; UsageError for a label that --num-classes does not have."""
        tar, row = self.tars.place(number)
        index = self._index(tar)
        label: Label = self._label(tar, row, index)
        try:
            if self.multi_label:
                data, label = self._read_multi_label(tar, row, index)
            else:
                data = index.read_image(row)
        except DataError as error:
            raise BadSampleError(str(error), "tar") from error
        try:
            if self.rendered is not None:
                shape, bits = self.rendered
                return decode_png(data, bits, shape=shape), label
            return decode_picture(data, min_size=min_size), label
        except DataError as error:
            raise BadSampleError(f"{self.describe(number)}: image {error}", "image") from error

    def _read_multi_label(self, tar: int, row: int, index: TarIndex) -> tuple[bytes, Label]:
        """An image's file and its labels, uint8 (number of classes,). Raises DataError where these are wrong."""
        name = Path(self.tars.paths[tar]).name
        raw = parse_sample(index.read_members(row), name, index.key(row), "png")
        multi_hot = np.zeros(self.num_classes, np.uint8)
        try:
            multi_hot[list(read_labels(raw, self.num_classes))] = 1
        except DataError as error:
            raise DataError(f"{name}: sample {raw.key}: {error}") from error
        return raw.image_bytes, multi_hot

    def labels(self) -> Indices:
        """Of every sample, int64; -1 where it has none that can be used."""
        labels = np.full(len(self.tars), -1)
        for tar, count in enumerate(self.tars.counts):
            try:
                known = self._index(tar).labels[:count]
            except BadSampleError:
                continue
            start = self.tars.numbers(tar).start
            labels[start : start + len(known)] = known
        return labels

    def describe(self, number: int) -> str:
        """As in "set-000.tar: sample s0007"."""
        return self.tars.describe(number)

    def name(self, number: int) -> str:
        """The tar and the key."""
        return self.tars.describe(number)

    def bad_samples(self, progress: Progress | None = None) -> dict[int, BadSampleError]:
        """What is wrong with each sample whose headers or label show it. Raises UsageError as `load` does."""
        bad = dict[int, BadSampleError]()
        for tar, count in enumerate(self.tars.counts):
            numbers = self.tars.numbers(tar)
            try:
                index = self._index(tar)
                odd = (index.labels < 0) | (index.labels >= self.num_classes) | (index.image_starts < 0)
                rows = [*np.flatnonzero(odd[:count]).tolist(), *range(len(index), count)]
            except BadSampleError as error:
                bad |= dict.fromkeys(numbers, error)
                rows = []
            for row in rows:
                try:
                    self._label(tar, row, index)
                except BadSampleError as error:
                    bad[numbers[row]] = error
            if progress is not None:
                progress(tar + 1, len(self.tars.paths))
        return bad

    def _index(self, tar: int) -> TarIndex:
        try:
            index = self.tars.index(tar)
        except DataError as error:
            raise BadSampleError(str(error), "tar") from None
        if len(index) > self.tars.counts[tar] and tar not in self._warned:
            message = self._miscounted(tar, index)
            if not self.skip_bad:
                raise BadSampleError(message, "tar")
            warnings.warn(message, SkippedDataWarning, stacklevel=2)
            self._warned.add(tar)
        return index

    def _miscounted(self, tar: int, index: TarIndex) -> str:
        """What is said of a whole tar that holds another number of samples than was counted."""
        name, count = Path(self.tars.paths[tar]).name, self.tars.counts[tar]
        if (source := self.counted_by.get(tar)) is not None:
            return f"{source} says {count}, and {name} holds {len(index)} samples: mend or remove {Path(source).name}"
        return f"{name}: holds {len(index)} samples, not {count}: changed since they were counted, or cut short"

    def _label(self, tar: int, row: int, index: TarIndex) -> int:
        """The label of a sample. Raises BadSampleError where that, its image or the whole sample is missing."""
        label = int(index.labels[row]) if row < len(index) else -1
        if 0 <= label < self.num_classes and index.image_starts[row] >= 0:
            return label
        name = Path(self.tars.paths[tar]).name
        if row >= len(index):
            raise BadSampleError(index.fault or self._miscounted(tar, index), "tar")
        if np.count_nonzero(index.keys == index.keys[row]) > 1 and (label < 0 or index.image_starts[row] < 0):
            raise BadSampleError(
                f"{name}: sample {index.key(row)} is in two places of it; members of one key must "
                "follow each other: write it anew, as by tar --sort=name",
                "members",
            )
        sample = f"{name}: sample {index.key(row)}"
        if label >= self.num_classes and not self.has_manifest:
            raise UsageError(f"{sample}: label {label}, out of range for --num-classes {self.num_classes}")
        if label >= self.num_classes:
            raise BadSampleError(f"{sample}: label {label}, and the manifest has {self.num_classes} classes", "label")
        if label >= 0:
            raise BadSampleError(f"{sample} has no .{' or .'.join(IMAGE_EXTENSIONS)}", "members")
        try:
            text = index.read_sample(row).get("cls")
        except DataError as error:
            raise BadSampleError(str(error), "tar") from error
        if text is None:
            raise BadSampleError(f"{sample} has no .cls", "members")
        shown = text[:20].decode("utf-8", "replace").strip()
        raise BadSampleError(f"{sample}: label {shown!r}, not a number from 0 to {self.num_classes - 1}", "label")
