"""The manifest `dataset.json`: what a folder of shards holds, and what made it."""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import DataError, UsageError
from shards.layout import Layout
from shards.sample import Image
from shards.typed import parse

FORMAT = "fracgen-shards"
VERSION = 2
MANIFEST = "dataset.json"
FORMULAS = "formulas"
PARTIAL = ".partial"
"""Where the state of an unfinished folder lies."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One committed shard.

    bytes, sha256: of the tar file. pixels_sha256: of the pixels and labels in it, as `PixelHash` takes them.
    rejections: draws thrown away while making it, by reason. counts: what else was counted, by name.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    pixels_sha256: str
    rejections: Mapping[str, int]
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """extension: of the image members, without a dot. width, height: pixels. mode: "L" (gray) or "RGB"."""

    extension: str
    width: int
    height: int
    mode: str

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
        """Accepted draws divided by all draws."""
        return self.num_samples / (self.num_samples + sum(self.rejections.values()))

    def to_dict(self) -> dict[str, Any]:
        """What `dataset.json` holds."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "recipe": dict(self.recipe),
            "recipe_hash": self.recipe_hash,
            "provenance": dict(self.provenance),
            "layout": self.layout.to_dict(),
            "versions": dict(self.versions),
            "image": asdict(self.image),
            "num_samples": self.num_samples,
            "num_classes": self.num_classes,
            "num_bytes": self.num_bytes,
            "rejections": self.rejections,
            "acceptance": self.acceptance,
            "counts": self.counts,
            "class_names": list(self.class_names),
            "files": dict(self.files),
            "shards": [asdict(shard) for shard in self.shards],
        }

    def to_bytes(self) -> bytes:
        """The file `dataset.json`: `to_dict`, and the hash of that."""
        values = self.to_dict()
        return (to_json({**values, "sha256": hash_json(values)}, indent=1) + "\n").encode()


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sorted(sum(map(Counter, counts), Counter[str]()).items()))


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a finished folder.

    Raises UsageError for a folder that is missing or holds no shards, DataError for one that is unfinished or whose
    manifest is damaged or of another version.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if not path.exists():
        if (folder / PARTIAL).is_dir():
            raise DataError(f"{folder}: unfinished; run again what began it, or `fracgen merge` after parts")
        raise UsageError(f"{folder}: no {MANIFEST} in it, so this is no folder of shards")
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] != FORMAT:
            raise DataError(f"{path}: format {values['format']!r}, expected {FORMAT!r}")
        if values["version"] != VERSION:
            raise DataError(f"{path}: version {values['version']!r}; this release reads version {VERSION} only")
        manifest = parse(Manifest, values)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    layout, names = manifest.layout, [shard.name for shard in manifest.shards]
    if any("/" in name for name in manifest.files):
        raise DataError(f"{path}: damaged (a file outside the folder)")
    if manifest.num_samples != layout.num_samples or names != [layout.filename(n) for n in range(len(names))]:
        raise DataError(f"{path}: damaged (its shards are not those of its layout)")
    return manifest


def differing_files(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files beside the shards, one line each."""
    problems = []
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            problems.append(f"{name}: differs from what the manifest says")
    return problems


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON text with exact floats and no NaN, in the order of the keys."""
    return json.dumps(values, indent=indent, allow_nan=False, separators=(",", ":") if indent is None else None)


def hash_json(values: Mapping[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON text of `values`: keys sorted, no white space."""
    text = json.dumps(values, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class PixelHash:
    """sha256 over the digests of samples, in their order.

    A sample's digest is sha256 over its label, dimensions and shape as little-endian int64, and its raw pixels, row by
    row: so that samples may be made in one order and hashed in another.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @staticmethod
    def digest(image: Image, label: int) -> bytes:
        """The digest of one sample."""
        digest = hashlib.sha256(struct.pack(f"<{2 + image.ndim}q", label, image.ndim, *image.shape))
        digest.update(np.ascontiguousarray(image).data)
        return digest.digest()

    def update(self, digest: bytes) -> None:
        """Take one more sample in, by its digest."""
        self._hash.update(digest)

    def hexdigest(self) -> str:
        """The hash of all samples so far."""
        return self._hash.hexdigest()


def sidecars(manifest: Manifest, carried: Mapping[str, str], source: str = FORMULAS) -> dict[str, bytes]:
    """The small files by which stock tools find their way: timm, open_clip, Hugging Face datasets.

    carried: what else the folder has, by name, and what that holds. source: what its images were made from.
    """
    names = [shard.name for shard in manifest.shards]
    lengths = [shard.samples for shard in manifest.shards]
    split = {"name": "train", "num_samples": manifest.num_samples, "filenames": names, "shard_lengths": lengths}
    texts = {
        "_info.json": to_json({"splits": {"train": split}}, indent=1) + "\n",
        "sizes.json": to_json(dict(zip(names, lengths, strict=True)), indent=1) + "\n",
        "README.md": _data_card(manifest, carried, source),
    }
    return {name: text.encode() for name, text in texts.items()}


def _data_card(manifest: Manifest, carried: Mapping[str, str], source: str) -> str:
    layout, image = manifest.layout, manifest.image
    recipe = "\n".join(
        f"| {name} | {value} |" for name, value in manifest.recipe.items() if not isinstance(value, dict | list)
    )
    members = ["`<key>.cls` (the label)", *(["`<key>.json` (what made it)"] if layout.metadata else [])]
    last = layout.filename(layout.num_shards - 1)
    pattern = f"{layout.name}-train-{{000000..{layout.num_shards - 1:06d}}}.tar" if layout.num_shards > 1 else last
    tag = "- synthetic\n" if source == FORMULAS else ""
    beside = "".join(f"\n`{name}` holds {what}.\n" for name, what in carried.items())
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: "{layout.name}-train-*.tar"
task_categories:
- image-classification
tags:
{tag}- webdataset
---

# {layout.name}

{manifest.num_samples} images of {manifest.num_classes} classes, {image.width} x {image.height} {image.mode},
made from {source} by fracgen {manifest.versions["fracgen"]}. `dataset.json` holds the whole recipe, and sha256 sums of
every shard and of its pixels; `fracgen verify` checks them.
{beside}
| recipe | |
| --- | --- |
{recipe}

Every sample is {", ".join(members)} and `<key>.{image.extension}`.

```python
webdataset.WebDataset("{pattern}", shardshuffle=False).decode("pil").to_tuple("{image.extension}", "cls")
datasets.load_dataset("THIS_FOLDER", split="train")
timm.data.create_dataset("wds/x", "THIS_FOLDER", split="train", is_training=True, batch_size=256)
```
"""
