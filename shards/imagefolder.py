"""A folder of images, a folder a class: what is in it, listed and checked before anything is read."""

import hashlib
import os
import re
import stat
import unicodedata
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import nearest

EXTENSIONS = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}
"""Which files are images, in any case of letters, and how the members of a tar are called for them."""
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder:
    """The images of a folder, numbered from 0: class by class in sorted order, in each by relative path.

    sha256: of all relative names and sizes. extension: the one that most files have.
    others: files that are no images by their extension, counted by that; they are passed over.
    starts: number of the first image of each class. ends: of each name in `names`, which is UTF-8.
    """

    root: Path
    class_names: tuple[str, ...]
    starts: tuple[int, ...]
    names: bytes
    ends: "array[int]"
    sizes: "array[int]"
    others: Mapping[str, int]
    extension: str
    sha256: str

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """Of the file of an image, with its class: relative to `root`, parts divided by "/"."""
        return self.names[self.ends[index - 1] if index else 0 : self.ends[index]].decode()

    def label(self, index: int) -> int:
        """The position of the image's class."""
        return bisect_right(self.starts, index) - 1


def find_split(folder: Path, split: str | None) -> Path:
    """Where the class folders are: in `folder`, or in that of the split. Raises UsageError where that is none."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    if split is None:
        return folder
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise UsageError(f"--split {split!r}: only letters, digits and _ (as Hugging Face datasets names splits)")
    if not (folder / split).is_dir():
        there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))
        listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") or "no folders"
        raise UsageError(f"--split {split}: no folder {folder / split}{nearest(split, there)}; there are {listed}")
    return folder / split


def list_images(root: Path, *, split: str | None = None) -> ImageFolder:
    """What the class folders of `root` hold; links are followed, folders in a class are walked, hidden files ignored.

    split: what `root` is, if it is a split; without one, a folder of splits is refused.
    Raises UsageError with the file or folder: no class folders, a class without images, an image beside the class
    folders, a name that cannot be a class's, a link to nothing or to a folder above it, no plain file.
    """
    others = Counter[str]()
    classes = _class_folders(root, others)
    _check_classes(root, classes, split)
    names, ends, sizes, starts = bytearray(), array("q"), array("q"), []
    extensions, digest = Counter[str](), hashlib.sha256()
    for class_name in classes:
        passed_over = Counter[str]()
        found = sorted(_walk(root / class_name, f"{class_name}/", passed_over, frozenset()))
        if not found:
            raise UsageError(
                f"{root / class_name}: a class without images ({_told(passed_over)}); remove it or fill it"
            )
        starts.append(len(sizes))
        others += passed_over
        for name, size in found:
            encoded = _encoded(root, name)
            names += encoded
            ends.append(len(names))
            sizes.append(size)
            digest.update(b"%b\0%d\n" % (encoded, size))
            extensions[EXTENSIONS[_suffix(name)]] += 1
    return ImageFolder(
        root=root,
        class_names=tuple(classes),
        starts=tuple(starts),
        names=bytes(names),
        ends=ends,
        sizes=sizes,
        others=dict(sorted(others.items())),
        extension=max(sorted(extensions), key=extensions.__getitem__),
        sha256=digest.hexdigest(),
    )


def check_same_classes(splits: Sequence[ImageFolder]) -> None:
    """Raises UsageError where splits of one set have other classes: a label would not mean the same in them."""
    for other in splits[1:]:
        if differing := sorted({*splits[0].class_names} ^ {*other.class_names}):
            raise UsageError(
                f"class {differing[0]} is not in both {splits[0].root} and {other.root} ({len(differing)} such), so "
                "labels would differ; pack the splits by themselves, into other folders, if that is meant"
            )


def _class_folders(root: Path, others: Counter[str]) -> list[str]:
    classes = []
    for entry in _entries(root):
        if entry.is_dir():
            classes.append(entry.name)
        elif _suffix(entry.name) in EXTENSIONS:
            raise UsageError(f"{entry.path}: an image beside the class folders; move it into one, or away")
        else:
            others[_suffix(entry.name) or "no extension"] += 1
    return sorted(classes)


def _check_classes(root: Path, classes: list[str], split: str | None) -> None:
    if not classes:
        raise UsageError(f"{root}: no class folders in it; images lie in a folder a class")
    if split is None and {name.lower() for name in classes} <= _SPLITS:
        raise UsageError(f"{root}: holds splits; give --split {classes[0]}")
    seen: dict[str, str] = {}
    for name in classes:
        _encoded(root, name)
        if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in name):
            raise UsageError(f"class {name!a} of {root}: control characters in its name; rename it")
        if (other := seen.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            raise UsageError(
                f"classes {other!a} and {name!a} of {root}: the same name but for how accents are "
                "written (Unicode normalisation); rename or join them"
            )


def _walk(
    folder: Path, prefix: str, others: Counter[str], above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, int]]:
    """(relative name, size) of the images in a folder and those in it. above: the folders that lead here."""
    try:
        status = folder.stat()
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from error
    if (identity := (status.st_dev, status.st_ino)) in above:
        raise UsageError(f"{folder}: a link to a folder above it; remove it")
    for entry in _entries(folder):
        try:
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", others, above | {identity})
            elif (suffix := _suffix(entry.name)) in EXTENSIONS:
                status = entry.stat()
                if not stat.S_ISREG(status.st_mode):
                    raise UsageError(f"{entry.path}: no plain file; remove it")
                yield f"{prefix}{entry.name}", status.st_size
            else:
                others[suffix or "no extension"] += 1
        except FileNotFoundError:
            raise UsageError(f"{entry.path}: a link to nothing; remove it") from None
        except OSError as error:
            raise UsageError(f"{entry.path}: cannot be read ({error.strerror})") from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _is_hidden(entry.name)]
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _suffix(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return f"{dot}{extension}".lower() if stem else ""


def _encoded(root: Path, name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name!a} in {root}: a name that is not UTF-8; rename it") from None


def _told(others: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    return f"{listed}: not {', '.join(EXTENSIONS)}" if listed else "it is empty"
