"""Examples over tars: a folder of ours, by its manifest; tars of another origin, by a brace pattern or glob."""

import glob
import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.shards.cache import CacheSettings, FileCache
from fracgen.shards.errors import LFS_ADVICE, DataError, UsageError
from fracgen.shards.folder_files import FolderFiles, open_folder
from fracgen.shards.manifest import DamagedManifestError
from fracgen.shards.publish.release import CARD
from fracgen.shards.reader import series_of
from fracgen.shards.remote import Url
from fracgen.shards.remote_tars import fetch_tars
from fracgen.shards.tar import TarSeries, index_tar
from fracgen.shards.urls import is_url, redact
from fracgen.train.data.examples import Examples, ImageShape, Progress, numbered
from fracgen.train.data.sampler import BLOCK
from fracgen.train.data.skipped import Skipped, SkippedDataWarning
from fracgen.train.data.tar_store import TarStore

_MAX_CLASSES = 1_000_000
_MAX_TARS = 100_000
_LEAST_SAMPLE = 512
"""Bytes that a sample takes in a tar, at least: the header of a member."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)(?:\.\.\d+)?\}")


def is_pattern(source: str) -> bool:
    """Whether this names tars, not a folder: by braces, wildcards, `.tar`, or a colon that begins no URL (pipe:)."""
    if is_url(source):
        source = source.partition("?")[0]
        return bool(set(source) & set("{}*[")) or source.endswith(".tar")
    return bool(set(source) & set("{}*?[")) or source.endswith(".tar") or ":" in source


def open_shards_folder(
    place: Path | str,
    *,
    num_classes: int = 0,
    skip_bad: bool = False,
    cache: CacheSettings | None = None,
    progress: Progress | None = None,
) -> Examples:
    """A finished folder of ours, rendered or packed, at a path or a URL; no tar is opened.

    num_classes: 0, or what the manifest says. skip_bad: tars that are missing or cut short are no error here.
    cache, progress: of a URL, whose tars are fetched now, all of them: where to; and called tar by tar.
    Raises UsageError for what is no finished folder, DataError for a damaged manifest, and for tars that are not as it
    says.
    """
    files = _open_finished(place, cache)
    for problem in files.fetch_tars(skip_bad=skip_bad, progress=progress):
        warnings.warn(problem, SkippedDataWarning, stacklevel=2)
    manifest, folder = files.manifest, files.folder
    if num_classes not in (0, manifest.num_classes):
        raise UsageError(
            f"--num-classes {num_classes}: {files} has {manifest.num_classes} classes, as its manifest says; "
            "leave the option away"
        )
    for shard in manifest.shards:
        path = folder / shard.name
        if not skip_bad and not path.is_file():
            raise DataError(f"{shard.name}: missing from {folder}")
        if not skip_bad and (size := path.stat().st_size) != shard.bytes:
            if (fault := index_tar(path).fault) is not None and LFS_ADVICE in fault:
                raise DataError(fault)
            raise DataError(f"{shard.name}: {size} bytes, and the manifest says {shard.bytes}: cut short or changed")
    image = manifest.image
    height, width, *channels = image.shape
    store = TarStore(
        tars=series_of(folder, manifest),
        num_classes=manifest.num_classes,
        rendered=None if image.original else (image.shape, manifest.layout.png_bits),
        has_manifest=True,
        multi_label=manifest.multi_label,
        skip_bad=skip_bad,
    )
    differing = "" if image.one_size else f"{files} has images up to {width} wide and up to {height} high"
    shape = ImageShape(channels[0] if channels else 1, height, width, differing)
    fingerprint = hashlib.sha256(manifest.to_bytes()).hexdigest()
    examples = _examples(str(files), manifest.class_names, fingerprint, store, shape)
    files.keep_small(CARD)
    return replace(examples, multi_label=manifest.multi_label, cache_note=files.cache_note(), folder=folder)


def _open_finished(place: Path | str, cache: CacheSettings | None) -> FolderFiles:
    """The folder at a path or a URL, where one that is unfinished is a mistake of the user's."""
    try:
        return open_folder(place, cache)
    except (DamagedManifestError, UsageError, DataError) as error:
        if is_url(place) or isinstance(error, DamagedManifestError):
            raise
        folder = Path(place)
        tars = sorted(folder.glob("*.tar")) if isinstance(error, UsageError) and folder.is_dir() else []
        hint = f"; for tars of another origin give a pattern, as '{folder / '*.tar'}'" if tars else ""
        raise UsageError(f"{error}{hint}") from None


def open_tars(
    pattern: str,
    *,
    num_classes: int = 0,
    skip_bad: bool = False,
    cache: CacheSettings | None = None,
    progress: Progress | None = None,
) -> Examples:
    """Plain tars of another origin, of samples with a `.cls` (a number as text) and an image, at paths or URLs.

    Their samples are counted by `sizes.json` or `_info.json` beside them, else by one walk over the headers, which
    calls `progress` tar by tar. num_classes: 1 or more; labels are below. cache: of URLs, whose tars are fetched now.
    Raises UsageError for what names no such tars, DataError for those that are missing or damaged, unless `skip_bad`.
    """
    if num_classes < 1:
        raise UsageError(f"{pattern}: give --num-classes, as these tars have no manifest")
    if num_classes > _MAX_CLASSES:
        raise UsageError(f"--num-classes {num_classes}: must be at most {_MAX_CLASSES}")
    cache_note = ""
    if is_url(pattern):
        store_of_urls = FileCache(cache or CacheSettings())
        paths, problems = fetch_tars(_expand_urls(pattern), store_of_urls, skip_bad=skip_bad, progress=progress)
        for problem in problems:
            warnings.warn(problem, SkippedDataWarning, stacklevel=2)
        tars, cache_note = list(map(str, paths)), str(store_of_urls)
    else:
        tars = _expand(pattern)
    missing = [tar for tar in tars if not Path(tar).is_file()]
    if missing and not skip_bad:
        raise DataError(f"{missing[0]}: missing ({len(missing)} of the {len(tars)} tars of {pattern})")
    counts, counted_by = _count(tars, skip_bad, progress)
    if not sum(counts):
        raise UsageError(f"{pattern}: no samples in the {len(tars)} tars that match")
    store = TarStore(TarSeries(tuple(tars), tuple(counts)), num_classes, skip_bad=skip_bad, counted_by=counted_by)
    sizes = [Path(tar).stat().st_size if Path(tar).is_file() else -1 for tar in tars]
    text = json.dumps([[Path(tar).name for tar in tars], sizes, counts])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    examples = _examples(redact(pattern), numbered(num_classes), fingerprint, store, None)
    return replace(examples, cache_note=cache_note)


def _examples(
    name: str, class_names: Sequence[str], fingerprint: str, store: TarStore, shape: ImageShape | None
) -> Examples:
    num_tars = len(store.tars.paths)
    tars = f"in {num_tars} tar{'s' if num_tars > 1 else ''}"
    numbers = np.arange(len(store.tars))
    return Examples(name, tuple(class_names), fingerprint, store, numbers, shape, BLOCK, place=tars)


def check_labels(examples: Examples, *, skip_bad: bool, skipped: Skipped, progress: Progress | None = None) -> Examples:
    """The examples that have a label in range and an image; of tars, by one walk over their headers.

    Those of other origin are returned as they are. skip_bad: count the others in `skipped`; without it the first of
    them is raised, a BadSampleError. progress: called tar by tar.
    """
    if not isinstance(store := examples.store, TarStore):
        return examples
    if not (bad := store.bad_samples(progress)):
        return examples
    if not skip_bad:
        raise next(iter(bad.values()))
    skipped.extend(error.skipped(store.describe(n)) for n, error in bad.items())
    return examples.subset(np.setdiff1d(examples.numbers, list(bad)))


def _expand_urls(pattern: str) -> list[str]:
    """The URLs that a pattern with braces stands for."""
    from webdataset.shardlists import expand_urls

    if set(pattern.partition("?")[0]) & set("*["):
        raise UsageError(f"{pattern}: of URLs, braces are read, as {{000..063}}, and no wildcards")
    _check_count(pattern)
    try:
        names: list[str] = expand_urls(pattern)
    except (ValueError, AssertionError) as error:
        raise UsageError(f"{pattern}: no pattern of URLs ({error})") from None
    if packed := [name for name in names if not Url.parse(name).base.endswith(".tar")]:
        raise UsageError(f"{packed[0]}: only plain .tar files are read")
    return names


def _check_count(pattern: str) -> None:
    num_names = prod(abs(int(end) - int(start)) + 1 for start, end in _RANGE.findall(pattern))
    if num_names > _MAX_TARS:
        raise UsageError(f"{pattern}: stands for {num_names:,} tars; at most {_MAX_TARS:,} are read")


def _expand(pattern: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    if "://" in pattern or pattern.startswith("pipe:"):
        raise UsageError(f"{pattern}: only files and URLs are read; copy the tars here first")
    _check_count(pattern)
    try:
        names = (
            [pattern]
            if Path(pattern).is_file()
            else [
                name for word in expand_urls(pattern) for name in (_match(word) if set(word) & set("*?[") else [word])
            ]
        )
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
    folder = Path(word).parent
    if folder.is_dir():  # and may be called "a[1]"
        return sorted(str(folder / name) for name in glob.glob(Path(word).name, root_dir=folder))  # noqa: PTH207
    return sorted(glob.glob(word))  # noqa: PTH207  # a pattern may begin anywhere, as a shell's does


def _count(tars: Sequence[str], skip_bad: bool, progress: Progress | None) -> tuple[list[int], dict[int, str]]:
    """(samples of each tar, the files that say so, by the number of the tar).

    A tar that is damaged counts one more than can be told, so that a reader meets the fault.
    """
    known: dict[Path, tuple[int, str]] = {}
    for folder in dict.fromkeys(Path(tar).parent for tar in tars):
        known |= _recorded_counts(folder)
    counts, counted_by = list[int](), dict[int, str]()
    for done, tar in enumerate(tars):
        count, source = known.get(Path(tar), (None, ""))
        if source:
            counted_by[done] = source
            if Path(tar).is_file() and (count or 0) * _LEAST_SAMPLE > (size := Path(tar).stat().st_size):
                raise DataError(
                    f"{source}: says {count} samples of {Path(tar).name}, which has {size} bytes; mend or remove it"
                )
        if count is None and not Path(tar).is_file():
            count = 1
        if count is None:
            index = index_tar(tar)
            if index.fault is not None and not skip_bad:
                raise DataError(index.fault)
            count = len(index) + (index.fault is not None)
            if progress is not None:
                progress(done + 1, len(tars))
        counts.append(count)
    return counts, counted_by


def _recorded_counts(folder: Path) -> dict[Path, tuple[int, str]]:
    """(samples, who says so) of each tar, as open_clip's or timm's file beside them has it; empty without one."""
    for name, read in (("sizes.json", dict), ("_info.json", _timm_counts)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            counts = read(json.loads(path.read_text("utf-8")))
            if any(type(count) is not int or count < 0 for count in counts.values()):
                raise ValueError("a size is no number")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise DataError(f"{path}: damaged ({error}); mend or remove it") from error
        return {folder / tar: (count, str(path)) for tar, count in counts.items()}
    return {}


def _timm_counts(values: dict[str, dict[str, dict[str, list[Any]]]]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for split in values["splits"].values():
        counts |= zip(split["filenames"], split["shard_lengths"], strict=True)
    return counts
