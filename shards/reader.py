"""Read a folder of shards: its samples, encoded or as pixels."""

import json
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.shards.errors import DataError
from fracgen.shards.images import decode_picture, open_picture
from fracgen.shards.manifest import ImageFormat, Manifest, load_manifest
from fracgen.shards.png import decode_png
from fracgen.shards.sample import Sample
from fracgen.shards.tar_members import read_members


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """One sample of a tar, its image not decoded. members: all its bytes, by extension, in their order."""

    key: str
    label: int
    metadata: dict[str, Any]
    image_bytes: bytes
    members: dict[str, bytes]


def open_shards(folder: Path | str) -> "ShardFolder":
    """Open a finished folder.

    Raises UsageError where it is missing or no folder of shards, DataError where it is unfinished or damaged.
    """
    return ShardFolder(Path(folder))


class ShardFolder:
    """A finished folder; iterating gives every `Sample` once, shard by shard. `manifest` says what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = load_manifest(folder)

    def __len__(self) -> int:
        return self.manifest.num_samples

    def __iter__(self) -> Iterator[Sample]:
        for shard in range(len(self.manifest.shards)):
            yield from self.read_shard(shard)

    def read_shard(self, shard: int) -> Iterator[Sample]:
        """The samples of one shard, in their order. Raises DataError where it is missing or damaged."""
        image, name = self.manifest.image, self.manifest.shards[shard].name
        for raw in read_tar(self.folder / name, image.extension):
            try:
                yield decode_sample(raw, image, self.manifest.layout.png_bits)
            except DataError as error:
                raise DataError(f"{name}: {error}") from error


def read_tar(path: Path, extension: str) -> Iterator[EncodedSample]:
    """The samples of a tar, one after the other: members of one key must follow each other.

    Raises DataError, with the file and the key, where the tar is missing, truncated or not as the contract says.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path.name}: not a plain file")
        with path.open("rb") as file:
            key, members = "", dict[str, bytes]()
            for name, data in read_members(file, path.name):
                stem, _, suffix = name.partition(".")
                if stem != key and members:
                    yield _assemble(path, key, members, extension)
                    members = {}
                key = stem
                if suffix in members:
                    raise DataError(f"{path.name}: member {name!r} is there twice")
                members[suffix] = data
            if members:
                yield _assemble(path, key, members, extension)
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: missing") from error
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{path.name}: no whole tar ({error})") from error


def _assemble(path: Path, key: str, members: dict[str, bytes], extension: str) -> EncodedSample:
    try:
        metadata = json.loads(members["json"], parse_constant=_refuse) if "json" in members else {}
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no mapping")
        return EncodedSample(
            key=key, label=int(members["cls"]), metadata=metadata, image_bytes=members[extension], members=members
        )
    except KeyError as error:
        raise DataError(f"{path.name}: sample {key} has no .{error.args[0]}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name}: sample {key}: {error}") from None


def check_original(raw: EncodedSample, image_format: ImageFormat) -> None:
    """Decode an image that was packed as a file, and forget it.

    Raises DataError where it cannot be, is greater than the format says, or its key is no index.
    """
    try:
        int(raw.key)
        with open_picture(raw.image_bytes) as picture:
            _check_size((picture.height, picture.width), image_format)
            picture.load()
    except (DataError, ValueError) as error:
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


def decode_sample(raw: EncodedSample, image_format: ImageFormat, bits: int = 8) -> Sample:
    """Decode a sample that fracgen's writer wrote, whose key is its index.

    Raises DataError where it is no image, or another one than the format says.
    """
    try:
        if image_format.original:
            image = np.asarray(decode_picture(raw.image_bytes).convert(image_format.mode))
            _check_size(image.shape, image_format)
        else:
            image = decode_png(raw.image_bytes, bits, shape=image_format.shape)
        return Sample(image=image, index=int(raw.key), label=raw.label, metadata=raw.metadata)
    except (DataError, ValueError) as error:
        raise DataError(f"sample {raw.key}: {error}") from error
