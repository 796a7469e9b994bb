"""Pack a folder of images into a folder of shards, each file as it is: plan, read and check, resume, finish."""

import contextlib
import functools
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fracgen.executor import Result, make_missing, until_cancelled
from fracgen.recipe import UnmakeableError
from fracgen.shards.commit import commit_shard
from fracgen.shards.data_card import CardText
from fracgen.shards.errors import BadImageError, DataError, FracgenError, UsageError
from fracgen.shards.files import num_threads
from fracgen.shards.folder import FolderWriter
from fracgen.shards.images import is_gray, open_picture
from fracgen.shards.labels.labelled_images import LabelledImages
from fracgen.shards.layout import Layout, default_num_shards
from fracgen.shards.manifest import MANIFEST, PACK, ImageFormat, Manifest, ShardRecord, hash_json, load_manifest
from fracgen.shards.plan import FolderPlan, load_plan
from fracgen.shards.sample import FileSample, SkippedFile
from fracgen.shards.sidecars import sidecars
from fracgen.shards.versions import version_of
from fracgen.shards.writer import merge_sizes

_VERSIONED = ("fracgen", "numpy", "pillow")
"""The packages whose version can change a byte of a packed folder; Pillow by what it takes for an image."""
STORED = ("JPEG", "PNG", "WEBP")
"""Formats of files that are stored as they are; webdataset decodes no BMP."""
_SHARD_SAMPLES = 16
"""Images that a shard has at least by default: one that is left out leaves no empty tar then."""


def plan(
    images: LabelledImages,
    *,
    split: str = "train",
    name: str = "images",
    num_shards: int | None = None,
    seed: int = 0,
    keep_metadata: bool = True,
) -> Layout:
    """Lay out images in shards. Raises UsageError for what is not possible."""
    most_shards = max(1, len(images) // _SHARD_SAMPLES)
    return Layout(
        name=name,
        num_samples=len(images),
        num_shards=min(most_shards, default_num_shards(len(images))) if num_shards is None else num_shards,
        seed=seed,
        metadata=keep_metadata,
        split=split,
    )


def pack(
    images: LabelledImages,
    folder: Path | str,
    layout: Layout,
    *,
    skip_bad: bool = False,
    workers: int | None = None,
    any_versions: bool = False,
    on_shard: Callable[[ShardRecord], None] | None = None,
) -> Result:
    """Write the images to `folder`, or the shards of them that are missing, and finish the folder.

    Each file is read once, decoded to see that it is whole, and stored as it is. The bytes follow from the files, the
    layout, `skip_bad` and the versions of the libraries; not from `images.root`, workers or interruptions.
    skip_bad: leave out files that are no images or damaged, and count them. workers: threads (all cores).
    on_shard: called with each record as it is committed, those of an earlier run first.

    Raises UsageError where the folder is not to be written, the images are not those that it was begun from (names
    and sizes are compared), or a file is bad: what this call began is then removed, unless shards are committed, from
    which the same call goes on. DataError where a file changes meanwhile.
    """
    folder, threads, started = Path(folder), num_threads(workers), time.perf_counter()
    new_parents = [parent for parent in folder.absolute().parents if not parent.exists()]
    _refuse_inside_source(images, folder)
    work = replace(_plan_of(images, layout), any_versions=any_versions)
    _compare_with_begun(folder, work)
    with FolderWriter(folder, work) as writer:
        for record in writer.records.values():
            if on_shard:
                on_shard(record)
        new_samples = 0
        if writer.manifest is None:
            pool = ThreadPoolExecutor(threads)
            shard = functools.partial(pack_shard, images, layout, skip_bad)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Pillow's on large or odd files, which are taken all the same
                    new_samples, _ = make_missing(pool, writer, shard, meanwhile=lambda: None, on_shard=on_shard)
            except UnmakeableError as error:
                if not writer.records and writer.discard(was_empty=True):
                    _remove_empty(new_parents)
                    raise UsageError(str(error)) from None
                raise UsageError(f"{error}; {len(writer.records)} finished shards are kept in {folder}") from None
            finally:
                pool.shutdown(cancel_futures=True)
            _finish(writer, images)
        return Result.of(writer, new_samples, started)


def pack_shard(
    images: LabelledImages, layout: Layout, skip_bad: bool, folder: Path, shard: int, token: str
) -> ShardRecord:
    """Pack one shard and commit it."""
    return commit_shard(folder, shard, until_cancelled(_samples(images, layout, shard, skip_bad), token), layout, token)


def check_siblings(images: LabelledImages, folder: Path) -> None:
    """Raises UsageError where a packed split beside `folder` has other classes: a label would mean another there."""
    for path in sorted(folder.parent.glob(f"*/{MANIFEST}")):
        try:
            manifest = load_manifest(path.parent)
        except FracgenError:  # another's, or damaged: not for this run to say
            continue
        differing = sorted({*manifest.class_names} ^ {*images.class_names})
        if differing and manifest.image.original and path.parent.name != folder.name:
            raise UsageError(
                f"class {differing[0]} is not in both {images.root} and the packed {path.parent} ({len(differing)} "
                "such), so labels would differ; name another folder with --out, if that is meant"
            )


def emptied_classes(images: LabelledImages, manifest: Manifest) -> list[str]:
    """Names of the classes of which every image was left out."""
    left_out = Counter(images.label(int(key)) for shard in manifest.shards for key in shard.skipped)
    sizes = [end - start for start, end in zip(images.starts, [*images.starts[1:], len(images)], strict=True)]
    return [images.class_names[label] for label, count in sorted(left_out.items()) if count == sizes[label]]


def _samples(images: LabelledImages, layout: Layout, shard: int, skip_bad: bool) -> Iterator[FileSample | SkippedFile]:
    num_good = 0
    for index in layout.indices(shard).tolist():
        try:
            yield _read(images, index)
            num_good += 1
        except BadImageError as error:
            name = images.name(index)
            if not skip_bad:
                raise UnmakeableError(f"{images.describe(index)}: {error}; --skip-bad leaves such files out") from error
            yield SkippedFile(index=index, file=name, reason=error.reason)
    if not num_good:
        raise UnmakeableError(
            f"no file of shard {layout.filename(shard)} can be used; mend them or give fewer --shards"
        )


def _read(images: LabelledImages, index: int) -> FileSample:
    """One image, checked. Raises BadImageError; UsageError and DataError where it cannot be read as it was listed."""
    path = images.describe(index)
    try:
        data = images.read(index)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) != images.sizes[index]:
        raise DataError(f"{path}: {len(data)} bytes, and {images.sizes[index]} when it was listed; pack it anew")
    with open_picture(data, STORED) as picture:
        picture.load()
    return FileSample(
        data=data,
        extension=images.extension,
        width=picture.width,
        height=picture.height,
        index=index,
        label=images.label(index),
        metadata={
            "file": images.name(index),
            "format": "JPEG" if picture.format == "MPO" else picture.format,
            "width": picture.width,
            "height": picture.height,
            "mode": picture.mode,
        },
        counts={picture.mode: 1},
    )


def _plan_of(images: LabelledImages, layout: Layout) -> FolderPlan:
    recipe = {"recipe": PACK, "images": len(images), "classes": len(images.class_names), "listing": images.sha256}
    return FolderPlan(
        recipe=recipe,
        recipe_hash=hash_json(recipe),
        provenance={"other_files": dict(images.others)} if images.others else {},
        layout=layout,
        versions={package: version_of(package) for package in _VERSIONED},
    )


def _refuse_inside_source(images: LabelledImages, folder: Path) -> None:
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(images.root)):
        raise UsageError(f"{folder}: lies within {images.root}, whose images are packed; name another with --out")


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # something is in it by now
        for folder in folders:
            folder.rmdir()


def _compare_with_begun(folder: Path, work: FolderPlan) -> None:
    """Raises UsageError where the folder was begun from other files."""
    earlier = load_plan(folder) if folder.is_dir() else None
    if earlier is None or earlier.recipe.get("recipe") != PACK or earlier.recipe == work.recipe:
        return
    before, now = (
        f"{recipe.get('images')} of {recipe.get('classes')} classes" for recipe in (earlier.recipe, work.recipe)
    )
    raise UsageError(
        f"{folder}: packed from other files ({before}, now {now}; names and sizes are compared); "
        "if the images changed, remove it and pack anew, or name another folder with --out"
    )


def _finish(writer: FolderWriter, images: LabelledImages) -> None:
    """Write the sidecars and the manifest."""
    shards = writer.records.values()
    least_width, width, least_height, height = merge_sizes(shard.sizes for shard in shards)
    image = ImageFormat(
        extension=images.extension,
        width=width,
        height=height,
        mode="L" if all(is_gray(mode) for shard in shards for mode in shard.counts) else "RGB",
        original=True,
        one_size=(least_width, least_height) == (width, height),
    )
    manifest = writer.new_manifest(images.class_names, image)
    text = CardText(source="image files")
    writer.finish(manifest, sidecars(writer.folder, manifest, text, has_preview=False))
