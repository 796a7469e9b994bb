"""Labelled image files, listed and not yet read: what packing and training take from a folder, a table or a data set.

All number their images alike: class by class, in each by name or row. So a label is a position among the class names.
"""

import hashlib
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fracgen.shards.errors import UsageError

EXTENSIONS: Mapping[str, str] = {
    ".jpg": "jpg", ".jpeg": "jpg", ".jpe": "jpg", ".jfif": "jpg", ".png": "png", ".webp": "webp", ".bmp": "bmp",
}  # fmt: skip
"""Which files are images, in any case of letters, and the extension of the members of a tar for them."""
PACKED_EXTENSIONS: Mapping[str, str] = {suffix: name for suffix, name in EXTENSIONS.items() if name != "bmp"}
"""Of those, what is packed: webdataset decodes no `.bmp`."""
LOOP = "link to a folder above"
"""Counted among the files that are passed over."""
Numbers = npt.NDArray[np.int64]


class LabelledImages(Protocol):
    """Labelled image files at random access. Many threads read them at once; they are forked or pickled to workers.

    root: the folder that they lie in. class_names: by label. starts: number of the first image of each class.
    sizes: (N,) int64, in bytes. others: what is passed over, counted by kind. extension: as members of a tar are
    called. sha256: of all names, sizes and labels.
    """

    @property
    def root(self) -> Path:
        """The folder that they lie in."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""

    @property
    def starts(self) -> tuple[int, ...]:
        """Number of the first image of each class."""

    @property
    def sizes(self) -> Numbers:
        """Of the encoded images in bytes, (N,) int64."""

    @property
    def others(self) -> Mapping[str, int]:
        """What is passed over, counted by kind."""

    @property
    def extension(self) -> str:
        """The one that most images have."""

    @property
    def sha256(self) -> str:
        """Of all names, sizes and labels, hex."""

    @property
    def labels(self) -> Numbers:
        """The position of each image's class, (N,) int64."""

    def __len__(self) -> int:
        """The number of images."""

    def name(self, index: int) -> str:
        """Tells an image from the others, below `root`."""

    def label(self, index: int) -> int:
        """The position of the image's class."""

    def read(self, index: int) -> bytes:
        """An image as it was encoded. Raises OSError where it cannot be read."""

    def describe(self, index: int) -> str:
        """The name of an image for messages."""

    def passed_over(self) -> list[str]:
        """What was left out or is worth a word, a line for each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder:
    """The images of a folder, numbered from 0: class by class, in each by relative path by code point.

    class_names: of class folders, by code point too, so "10" comes before "2", and "Z" before "a"; of a table, as that
    orders them. sha256: of all relative names and sizes, and of the classes where a table says them. extension: the one
    that most files have, as members are called. others: files that are no images by their extension, counted by that;
    they are passed over. notes: what else is worth a word, a line for each.
    starts: number of the first image of each class. ends: (N,) int64, of each name in `names`, which is UTF-8: so they
    cost forked processes no copy. sizes: (N,) int64, in bytes.
    """

    root: Path
    class_names: tuple[str, ...]
    starts: tuple[int, ...]
    names: bytes
    ends: Numbers
    sizes: Numbers
    others: Mapping[str, int]
    extension: str
    sha256: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """Name of the file of an image: relative to `root`, parts divided by "/"."""
        return self.names[self.ends[index - 1] if index else 0 : self.ends[index]].decode()

    def label(self, index: int) -> int:
        """The position of the image's class."""
        return bisect_right(self.starts, index) - 1

    @property
    def labels(self) -> Numbers:
        """The position of each image's class, (N,) int64."""
        return np.repeat(np.arange(len(self.starts)), np.diff((*self.starts, len(self))))

    def read(self, index: int) -> bytes:
        """The file of an image. Raises OSError where it cannot be read."""
        return (self.root / self.name(index)).read_bytes()

    def describe(self, index: int) -> str:
        """The path of an image."""
        return str(self.root / self.name(index))

    def passed_over(self) -> list[str]:
        """What was left out, a line for each reason; then the notes."""
        reasons = {
            ".bmp": "webdataset decodes no BMP, so they are not packed; convert them",
            LOOP: "what lies there is listed already, passed over",
        }
        lines = [f"{self.others[kind]} {kind}: {reason}" for kind, reason in reasons.items() if kind in self.others]
        if others := {kind: count for kind, count in self.others.items() if kind not in reasons}:
            lines.insert(0, f"{counted(others)}: no images by their extension, passed over")
        return [*lines, *self.notes]


def build_folder(
    root: Path,
    classes: Sequence[tuple[str, Sequence[tuple[str, int]]]],
    *,
    others: Mapping[str, int],
    extensions: Mapping[str, str],
    table: bool = False,
    notes: Sequence[str] = (),
) -> ImageFolder:
    """An ImageFolder of (class name, its files as (relative name, bytes), sorted).

    table: whether a table says the classes, which then do not follow from the names. notes: lines to show.
    """
    names, ends, sizes, starts = bytearray(), list[int](), list[int](), list[int]()
    extension_counts, digest = Counter[str](), hashlib.sha256()
    for class_name, files in classes:
        starts.append(len(sizes))
        if table:
            digest.update(b"class %b\0" % class_name.encode("utf-8", "surrogateescape"))
        for name, size in files:
            encoded = encode_name(root, name)
            names += encoded
            ends.append(len(names))
            sizes.append(size)
            digest.update(b"%b\0%d\n" % (encoded, size))
            extension_counts[extensions[suffix_of(name)]] += 1
    return ImageFolder(
        root=root,
        class_names=tuple(name for name, _ in classes),
        starts=tuple(starts),
        names=bytes(names),
        ends=np.array(ends, np.int64),
        sizes=np.array(sizes, np.int64),
        others=dict(sorted(others.items())),
        extension=max(sorted(extension_counts), key=extension_counts.__getitem__),
        sha256=digest.hexdigest(),
        notes=tuple(notes),
    )


def suffix_of(name: str) -> str:
    """The extension of a file in lower case, as in ".jpg"; "" where it has none."""
    stem, dot, extension = name.rpartition(".")
    return f"{dot}{extension}".lower() if stem else ""


def encode_name(root: Path, name: str) -> bytes:
    """A file's name in UTF-8. Raises UsageError where its bytes are none."""
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name!a} in {root}: a name that is not UTF-8; rename it") from None


def check_class_names(source: Path, names: Iterable[str]) -> None:
    """Raises UsageError for names that a class cannot have, and for two that look the same."""
    seen: dict[str, str] = {}
    for name in names:
        encode_name(source, name)
        if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in name):
            raise UsageError(f"class {name!a} of {source}: control characters in its name; rename it")
        if (other := seen.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            raise UsageError(
                f"classes {other!a} and {name!a} of {source}: the same name but for how accents are "
                "written (Unicode normalisation); rename or join them"
            )


def counted(kinds: Mapping[str, int]) -> str:
    """As in "2 .gif, 1 .txt"."""
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(kinds.items()))
