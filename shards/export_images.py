"""A folder of shards as an image folder: OUT/SPLIT/CLASS/KEY.png, for torchvision, timm and every other reader."""

import re
from collections.abc import Sequence
from pathlib import Path

from fracgen.shards.errors import UsageError
from fracgen.shards.reader import ShardFolder

CLASSES = "classes.tsv"
"""Beside the split, where folders could not have the classes' own names: folder and name of each."""
_SAFE = re.compile(r"[\w][\w. ()+,=@-]*", re.ASCII)
_MAX_NAME = 100
_RESERVED = {"con", "prn", "aux", "nul"}


def export_images(shards: ShardFolder, out: Path) -> int:
    """Write every image to `out`, an empty folder, as the file that it is in its tar; returns how many there are.

    Folders in their order, as text and as numbers, are the labels. Raises DataError where a sample cannot be read,
    UsageError where images have several labels.
    """
    manifest = shards.manifest
    if manifest.multi_label:
        raise UsageError(f"{shards.files}: its images have several labels, a folder a class holds one; give parquet")
    folders = folder_names(manifest.class_names)
    split = out / manifest.layout.split
    for name in folders:
        (split / name).mkdir(parents=True)
    count = 0
    for shard in range(len(manifest.shards)):
        for sample in shards.read_encoded_shard(shard):
            (split / folders[sample.label] / f"{sample.key}.{manifest.image.extension}").write_bytes(sample.image_bytes)
            count += 1
    if folders != list(manifest.class_names):
        rows = [f"{folder}\t{name}\n" for folder, name in zip(folders, manifest.class_names, strict=True)]
        (out / CLASSES).write_text("folder\tname\n" + "".join(rows), "utf-8")
    return count


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A folder for each label: the classes' own names, where every system takes them and sorts them as labels.

    Else the label with zeros before it, and what of the name is safe.
    """
    names = list(class_names)
    are_safe = all(map(_is_safe, names)) and len({name.casefold() for name in names}) == len(names)
    if are_safe and names == sorted(names) == sorted(names, key=_natural):
        return names
    width = len(str(len(names) - 1))
    stems = [re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_MAX_NAME] for name in names]
    return [f"{label:0{width}d}{f'-{stem}' if stem else ''}" for label, stem in enumerate(stems)]


def _is_safe(name: str) -> bool:
    is_plain = _SAFE.fullmatch(name) is not None and not name.endswith((".", " "))
    return is_plain and len(name) <= _MAX_NAME and name.partition(".")[0].casefold() not in _RESERVED


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Numbers in a name by their value, as timm sorts folders."""
    parts = re.split(r"(\d+)", name.lower())
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]
