"""Read a folder of shards: its samples, encoded or as pixels."""

import contextlib
import io
import json
import re
import reprlib
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, SupportsIndex

import numpy as np

from fracgen.shards.cache import CacheSettings
from fracgen.shards.errors import DataError
from fracgen.shards.folder_files import FolderFiles, open_folder
from fracgen.shards.images import decode_picture, open_picture
from fracgen.shards.manifest import ImageFormat, Manifest
from fracgen.shards.png import decode_png
from fracgen.shards.sample import LABELS, Sample
from fracgen.shards.sequence import Numbers, SampleSequence, SampleView, position
from fracgen.shards.tar import TarIndex, TarSeries
from fracgen.shards.tar_members import read_members

_INDEX = re.compile("[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """One sample of a tar, its image not decoded.

    key: digits alone. label: 0 to 2^63 - 1. members: all its bytes, by extension, in their order.
    """

    key: str
    label: int
    metadata: dict[str, Any]
    image_bytes: bytes
    members: dict[str, bytes]


def open_shards(folder: Path | str, *, cache: CacheSettings | None = None) -> "ShardFolder":
    """Open a finished folder, by its path or by a URL that fsspec knows.

    cache: where a URL's files are kept, and how many; in the user's cache folder by default.
    Raises UsageError where it is missing or no folder of shards, DataError where it is unfinished or damaged.
    """
    return ShardFolder(open_folder(folder, cache))


class ShardFolder(SampleSequence):
    """A finished folder as a sequence of `Sample`, shard by shard, in the order in which the tars hold them.

    `shards[i]` reads one sample at its offset; `for sample in shards` reads the tars from begin to end. `manifest` says
    what the folder holds, `files` where it lies; a tar at a URL is fetched when it is first needed. Many threads may
    read it at once; it can be pickled, and forked.
    """

    def __init__(self, files: FolderFiles) -> None:
        self.files, self.manifest = files, files.manifest
        self._tars = series_of(files.folder, files.manifest)

    @property
    def folder(self) -> Path:
        """Where the files lie on this machine; of a URL, in the cache."""
        return self.files.folder

    def __len__(self) -> int:
        return self.manifest.num_samples

    def __iter__(self) -> Iterator[Sample]:
        for shard in range(len(self.manifest.shards)):
            yield from self.read_shard(shard)

    def read_shard(self, shard: int) -> Iterator[Sample]:
        """The samples of one shard, in their order. Raises DataError where it is missing or damaged."""
        for raw in self.read_encoded_shard(shard):
            yield self._decode(raw, self.manifest.shards[shard].name)

    def read_encoded_shard(self, shard: int) -> Iterator[EncodedSample]:
        """The samples of one shard as their bytes. Raises DataError where it is missing or damaged."""
        name = self.manifest.shards[shard].name
        with self.files.using(name) as path:
            for raw in read_tar(path, self.manifest.image.extension):
                yield self._checked(raw, name)

    def read(self, numbers: Iterable[int]) -> Iterator[Sample]:
        """The samples of these numbers, each 0 to len - 1, in their order, each read at its offset.

        Raises DataError, with the file and the key, where one is missing or damaged.
        """
        for number in numbers:
            yield self._decode(self.read_encoded(number), self.manifest.shards[self._tars.place(number)[0]].name)

    def read_encoded(self, number: SupportsIndex) -> EncodedSample:
        """One sample as its bytes. Raises DataError, with file and key, where it is missing or damaged."""
        tar, row = self._tars.place(position(number, len(self)))
        name = self.manifest.shards[tar].name
        with self.files.using(name):
            index = self._index(tar)
            with _one_line(name):
                data = index.read_members(row)
        return self._checked(parse_sample(data, name, index.key(row), self.manifest.image.extension), name)

    @cached_property
    def labels(self) -> Numbers:
        """The label of each sample, (N,) int64; no image is read. Raises DataError where one is no class."""
        labels, num_classes = list[Numbers](), self.manifest.num_classes
        for tar, shard in enumerate(self.manifest.shards):
            with self.files.using(shard.name):
                index = self._index(tar)
            wrong = (index.labels < 0) | (index.labels >= num_classes)
            if wrong.any():
                key = index.key(int(wrong.argmax()))
                raise DataError(f"{shard.name}: sample {key}: its label is not in 0..{num_classes - 1}")
            labels.append(index.labels)
        return np.concatenate(labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a label."""
        return self.manifest.class_names

    @property
    def multi_label(self) -> bool:
        """Whether a sample has several labels: `Sample.labels`, of which `labels` has one."""
        return self.manifest.multi_label

    def by_index(self) -> SampleView:
        """The same samples in the order of their `index`: number i is what the recipe renders as number i.

        Of packed images without those that were skipped. Neighbours lie in different tars: to read all, iterate over
        the folder itself. No tar is opened.
        """
        layout = self.manifest.layout
        indices = [
            index
            for shard, record in enumerate(self.manifest.shards)
            for index in layout.indices(shard).tolist()
            if not record.skipped or layout.key(index) not in record.skipped
        ]
        return SampleView(self, np.argsort(np.array(indices)))

    def _checked(self, raw: EncodedSample, name: str) -> EncodedSample:
        """A sample of the tar `name`, whose label is one of the folder's."""
        try:
            check_label(raw, self.manifest.num_classes)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        return raw

    def _decode(self, raw: EncodedSample, name: str) -> Sample:
        try:
            return decode_sample(raw, self.manifest)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def _index(self, tar: int) -> TarIndex:
        """Where in a tar its samples lie, which must be as many as the manifest says."""
        index, record = self._tars.index(tar), self.manifest.shards[tar]
        if index.fault is not None:
            raise DataError(index.fault)
        if len(index) != record.samples:
            raise DataError(f"{record.name}: holds {len(index)} samples, and the manifest says {record.samples}")
        return index

    def __repr__(self) -> str:
        return f"open_shards({str(self.files)!r})"


def series_of(folder: Path, manifest: Manifest) -> TarSeries:
    """The tars of a folder; none is opened."""
    paths = tuple(str(folder / shard.name) for shard in manifest.shards)
    return TarSeries(paths, tuple(shard.samples for shard in manifest.shards))


def read_tar(path: Path, extension: str, *, name: str = "") -> Iterator[EncodedSample]:
    """The samples of a tar, one after the other: members of one key must follow each other.

    name: stands for the tar in messages, where its file has another.
    Raises DataError, with the file and the key, where the tar is missing, truncated or not as the contract says.
    """
    name = name or path.name
    with _one_line(name):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{name}: not a plain file")
        with path.open("rb") as file:
            yield from _read_samples(file, name, extension)


@contextlib.contextmanager
def _one_line(tar_name: str) -> Iterator[None]:
    """What fails in reading a tar as a DataError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{tar_name}: missing") from error
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{tar_name}: no whole tar ({error})") from error


def _read_samples(file: BinaryIO, tar_name: str, extension: str) -> Iterator[EncodedSample]:
    key, members = "", dict[str, bytes]()
    for name, data in read_members(file, tar_name):
        stem, _, suffix = name.partition(".")
        if stem != key and members:
            yield _assemble(tar_name, key, members, extension)
            members = {}
        key = stem
        if suffix in members:
            raise DataError(f"{tar_name}: member {name!r} is there twice")
        members[suffix] = data
    if members:
        yield _assemble(tar_name, key, members, extension)


def _assemble(tar_name: str, key: str, members: dict[str, bytes], extension: str) -> EncodedSample:
    try:
        if not _INDEX.fullmatch(key):  # it names files where a folder is exported
            raise ValueError("its key is no index")
        metadata = json.loads(members["json"], parse_constant=_refuse) if "json" in members else {}
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no mapping")
        if not 0 <= (label := int(members["cls"])) < 1 << 63:
            raise ValueError(f"label {reprlib.repr(label)}: is the number of no class")
        return EncodedSample(key=key, label=label, metadata=metadata, image_bytes=members[extension], members=members)
    except KeyError as error:
        raise DataError(f"{tar_name}: sample {key} has no .{error.args[0]}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{tar_name}: sample {key}: {error}") from None


def check_label(raw: EncodedSample, num_classes: int) -> None:
    """Raises DataError where a sample's label is no class of its folder."""
    if raw.label >= num_classes:
        raise DataError(f"sample {raw.key}: label {raw.label} is not in 0..{num_classes - 1}")


def parse_sample(data: bytes, tar_name: str, key: str, extension: str) -> EncodedSample:
    """The sample of this key, from the piece of a tar that holds its members alone: see `TarIndex.read_members`.

    Raises DataError, with the file and the key, where that is not as the contract says.
    """
    with _one_line(tar_name):
        samples = list(_read_samples(io.BytesIO(data), tar_name, extension))
    if [sample.key for sample in samples] != [key]:
        raise DataError(f"{tar_name}: changed while it was read; open the folder again")
    return samples[0]


def check_original(raw: EncodedSample, image_format: ImageFormat) -> None:
    """Decode an image that was packed as a file, and forget it.

    Raises DataError where it cannot be, or is greater than the format says.
    """
    try:
        with open_picture(raw.image_bytes) as picture:
            _check_size((picture.height, picture.width), image_format)
            picture.load()
    except DataError as error:
        raise DataError(f"sample {raw.key}: {error}") from error


def _check_size(shape: tuple[int, ...], image_format: ImageFormat) -> None:
    """Raises DataError where an image that was packed as a file has another size than the format says."""
    height, width = image_format.height, image_format.width
    if image_format.one_size and shape[:2] != (height, width):
        raise DataError(f"an image of {shape[1]} x {shape[0]} pixels, not {width} x {height}")
    if shape[0] > height or shape[1] > width:
        raise DataError(f"an image of {shape[1]} x {shape[0]} pixels; the greatest has {width} x {height}")


def _refuse(constant: str) -> None:
    raise ValueError(f"its metadata holds {constant}")


def read_labels(raw: EncodedSample, num_classes: int) -> tuple[int, ...]:
    """All labels of an image that has several.

    Raises DataError where they do not ascend, are out of range, or the one of its `.cls` is not among them.
    """
    labels = raw.metadata.get(LABELS)
    if not isinstance(labels, list) or not labels or not all(type(label) is int for label in labels):
        raise DataError(f"{LABELS} {reprlib.repr(labels)}: must be a list of the numbers of classes")
    if labels != sorted(set(labels)) or not 0 <= labels[0] <= labels[-1] < num_classes:
        raise DataError(f"{LABELS} {reprlib.repr(labels)}: must ascend, each 0 to {num_classes - 1}")
    if raw.label not in labels:
        raise DataError(f"label {raw.label}: not among its {LABELS}, {reprlib.repr(labels)}")
    return tuple(labels)


def decode_sample(raw: EncodedSample, manifest: Manifest) -> Sample:
    """Decode a sample that fracgen's writer wrote, whose key is its index.

    Raises DataError where it is no image, or another one than the manifest says, or lacks its labels.
    """
    image_format, metadata, labels = manifest.image, raw.metadata, tuple[int, ...]()
    try:
        if manifest.multi_label:
            labels = read_labels(raw, manifest.num_classes)
            metadata = {name: value for name, value in metadata.items() if name != LABELS}
        if image_format.original:
            image = np.asarray(decode_picture(raw.image_bytes).convert(image_format.mode))
            _check_size(image.shape, image_format)
        else:
            image = decode_png(raw.image_bytes, manifest.layout.png_bits, shape=image_format.shape)
        return Sample(image=image, index=int(raw.key), label=raw.label, labels=labels, metadata=metadata)
    except (DataError, ValueError) as error:
        raise DataError(f"sample {raw.key}: {error}") from error
