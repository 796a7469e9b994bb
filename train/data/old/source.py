"""What is to be read, known before any image is decoded: a folder of ours, or any WebDataset by brace pattern."""

import glob
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage
from webdataset.shardlists import expand_urls

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.manifest import load_manifest
from fracgen.train.data.old.pictures import GRAY_MODES
from fracgen.train.data.old.tars import BadSampleError, RawSample, count_samples, first_sample

EXTENSIONS = ("png", "jpg", "jpeg", "webp")
Progress = Callable[[int, int], None]
"""Called with (how many are done, how many there are)."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tars, and how their samples are read.

    tars: paths. counts: samples in each. shape: of every image as it is read, (H, W) gray or (H, W, 3), after resizing.
    class_names: empty where the set has none. fingerprint: sha256 (hex) of the manifest; of names, sizes and counts of
    the tars where there is none. extensions: of the image member, in order of preference.
    resize: side in pixels to which each image is resized (shorter edge, bicubic) and cropped (centre).
    skip_bad: samples and tars that cannot be read are counted, not an error.
    one_size: every image has `shape`, or is an error; else it may be any other's until it is decoded, and `shape` is
    the first one's; where a manifest tells them, the greatest height and width.
    originals: images are files of any kind, decoded by Pillow into the mode of `shape`; else fracgen encoded them.
    """

    name: str
    tars: tuple[str, ...]
    counts: tuple[int, ...]
    num_classes: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    fingerprint: str
    one_size: bool
    originals: bool
    extensions: tuple[str, ...] = EXTENSIONS
    png_bits: int = 8
    resize: int | None = None
    skip_bad: bool = False

    @property
    def num_samples(self) -> int:
        """Number of images in all tars."""
        return sum(self.counts)

    @property
    def ours(self) -> bool:
        """Whether a manifest says what the set holds."""
        return bool(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of an image as the feeds give it: (C, H, W), C 1 for gray and 3 for RGB."""
        return (self.shape[2] if len(self.shape) == 3 else 1, self.shape[0], self.shape[1])

    @property
    def num_bytes(self) -> int:
        """Size of all images, decoded."""
        return self.num_samples * prod(self.shape)

    @property
    def description(self) -> str:
        """One line for the screen."""
        gray = "gray" if self.ours else "gray (as the first; others are made so)"
        mode = "RGB" if len(self.shape) == 3 else gray
        told = "" if self.one_size else f" (the {'greatest' if self.ours else 'first'})"
        size = f"{self.shape[1]} x {self.shape[0]}{told}"
        resized = f", resized to {self.resize}" if self.resize else ""
        tars = f"{len(self.tars)} tar{'s' if len(self.tars) > 1 else ''}"
        return (
            f"{self.name}: {self.num_samples} images of {self.num_classes} classes, {size} {mode}{resized}, in {tars}"
        )


def open_source(
    shards: str,
    *,
    num_classes: int | None = None,
    resize: int | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Source:
    """A finished folder of ours, rendered or packed, or tars of a brace pattern or glob ("/d/x-{000000..000146}.tar").

    Foreign tars are local, plain files with a `.cls` (a number as text) and an image a sample. Their samples are
    counted by `sizes.json` or `_info.json` beside them, else by one walk over the headers, which calls `progress` tar
    by tar. They are read as gray where the first image is gray, else as RGB (alpha over black).
    num_classes: of foreign tars; for a folder of ours it must be what the manifest says.
    Raises UsageError for what was asked for wrongly, DataError for a set that is unfinished or damaged.
    """
    if resize is not None and resize < 1:
        raise UsageError(f"--resize {resize}: give a side in pixels, 1 or more")
    if num_classes is not None and num_classes < 1:
        raise UsageError(f"--num-classes {num_classes}: give 1 or more")
    if Path(shards).is_dir() or not (set(shards) & set("{}*?[") or shards.endswith(".tar") or ":" in shards):
        return _open_ours(Path(shards), num_classes, resize, skip_bad)
    return _open_foreign(shards, num_classes, resize, skip_bad, progress)


def _open_ours(folder: Path, num_classes: int | None, resize: int | None, skip_bad: bool) -> Source:
    try:
        manifest = load_manifest(folder)
    except DataError as error:
        raise UsageError(str(error)) from error
    except UsageError as error:
        tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
        hint = f"; for tars of another origin give a pattern, as '{folder / '*.tar'}'" if tars else ""
        raise UsageError(f"{error}{hint}") from None
    if num_classes not in (None, manifest.num_classes):
        raise UsageError(
            f"--num-classes {num_classes}: {folder} has {manifest.num_classes} classes, as its manifest says; "
            "leave the option away"
        )
    for shard in manifest.shards:
        path = folder / shard.name
        if not skip_bad and not path.is_file():
            raise DataError(f"{shard.name}: missing from {folder}")
        if not skip_bad and (size := path.stat().st_size) != shard.bytes:
            raise DataError(f"{shard.name}: {size} bytes, and the manifest says {shard.bytes}: cut short or changed")
    shape = manifest.image.shape
    return Source(
        name=str(folder),
        tars=tuple(str(folder / shard.name) for shard in manifest.shards),
        counts=tuple(shard.samples for shard in manifest.shards),
        num_classes=manifest.num_classes,
        shape=shape if resize is None else (resize, resize, *shape[2:]),
        class_names=manifest.class_names,
        fingerprint=hashlib.sha256(manifest.to_bytes()).hexdigest(),
        one_size=manifest.image.one_size or resize is not None,
        originals=manifest.image.original,
        extensions=(manifest.image.extension,),
        png_bits=manifest.layout.png_bits,
        resize=resize,
        skip_bad=skip_bad,
    )


def _open_foreign(
    pattern: str, num_classes: int | None, resize: int | None, skip_bad: bool, progress: Progress | None
) -> Source:
    tars = _expand(pattern)
    if num_classes is None:
        raise UsageError(f"{pattern}: give --num-classes, as these tars have no manifest")
    missing = [tar for tar in tars if not Path(tar).is_file()]
    if missing and not skip_bad:
        raise DataError(f"{missing[0]}: missing ({len(missing)} of the {len(tars)} tars of {pattern})")
    counts = _count(tars, skip_bad, progress)
    if not sum(counts):
        raise UsageError(f"{pattern}: no samples in the {len(tars)} tars that match")
    shape = _first_shape(tars, counts)
    return Source(
        name=pattern,
        tars=tuple(tars),
        counts=tuple(counts),
        num_classes=num_classes,
        shape=shape if resize is None else (resize, resize, *shape[2:]),
        class_names=(),
        fingerprint=_fingerprint(tars, counts),
        one_size=resize is not None,
        originals=True,
        resize=resize,
        skip_bad=skip_bad,
    )


def _expand(pattern: str) -> list[str]:
    if "://" in pattern or pattern.startswith(("pipe:", "hf:")):
        raise UsageError(f"{pattern}: only local files are read; copy the tars here first")
    try:
        names = [name for word in expand_urls(pattern) for name in (_match(word) if set(word) & set("*?[") else [word])]
    except (ValueError, AssertionError) as error:
        raise UsageError(f"{pattern}: no pattern of files ({error})") from None
    if not names or not any(Path(name).is_file() for name in names):
        raise UsageError(f"{pattern}: no file matches")
    if packed := [name for name in names if not name.endswith(".tar")]:
        raise UsageError(f"{packed[0]}: only plain .tar files are read; unpack it first (gunzip)")
    if len(set(names)) < len(names):
        raise UsageError(f"{pattern}: names some tars twice")
    return names


def _match(word: str) -> list[str]:
    return sorted(glob.glob(word))  # noqa: PTH207  # a pattern may begin anywhere, as a shell's does


def _count(tars: Sequence[str], skip_bad: bool, progress: Progress | None) -> list[int]:
    known: dict[Path, int] = {}
    for folder in dict.fromkeys(Path(tar).parent for tar in tars):
        known |= _recorded(folder)
    counts = []
    for done, tar in enumerate(tars):
        count = known.get(Path(tar))
        if count is None:
            count, fault = count_samples(tar)
            if fault is not None and not skip_bad:
                raise DataError(fault)
            if progress is not None:
                progress(done + 1, len(tars))
        counts.append(count)
    return counts


def _recorded(folder: Path) -> dict[Path, int]:
    """Samples of each tar, as open_clip's or timm's file beside them says; empty where there is none."""
    for name, read in (("sizes.json", dict), ("_info.json", _splits)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            sizes = read(json.loads(path.read_text("utf-8")))
            if any(type(size) is not int or size < 0 for size in sizes.values()):
                raise ValueError("a size is no number")
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise DataError(f"{path}: damaged ({error}); mend or remove it") from error
        return {folder / tar: size for tar, size in sizes.items()}
    return {}


def _splits(values: dict[str, dict[str, dict[str, list[Any]]]]) -> dict[str, Any]:
    """Sizes by name from what timm reads."""
    sizes: dict[str, Any] = {}
    for split in values["splits"].values():
        sizes |= zip(split["filenames"], split["shard_lengths"], strict=True)
    return sizes


def _first_shape(tars: Sequence[str], counts: Sequence[int]) -> tuple[int, ...]:
    """Of the first image that can be opened: (H, W) or (H, W, 3). Raises DataError where none can."""
    fault = DataError("no sample")
    for tar in [tar for tar, count in zip(tars, counts, strict=True) if count][:100]:
        try:
            sample = first_sample(tar)
            with PillowImage.open(io.BytesIO(image_bytes(sample, EXTENSIONS))) as picture:
                gray = picture.mode in GRAY_MODES
                return (picture.height, picture.width) if gray else (picture.height, picture.width, 3)
        except BadSampleError as error:
            fault = error
        except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
            fault = DataError(f"{sample}: cannot be decoded ({error})")
    raise fault


def image_bytes(raw: RawSample, extensions: Sequence[str]) -> bytes:
    """The encoded image of a sample. Raises BadSampleError where it has none."""
    for extension in extensions:
        if extension in raw.members:
            return raw.members[extension]
    raise BadSampleError(f"{raw} has no .{' or .'.join(extensions)}", "members")


def _fingerprint(tars: Sequence[str], counts: Sequence[int]) -> str:
    sizes = [Path(tar).stat().st_size if Path(tar).is_file() else -1 for tar in tars]
    names = [Path(tar).name for tar in tars]
    return hashlib.sha256(json.dumps([names, sizes, list(counts)]).encode()).hexdigest()
