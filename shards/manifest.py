"""The manifest `dataset.json`: what a folder of shards holds, and what made it."""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.shards.errors import LFS_ADVICE, LFS_POINTER, DataError, UsageError
from fracgen.shards.files import check_folder, check_local, read_plain, sha256_of
from fracgen.shards.layout import Layout
from fracgen.shards.sample import Image
from fracgen.shards.settings import as_dict, from_json

FORMAT = "fracgen-shards"
VERSION, PACKED_VERSION = 2, 3
"""Of folders whose images were rendered, and of those whose images are files as they were found."""
MANIFEST = "dataset.json"
PACK = "pack"
"""Stands in the place of a recipe's name where images were packed."""
PARTIAL = ".partial"
"""Where the state of an unfinished folder lies."""
MAX_IMAGE_PIXELS = 178_956_970
"""Of an image that was rendered; where Pillow too speaks of a decompression bomb."""
_LEAST_MEMBER = _TAR_END = 1024
"""Bytes in a tar: of a member, header and content, and of the blocks that close it."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One committed shard.

    bytes, sha256: of the tar file. pixels_sha256: of the pixels and labels in it, as `PixelHash` takes them.
    rejections: draws thrown away while making it, by reason. counts: what else was counted, by name.
    sizes: of images that are files: least and greatest width, least and greatest height; else empty.
    skipped: files that were left out, by the key that they would have.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    pixels_sha256: str
    rejections: Mapping[str, int]
    counts: Mapping[str, int]
    sizes: tuple[int, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able; `sizes` and `skipped` where there are any."""
        return as_dict(self, ("sizes", "skipped"))


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """What the images of a folder are.

    extension: of the image members, without a dot. width, height: pixels. mode: "L" (gray) or "RGB".
    original: the members are files as they were found, each a JPEG, PNG or WebP whatever the extension says; mode is
        what `images.decode_picture` makes of them: "L" where all are gray.
    one_size: else width and height are the greatest of any image.
    """

    extension: str
    width: int
    height: int
    mode: str
    original: bool = False
    one_size: bool = True

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able; those of files where the images are such."""
        return as_dict(self, ("original", "one_size"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the decoded array."""
        return (self.height, self.width, 3) if self.mode == "RGB" else (self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a folder but its pixels; nothing in it depends on time, host, workers or speed.

    recipe: the resolved recipe, whole. recipe_hash: sha256 of what in it determines pixels.
    provenance: how the recipe was resolved (seed, tries); it changes no pixel.
    files: sha256 (hex) of each other file of the folder, by name.
    """

    recipe: Mapping[str, Any]
    recipe_hash: str
    provenance: Mapping[str, Any]
    layout: Layout
    versions: Mapping[str, str]
    class_names: tuple[str, ...]
    image: ImageFormat
    shards: tuple[ShardRecord, ...]
    files: Mapping[str, str]

    @property
    def num_samples(self) -> int:
        """Number of images in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether an image has several labels: `labels` in its metadata, of which one stands in its `.cls`."""
        return self.layout.multi_label

    @property
    def num_bytes(self) -> int:
        """Size of all tars."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def rejections(self) -> dict[str, int]:
        """Draws thrown away, by reason."""
        return _total(shard.rejections for shard in self.shards)

    @property
    def counts(self) -> dict[str, int]:
        """What else was counted, by name: images of orbits that were trimmed, say."""
        return _total(shard.counts for shard in self.shards)

    @property
    def acceptance(self) -> float:
        """Accepted draws divided by all draws; images that were taken, by all that were there."""
        return self.num_samples / (self.num_samples + sum(self.rejections.values()))

    def to_dict(self) -> dict[str, Any]:
        """What `dataset.json` holds."""
        return {
            "format": FORMAT,
            "version": PACKED_VERSION if self.image.original else VERSION,
            "recipe": dict(self.recipe),
            "recipe_hash": self.recipe_hash,
            "provenance": dict(self.provenance),
            "layout": self.layout.to_dict(),
            "versions": dict(self.versions),
            "image": self.image.to_dict(),
            "num_samples": self.num_samples,
            "num_classes": self.num_classes,
            "num_bytes": self.num_bytes,
            "rejections": self.rejections,
            "acceptance": self.acceptance,
            "counts": self.counts,
            "class_names": list(self.class_names),
            "files": dict(self.files),
            "shards": [shard.to_dict() for shard in self.shards],
        }

    def to_bytes(self) -> bytes:
        """The file `dataset.json`: `to_dict`, and the hash of that."""
        values = self.to_dict()
        return (to_json({**values, "sha256": hash_json(values)}, indent=1) + "\n").encode()


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sorted(sum(map(Counter, counts), Counter[str]()).items()))


class DamagedManifestError(DataError):
    """A manifest that is not as it was written."""


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a finished folder.

    Raises UsageError for a folder that is missing or holds no shards, DataError for one that is unfinished or whose
    manifest is of another version, DamagedManifestError where that is damaged.
    """
    check_local(folder)
    path = folder / MANIFEST
    check_folder(folder)
    if not path.exists():
        if (folder / PARTIAL).is_dir():
            raise DataError(f"{folder}: unfinished; run again what began it, or `fracgen merge` after parts")
        raise UsageError(f"{folder}: no {MANIFEST} in it, so this is no folder of shards")
    return read_manifest(path)


def read_manifest(path: Path, name: str | None = None) -> Manifest:
    """The manifest in a file of any name. name: stands for the file in messages, where that is a copy.

    Raises UsageError, DataError as `load_manifest` does.
    """
    name = name or str(path)
    try:
        data = read_plain(path)
        if data.startswith(LFS_POINTER):
            raise DataError(f"{name}: {LFS_ADVICE}")
        values = json.loads(data.decode())
        if values["format"] != FORMAT:
            raise DataError(f"{name}: format {values['format']!r}, expected {FORMAT!r}")
        if values["version"] not in (VERSION, PACKED_VERSION):
            raise DataError(
                f"{name}: version {values['version']!r}; this release reads {VERSION} and {PACKED_VERSION} only"
            )
        if values.pop("sha256", None) != hash_json(values):
            raise ValueError("it is not what its own sha256 says")
        manifest = from_json(Manifest, values)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise DamagedManifestError(f"{name}: damaged ({type(error).__name__}: {error})") from error
    if (fault := _fault(manifest)) is not None:
        raise DamagedManifestError(f"{name}: damaged ({fault})")
    return manifest


def _fault(manifest: Manifest) -> str | None:
    """Why a manifest cannot be of a folder of ours: numbers that do not fit each other are found before any is used."""
    layout, image, shards = manifest.layout, manifest.image, manifest.shards
    if any("/" in name or name in ("", ".", "..") for name in manifest.files):
        return "a file outside the folder"
    if any(ord(letter) < 32 for name in manifest.files for letter in name):
        return "a file's name with control characters"
    too_large = not image.original and image.width * image.height > MAX_IMAGE_PIXELS
    if min(image.width, image.height) < 1 or too_large or image.mode not in ("L", "RGB"):
        return f"images of {image.width} x {image.height} pixels, mode {image.mode!r:.20}"
    each = [shard.samples + len(shard.skipped) for shard in shards]
    fewest = layout.num_groups // layout.num_shards * layout.group
    if (
        [shard.name for shard in shards] != [layout.filename(n) for n in range(len(shards))]
        or len(shards) != layout.num_shards
        or sum(each) != layout.num_samples
        or not all(fewest - layout.group < number <= fewest + layout.group for number in each)
    ):
        return "its shards are not those of its layout"
    if not manifest.class_names:
        return "no classes"
    for shard in shards:
        num_members = shard.samples * (3 if layout.metadata else 2)
        if shard.samples < 1 or shard.bytes < num_members * _LEAST_MEMBER + _TAR_END:
            return f"{shard.name}: {shard.samples} samples in {shard.bytes} bytes"
    return None


def differing_files(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files beside the shards, one line each."""
    problems = (file_problem(name, folder / name, digest) for name, digest in manifest.files.items())
    return [problem for problem in problems if problem]


def file_problem(name: str, path: Path, digest: str) -> str | None:
    """What is wrong with a file that is to have this sha256 (hex), in a line; None for a good one."""
    if not path.is_file():
        return f"{name}: missing"
    return None if sha256_of(path) == digest else f"{name}: differs from what the manifest says"


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON text with exact floats and no NaN, in the order of the keys."""
    return json.dumps(values, indent=indent, allow_nan=False, separators=(",", ":") if indent is None else None)


def hash_json(values: Mapping[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON text of `values`: keys sorted, no white space."""
    text = json.dumps(values, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class PixelHash:
    """sha256 over the digests of samples, in their order.

    A sample's digest is sha256 over its label, dimensions and shape as little-endian int64, all labels of one with
    several likewise, and its raw pixels, row by row: so that samples may be made in one order and hashed in another. Of
    a file as it was found, it is sha256 over its label and length as little-endian int64, and its bytes: decoders of
    JPEG differ in the last bit.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @staticmethod
    def digest(image: Image, label: int, labels: Sequence[int] = ()) -> bytes:
        """The digest of one sample. labels: all of one that has several."""
        numbers = label, image.ndim, *image.shape, *labels
        digest = hashlib.sha256(struct.pack(f"<{len(numbers)}q", *numbers))
        digest.update(np.ascontiguousarray(image).data)
        return digest.digest()

    @staticmethod
    def digest_file(data: bytes, label: int) -> bytes:
        """The digest of one sample that is a file as it was found."""
        digest = hashlib.sha256(struct.pack("<2q", label, len(data)))
        digest.update(data)
        return digest.digest()

    def update(self, digest: bytes) -> None:
        """Take one more sample in, by its digest."""
        self._hash.update(digest)

    def hexdigest(self) -> str:
        """The hash of all samples so far."""
        return self._hash.hexdigest()
