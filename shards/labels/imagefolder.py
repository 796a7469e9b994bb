"""A folder of images, a folder a class: what is in it, listed and checked before anything is read.

Packing and training list folders here alone. What other systems leave behind (hidden files, thumbnails, resource forks)
is not there; files that are no images by their extension are counted, so that whoever lists can tell of them.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fracgen.shards.errors import UsageError
from fracgen.shards.files import check_folder
from fracgen.shards.labels.labelled_images import (
    EXTENSIONS,
    LOOP,
    ImageFolder,
    LabelledImages,
    build_folder,
    check_class_names,
    counted,
    suffix_of,
)
from fracgen.shards.settings import nearest

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
_MAX_DEPTH = 100
"""Of folders in a class."""


def find_split(folder: Path, split: str | None) -> Path:
    """The folder of a split, by any of its names in SPLITS; without a split, `folder` itself.

    Raises UsageError where there is none.
    """
    check_folder(folder)
    if split is None:
        return folder
    if (folder / split).is_dir():
        return folder / check_split_name(split)
    return folder / match_split(split, list_folders(folder), folder, kind="folder")


def check_split_name(split: str) -> str:
    """The name of a split. Raises UsageError for one that a tar's name cannot hold."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise UsageError(f"--split {split!r}: only letters, digits and _ (as Hugging Face datasets names splits)")
    return split


def match_split(split: str | None, names: Sequence[str], source: Path, *, kind: str = "split") -> str:
    """That of the names which a split has, by any of its names in SPLITS.

    kind: what the names are, for messages. Raises UsageError where there is none, or several.
    """
    if split is None:
        raise UsageError(f"{source}: holds splits ({_some(names)}); give --split {names[0]}")
    check_split_name(split)
    if split in names:
        return split
    synonyms = next((each for each in SPLITS.values() if split.lower() in each), ())
    if (name := _only(source, [name for name in names if name.lower() in synonyms])) is not None:
        return name
    place = f"{kind} {source / split}" if kind == "folder" else f"{kind} {split} in {source}"
    listed = _some(names) or f"no {kind}s"
    raise UsageError(f"--split {split}: no {place}{nearest(split, names)}; there are {listed}")


def find_splits(folder: Path) -> dict[str, Path]:
    """The folders of splits that lie in `folder`, by their names in SPLITS.

    Raises UsageError where a split is there under two names.
    """
    names = list_folders(folder) if folder.is_dir() else []
    return {split: folder / name for split, name in split_roles(names, folder).items()}


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, without those that other systems leave."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def split_roles(names: Sequence[str], source: Path) -> dict[str, str]:
    """Those of the names that are splits', by "train", "val" and "test". Raises UsageError for two of one split."""
    roles = {split: _only(source, [name for name in names if name.lower() in each]) for split, each in SPLITS.items()}
    return {split: name for split, name in roles.items() if name is not None}


def _only(source: Path, names: Sequence[str]) -> str | None:
    if len(names) > 1:
        raise UsageError(f"{source}: holds {' and '.join(names)}, which are names of one split; rename or remove one")
    return names[0] if names else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def list_images(root: Path, *, split: str | None = None, extensions: Mapping[str, str] = EXTENSIONS) -> ImageFolder:
    """List the class folders of `root`; links are followed, folders in a class are walked.

    split: what `root` is, if it is a split; without one, a folder of splits is refused.
    Raises UsageError with the file or folder: no class folders, a class without images, an image beside the class
    folders, a name that cannot be a class's, a link to nothing, no plain file.
    """
    others = Counter[str]()
    classes = _class_folders(root, extensions, others)
    _check_classes(root, classes, split)
    listed = list[tuple[str, list[tuple[str, int]]]]()
    above = frozenset([_identity(root)])
    for class_name in classes:
        passed_over = Counter[str]()
        files = sorted(_walk(root / class_name, f"{class_name}/", extensions, passed_over, above))
        if not files:
            contents = f"{counted(passed_over)}: not {', '.join(extensions)}" if passed_over else "it is empty"
            raise UsageError(f"{root / class_name}: a class without images ({contents}); remove it or fill it")
        others += passed_over
        listed.append((class_name, files))
    return build_folder(root, listed, others=others, extensions=extensions)


def check_same_classes(splits: Sequence[LabelledImages]) -> None:
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
        elif suffix_of(entry.name) in extensions:
            raise UsageError(f"{entry.path}: an image beside the class folders; move it into one, or away")
        else:
            others[suffix_of(entry.name) or "no extension"] += 1
    return sorted(classes)


def _check_classes(root: Path, classes: list[str], split: str | None) -> None:
    if not classes:
        raise UsageError(f"{root}: no class folders in it; images lie in a folder a class")
    if split is None and {name.lower() for name in classes} <= {name for names in SPLITS.values() for name in names}:
        raise UsageError(f"{root}: holds splits; give --split {classes[0]}")
    check_class_names(root, classes)


def _walk(
    folder: Path, prefix: str, extensions: Mapping[str, str], others: Counter[str], above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, int]]:
    """(relative name, size) of the images in a folder and those in it. above: the folders that lead here."""
    if (identity := _identity(folder)) in above:
        others[LOOP] += 1
        return
    if len(above) > _MAX_DEPTH:
        upper = Path(*folder.parts[:8])
        raise UsageError(f"{upper}: folders nested more than {_MAX_DEPTH} deep; move the images up")
    for entry in _entries(folder):
        try:
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", extensions, others, above | {identity})
            elif (suffix := suffix_of(entry.name)) in extensions:
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
