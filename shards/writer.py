"""Write samples to one tar, byte for byte the same every time."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from fracgen.shards.errors import DataError
from fracgen.shards.layout import Layout
from fracgen.shards.manifest import PixelHash, ShardRecord, to_json
from fracgen.shards.png import encode_png
from fracgen.shards.sample import LABELS, FileSample, Sample, SkippedFile
from fracgen.shards.tar_members import TAR_END, encode_member

Entry = Sample | FileSample | SkippedFile
"""What a shard is made of."""
_BUFFER = 1 << 20


class _HashedFile:
    """Counts and hashes what goes to a file, in large pieces: hashing those lets other threads run."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._pending = bytearray()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        self._file.write(self._pending)
        self._sha256.update(self._pending)
        self.size += len(self._pending)
        self._pending.clear()

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def write_tar(
    path: Path, name: str, samples: Iterable[Entry], layout: Layout, order: Sequence[int] | None = None
) -> ShardRecord:
    """Write samples to the tar `path`, flushed to the disk, and return the record of it under the name `name`.

    Members are `<key>.cls`, `<key>.json` and `<key>.png` (of a file, its own extension), in that order; owner, group
    and times are 0.
    order: indices of the samples as they are to lie in the tar; by default as they come. Samples that come before
    their turn are held in memory, encoded. Raises DataError where some of them do not come.
    """
    pixels, tally, count = PixelHash(), _Tally(), 0
    waiting: dict[int, tuple[list[bytes], bytes]] = {}
    with path.open("wb") as file:
        tar = _HashedFile(file)
        for sample in samples:
            key = layout.key(sample.index)
            tally.add(sample, key)
            if isinstance(sample, SkippedFile):
                continue
            members = [encode_member(f"{key}.{extension}", data) for extension, data in encode_members(sample, layout)]
            waiting[sample.index] = members, _digest(sample)
            turn = sample.index if order is None else order[count]
            while turn in waiting:
                members, digest = waiting.pop(turn)
                for member in members:
                    tar.write(member)
                pixels.update(digest)
                count += 1
                turn = order[count] if order is not None and count < len(order) else -1
        if waiting or (order is not None and count != len(order)):
            raise DataError(f"{name}: {count} samples were made in their turn, and {len(waiting)} out of it")
        tar.write(TAR_END)
        tar.flush()
        file.flush()
        os.fsync(file.fileno())
    return ShardRecord(
        name=name,
        samples=count,
        bytes=tar.size,
        sha256=tar.hexdigest(),
        pixels_sha256=pixels.hexdigest(),
        rejections=dict(sorted(tally.rejections.items())),
        counts=dict(sorted(tally.counts.items())),
        sizes=tuple(tally.sizes),
        skipped=tally.skipped,
    )


class _Tally:
    """What a record says of the samples, beside their number and bytes."""

    def __init__(self) -> None:
        self.rejections, self.counts = Counter[str](), Counter[str]()
        self.sizes: list[int] = []
        self.skipped: dict[str, str] = {}

    def add(self, sample: Entry, key: str) -> None:
        if isinstance(sample, SkippedFile):
            self.rejections[sample.reason] += 1
            self.skipped[key] = sample.file
            return
        self.counts.update(sample.counts)
        if isinstance(sample, Sample):
            self.rejections.update(sample.rejected)
        else:
            self.sizes = merge_sizes([self.sizes, [sample.width, sample.width, sample.height, sample.height]])


def merge_sizes(sizes: Iterable[Sequence[int]]) -> list[int]:
    """Least and greatest width, least and greatest height, of several such; empty ones say nothing."""
    columns = list(zip(*filter(None, sizes), strict=True))
    return [choose(column) for choose, column in zip((min, max, min, max), columns, strict=False)]


def _digest(sample: Sample | FileSample) -> bytes:
    if isinstance(sample, FileSample):
        return PixelHash.digest_file(sample.data, sample.label)
    return PixelHash.digest(sample.image, sample.label, sample.labels)


def encode_members(sample: Sample | FileSample, layout: Layout) -> Iterable[tuple[str, bytes]]:
    """(extension, bytes) of the members of one sample, in the order of the tar."""
    yield "cls", str(sample.label).encode()
    if layout.metadata:
        labels = {LABELS: list(sample.labels)} if layout.multi_label and isinstance(sample, Sample) else {}
        yield "json", to_json({**labels, **sample.metadata}).encode()
    if isinstance(sample, FileSample):
        yield sample.extension, sample.data
    else:
        yield "png", encode_png(sample.image, layout.png_bits)
