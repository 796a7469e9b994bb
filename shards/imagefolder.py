"""A folder of images, a folder a class: what is in it, listed and checked before anything is read.

Packing and training list folders here alone. What other systems leave behind (hidden files, thumbnails, resource forks)
is not there; files that are no images by their extension are counted, so that whoever lists can tell of them.
"""

import hashlib
import os
import re
import stat
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import nearest

EXTENSIONS: Mapping[str, str] = {
    ".jpg": "jpg", ".jpeg": "jpg", ".jpe": "jpg", ".jfif": "jpg", ".png": "png", ".webp": "webp", ".bmp": "bmp",
}  # fmt: skip
"""Which files are images, in any case of letters, and the extension of the members of a tar for them."""
PACKED_EXTENSIONS: Mapping[str, str] = {suffix: name for suffix, name in EXTENSIONS.items() if name != "bmp"}
"""Of those, what is packed: webdataset decodes no `.bmp`."""
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
"""The splits, and how their folders may be called, in any case of letters."""
_JUNK = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
    "__macosx", "icon\r", "lost+found", "__pycache__",
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb",
}  # fmt: skip
"""What Windows, macOS, Linux, Python and network storage leave in folders, in lower case; hidden files aside."""
_LOOP = "link to a folder above"
_MAX_DEPTH = 100
"""Of folders in a class."""
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder:
    """The images of a folder, numbered from 0: class by class, in each by relative path, both by code point.

    So "10" comes before "2", and "Z" before "a".
    sha256: of all relative names and sizes. extension: the one that most files have, as members are called.
    others: files that are no images by their extension, counted by that; they are passed over.
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

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """Name of the file of an image, with its class: relative to `root`, parts divided by "/"."""
        return self.names[self.ends[index - 1] if index else 0 : self.ends[index]].decode()

    def label(self, index: int) -> int:
        """The position of the image's class."""
        return bisect_right(self.starts, index) - 1

    @property
    def labels(self) -> Numbers:
        """The position of each image's class, (N,) int64."""
        return np.repeat(np.arange(len(self.starts)), np.diff((*self.starts, len(self))))

    def passed_over(self) -> list[str]:
        """What was left out, a line for each reason."""
        reasons = {
            ".bmp": "webdataset decodes no BMP, so they are not packed; convert them",
            _LOOP: "what lies there is listed already, passed over",
        }
        lines = [f"{self.others[kind]} {kind}: {reason}" for kind, reason in reasons.items() if kind in self.others]
        if others := {kind: count for kind, count in self.others.items() if kind not in reasons}:
            lines.insert(0, f"{_listed(others)}: no images by their extension, passed over")
        return lines


def find_split(folder: Path, split: str | None) -> Path:
    """The folder of a split, by any of its names in SPLITS; without a split, `folder` itself.

    Raises UsageError where there is none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    if split is None:
        return folder
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise UsageError(f"--split {split!r}: only letters, digits and _ (as Hugging Face datasets names splits)")
    if (folder / split).is_dir():
        return folder / split
    names = list_folders(folder)
    synonyms = next((each for each in SPLITS.values() if split.lower() in each), ())
    if (path := _only(folder, [name for name in names if name.lower() in synonyms])) is not None:
        return path
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "no folders"
    raise UsageError(f"--split {split}: no folder {folder / split}{nearest(split, names)}; there are {listed}")


def find_splits(folder: Path) -> dict[str, Path]:
    """The folders of splits that lie in `folder`, by their names in SPLITS.

    Raises UsageError where a split is there under two names.
    """
    names = list_folders(folder) if folder.is_dir() else []
    paths = {split: _only(folder, [name for name in names if name.lower() in each]) for split, each in SPLITS.items()}
    return {split: path for split, path in paths.items() if path is not None}


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, without those that other systems leave."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _only(folder: Path, names: Sequence[str]) -> Path | None:
    if len(names) > 1:
        raise UsageError(f"{folder}: holds {' and '.join(names)}, which are names of one split; rename or remove one")
    return folder / names[0] if names else None


def list_images(root: Path, *, split: str | None = None, extensions: Mapping[str, str] = EXTENSIONS) -> ImageFolder:
    """List the class folders of `root`; links are followed, folders in a class are walked.

    split: what `root` is, if it is a split; without one, a folder of splits is refused.
    Raises UsageError with the file or folder: no class folders, a class without images, an image beside the class
    folders, a name that cannot be a class's, a link to nothing, no plain file.
    """
    others = Counter[str]()
    classes = _class_folders(root, extensions, others)
    _check_classes(root, classes, split)
    names, ends, sizes, starts = bytearray(), list[int](), list[int](), list[int]()
    above = frozenset([_identity(root)])
    extension_counts, digest = Counter[str](), hashlib.sha256()
    for class_name in classes:
        passed_over = Counter[str]()
        files = sorted(_walk(root / class_name, f"{class_name}/", extensions, passed_over, above))
        if not files:
            contents = f"{_listed(passed_over)}: not {', '.join(extensions)}" if passed_over else "it is empty"
            raise UsageError(f"{root / class_name}: a class without images ({contents}); remove it or fill it")
        starts.append(len(sizes))
        others += passed_over
        for name, size in files:
            encoded = _encoded(root, name)
            names += encoded
            ends.append(len(names))
            sizes.append(size)
            digest.update(b"%b\0%d\n" % (encoded, size))
            extension_counts[extensions[_suffix(name)]] += 1
    return ImageFolder(
        root=root,
        class_names=tuple(classes),
        starts=tuple(starts),
        names=bytes(names),
        ends=np.array(ends, np.int64),
        sizes=np.array(sizes, np.int64),
        others=dict(sorted(others.items())),
        extension=max(sorted(extension_counts), key=extension_counts.__getitem__),
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


def _class_folders(root: Path, extensions: Mapping[str, str], others: Counter[str]) -> list[str]:
    classes = []
    for entry in _entries(root):
        if entry.is_dir():
            classes.append(entry.name)
        elif _suffix(entry.name) in extensions:
            raise UsageError(f"{entry.path}: an image beside the class folders; move it into one, or away")
        else:
            others[_suffix(entry.name) or "no extension"] += 1
    return sorted(classes)


def _check_classes(root: Path, classes: list[str], split: str | None) -> None:
    if not classes:
        raise UsageError(f"{root}: no class folders in it; images lie in a folder a class")
    if split is None and {name.lower() for name in classes} <= {name for names in SPLITS.values() for name in names}:
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
    folder: Path, prefix: str, extensions: Mapping[str, str], others: Counter[str], above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, int]]:
    """(relative name, size) of the images in a folder and those in it. above: the folders that lead here."""
    if (identity := _identity(folder)) in above:
        others[_LOOP] += 1
        return
    if len(above) > _MAX_DEPTH:
        upper = Path(*folder.parts[:8])
        raise UsageError(f"{upper}: folders nested more than {_MAX_DEPTH} deep; move the images up")
    for entry in _entries(folder):
        try:
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", extensions, others, above | {identity})
            elif (suffix := _suffix(entry.name)) in extensions:
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


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from error
    return status.st_dev, status.st_ino


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


def _listed(others: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
