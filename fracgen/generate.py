"""Render a recipe into a folder of shards: plan them, run them on an executor, resume, report."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from fracgen.preview import contact_sheet
from fracgen.recipes import Recipe, recipe_hash, to_dict
from shards.errors import DataError, UsageError
from shards.folder import FolderWriter, commit_shard
from shards.layout import Layout, default_num_shards
from shards.manifest import ImageFormat, Manifest, ShardRecord, sidecars
from shards.sample import Sample

_VERSIONED = ("fracgen", "numpy", "numba", "pillow", "isal")
"""The packages whose version can change a byte of a folder."""

_cancelled: set[str] = set()
"""Tokens of runs that were interrupted: their threads stop at the next image."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What `write_shards` did. new_samples and seconds count this run only; the manifest counts the folder."""

    folder: Path
    manifest: Manifest
    new_samples: int
    seconds: float
    workers: int


def versions() -> dict[str, str]:
    """The versions of what determines a folder's bytes."""
    return {name: metadata.version(name) for name in _VERSIONED}


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(recipe: Recipe, *, num_shards: int | None = None, png_bits: int = 8, keep_metadata: bool = True) -> Layout:
    """How a recipe's samples are laid out.

    Raises UsageError for a number of shards that is not possible, and for bits that cannot hold the recipe's images.
    """
    if png_bits == 1 and not recipe.two_level:
        raise UsageError("--png-bits 1 holds gray images of two levels only; leave it out, or draw in gray")
    return Layout(
        name=recipe.NAME,
        num_samples=len(recipe),
        num_shards=default_num_shards(len(recipe), recipe.group) if num_shards is None else num_shards,
        group=recipe.group,
        png_bits=png_bits,
        metadata=keep_metadata,
    )


def write_shards(
    recipe: Recipe,
    folder: Path | str,
    *,
    layout: Layout | None = None,
    provenance: dict[str, Any] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    any_versions: bool = False,
    on_shard: Callable[[ShardRecord], None] | None = None,
) -> Result:
    """Write all shards of a resolved recipe to `folder`, or those that are missing, and finish the folder.

    executor: any concurrent.futures.Executor; without one, `workers` threads (all cores). What is handed to it can be
    pickled. The bytes are the same whatever executor, workers and interruptions.
    on_shard: called with each record as it is committed, those of an earlier run first.

    Raises UsageError where the folder is not to be written, DataError where an image cannot be made or a worker died;
    shards that are committed by then stay, and the same call goes on from there.
    """
    folder, layout, started = Path(folder), layout or plan(recipe), time.perf_counter()
    workers = workers or num_cores()
    key = {"recipe_hash": recipe_hash(recipe), "layout": layout.to_dict(), "versions": versions()}
    with FolderWriter(folder, key, any_versions=any_versions) as writer:
        for record in writer.records.values():
            if on_shard:
                on_shard(record)
        new_samples = 0
        if writer.manifest is None:
            pool = executor or ThreadPoolExecutor(workers)
            try:
                new_samples, preview = _render_missing(pool, recipe, writer, on_shard)
            except BrokenExecutor as error:
                message = f"a worker died ({error}); the finished shards are kept, run the same again"
                raise DataError(message) from error
            finally:
                if executor is None:
                    pool.shutdown(cancel_futures=True)
            manifest = _manifest(recipe, layout, key, provenance or {}, writer)
            files = {**sidecars(manifest), "preview.png": preview}
            hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
            writer.finish(replace(manifest, files=hashes), files)
        assert writer.manifest is not None
        return Result(
            folder=folder,
            manifest=writer.manifest,
            new_samples=new_samples,
            seconds=time.perf_counter() - started,
            workers=workers,
        )


def _render_missing(
    pool: Executor, recipe: Recipe, writer: FolderWriter, on_shard: Callable[[ShardRecord], None] | None
) -> tuple[int, bytes]:
    """Have the missing shards rendered, and draw the contact sheet meanwhile: (number of new samples, the sheet)."""
    futures: dict[Future[ShardRecord], int] = {}
    new_samples = 0
    try:
        for shard in writer.missing():
            futures[pool.submit(render_shard, recipe, writer.layout, writer.folder, shard, writer.token)] = shard
        preview = contact_sheet(recipe.preview())
        for future in as_completed(futures):
            record = future.result()
            writer.add(futures[future], record)
            new_samples += record.samples
            if on_shard:
                on_shard(record)
    except BaseException:
        _cancelled.add(writer.token)
        for future in futures:
            future.cancel()
        raise
    return new_samples, preview


def render_shard(recipe: Recipe, layout: Layout, folder: Path, shard: int, token: str) -> ShardRecord:
    """Render one shard and commit it: the unit of work that an executor runs."""
    return commit_shard(folder, shard, _until_cancelled(recipe, layout, shard, token), layout, token)


def _until_cancelled(recipe: Recipe, layout: Layout, shard: int, token: str) -> Iterator[Sample]:
    for sample in recipe.render(layout.indices(shard).tolist()):
        if token in _cancelled:
            raise DataError("the run was interrupted")
        yield sample


def _manifest(
    recipe: Recipe, layout: Layout, key: dict[str, Any], provenance: dict[str, Any], writer: FolderWriter
) -> Manifest:
    height, width, *channels = recipe.image_shape
    return Manifest(
        recipe=to_dict(recipe),
        recipe_hash=key["recipe_hash"],
        provenance=provenance,
        layout=layout,
        versions=key["versions"],
        class_names=recipe.class_names,
        image=ImageFormat(extension="png", width=width, height=height, mode="RGB" if channels else "L"),
        shards=tuple(writer.records[shard] for shard in range(layout.num_shards)),
        files={},
    )
