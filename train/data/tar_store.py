"""The samples of tars at random access, by an index of each tar that is made when it is first read."""

import io
import os
import tarfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.images import decode_picture
from fracgen.shards.png import decode_png
from fracgen.train.data.examples import Indices, Pixels, Progress
from fracgen.train.data.skipped import BadSampleError, SkippedDataWarning, SkippedExample
from fracgen.train.data.tar_index import TarIndex, index_tar


@dataclass(frozen=True)
class TarStore:
    """Tars, and how their samples are read.

    counts: samples that each is to hold. rendered: where fracgen encoded all images, (shape of their pixels, bits of
    the PNGs). has_manifest: whether the number of classes is the set's own, not the user's.
    skip_bad: a tar that holds more samples than counted is no error.
    """

    tars: tuple[str, ...]
    counts: tuple[int, ...]
    num_classes: int
    rendered: tuple[tuple[int, ...], int] | None = None
    has_manifest: bool = False
    skip_bad: bool = False
    _ends: list[Indices] = field(default_factory=list, compare=False)

    def load(self, number: int, min_size: int) -> tuple[Image.Image | Pixels, int]:
        """(image, label). Raises BadSampleError; UsageError for a label that --num-classes does not have."""
        tar, row = self._place(number)
        index = self._index(tar)
        label = self._label(tar, row, index)
        data = self._read(tar, row, int(index.image_starts[row]), int(index.image_sizes[row]))
        try:
            if self.rendered is not None:
                shape, bits = self.rendered
                return decode_png(data, bits, shape=shape), label
            return decode_picture(data, min_size=min_size), label
        except DataError as error:
            raise BadSampleError(f"{self.describe(number)}: image {error}", "image") from error

    def labels(self) -> Indices:
        """Of every sample, int64; -1 where it has none that can be used."""
        labels = np.full(sum(self.counts), -1)
        start = 0
        for tar, count in enumerate(self.counts):
            try:
                mine = self._index(tar).labels[:count]
            except BadSampleError:
                mine = np.empty(0, np.int64)
            labels[start : start + len(mine)] = mine
            start += count
        return labels

    def describe(self, number: int) -> str:
        """As in "set-000.tar: sample s0007"."""
        tar, row = self._place(number)
        try:
            keys = index_tar(self.tars[tar]).keys
            key = os.fsdecode(bytes(keys[row])) if row < len(keys) else f"number {row}"
        except OSError:
            key = f"number {row}"
        return f"{Path(self.tars[tar]).name}: sample {key}"

    def skipped_example(self, number: int, error: BadSampleError) -> SkippedExample:
        """A sample that is left out, as it is counted."""
        return SkippedExample(self.describe(number), error.reason, str(error))

    def bad_samples(self, progress: Progress | None = None) -> dict[int, BadSampleError]:
        """What is wrong with each sample whose headers and label show it. Raises UsageError as `load` does."""
        bad, starts = dict[int, BadSampleError](), np.cumsum([0, *self.counts[:-1]]).tolist()
        for tar, (start, count) in enumerate(zip(starts, self.counts, strict=True)):
            try:
                index = self._index(tar)
                odd = (index.labels < 0) | (index.labels >= self.num_classes) | (index.image_starts < 0)
                suspects = [*np.flatnonzero(odd[:count]).tolist(), *range(len(index), count)]
            except BadSampleError as error:
                bad |= dict.fromkeys(range(start, start + count), error)
                continue
            for row in suspects:
                try:
                    self._label(tar, row, index)
                except BadSampleError as error:
                    bad[start + row] = error
            if progress is not None:
                progress(tar + 1, len(self.tars))
        return bad

    def _place(self, number: int) -> tuple[int, int]:
        """(which tar, which of its samples)."""
        if not self._ends:
            self._ends.append(np.cumsum(self.counts))
        tar = int(np.searchsorted(self._ends[0], number, side="right"))
        return tar, number - int(self._ends[0][tar]) + self.counts[tar]

    def _index(self, tar: int) -> TarIndex:
        name = Path(self.tars[tar]).name
        try:
            index = index_tar(self.tars[tar])
        except FileNotFoundError:
            raise BadSampleError(f"{name}: missing", "tar") from None
        except OSError as error:
            raise BadSampleError(f"{name}: cannot be read ({error.strerror})", "tar") from None
        if len(index) > self.counts[tar]:
            message = f"{name}: holds more than the {self.counts[tar]} samples that were counted"
            if not self.skip_bad:
                raise BadSampleError(message, "tar")
            warnings.warn(message, SkippedDataWarning, stacklevel=2)
        return index

    def _read(self, tar: int, row: int, start: int, size: int) -> bytes:
        try:
            file = os.open(self.tars[tar], os.O_RDONLY)
            try:
                data = os.pread(file, size, start)
            finally:
                os.close(file)
        except OSError as error:
            raise BadSampleError(f"{Path(self.tars[tar]).name}: cannot be read ({error.strerror})", "tar") from None
        if len(data) < size:
            raise BadSampleError(f"{Path(self.tars[tar]).name}: its tar ends within it", "tar")
        return data

    def _label(self, tar: int, row: int, index: TarIndex) -> int:
        """The label of a sample. Raises BadSampleError where that, its image or the whole sample is missing."""
        name = Path(self.tars[tar]).name
        if row >= len(index):
            found = f"{name}: holds {len(index)} samples, not {self.counts[tar]}: cut short or corrupt"
            raise BadSampleError(index.fault or found, "tar")
        label = int(index.labels[row])
        if 0 <= label < self.num_classes and index.image_starts[row] >= 0:
            return label
        sample = f"{name}: sample {os.fsdecode(bytes(index.keys[row]))}"
        if label < 0:
            text = self._label_text(tar, row, index)
            if text is None:
                raise BadSampleError(f"{sample} has no .cls", "members")
            shown = text[:20].decode("utf-8", "replace").strip()
            raise BadSampleError(f"{sample}: label {shown!r}, not a number from 0 to {self.num_classes - 1}", "label")
        if label >= self.num_classes and self.has_manifest:
            raise BadSampleError(f"{sample}: label {label}, and the manifest has {self.num_classes} classes", "label")
        if label >= self.num_classes:
            raise UsageError(f"{sample}: label {label}, out of range for --num-classes {self.num_classes}")
        raise BadSampleError(f"{sample} has no image (.png, .jpg, .jpeg, .webp or .bmp)", "members")

    def _label_text(self, tar: int, row: int, index: TarIndex) -> bytes | None:
        start = int(index.sample_starts[row])
        end = int(index.sample_starts[row + 1]) if row + 1 < len(index) else Path(self.tars[tar]).stat().st_size
        data = self._read(tar, row, start, end - start)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as members:
            for member in members:
                if member.name.lower().endswith(".cls") and (file := members.extractfile(member)) is not None:
                    return file.read(64)
        return None
