"""Render a recipe into a folder of shards: plan them, run them on an executor, resume, finish."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    ThreadPoolExecutor,
)
from dataclasses import replace
from pathlib import Path
from typing import Any

from fracgen.executor import Result, make_missing, until_cancelled
from fracgen.machine import check_compiler
from fracgen.preview import recipe_sheet
from fracgen.recipe import UnmakeableError
from fracgen.registry import RECIPES, Recipe, card_text, from_dict, inputs, recipe_hash, to_dict
from fracgen.shards.commit import commit_shard
from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.files import check_folder, num_threads
from fracgen.shards.folder import FolderWriter
from fracgen.shards.layout import Layout, Part, default_num_shards
from fracgen.shards.manifest import MANIFEST, PACK, ImageFormat, ShardRecord, load_manifest, to_json
from fracgen.shards.plan import FolderPlan, has_tar, load_plan, num_parts, read_plan, read_record
from fracgen.shards.sidecars import sidecars
from fracgen.shards.versions import version_of

_VERSIONED = ("fracgen", "numpy", "numba", "pillow", "isal")
"""The packages whose version can change a byte of any folder."""

_jobs: dict[str, tuple[Recipe, Layout]] = {}
"""What the runs, by token, render in this process."""
_jobs_lock = threading.Lock()
_MAX_JOBS = 4


def _after_fork() -> None:
    global _jobs_lock
    _jobs_lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def versions(name: str = "") -> dict[str, str]:
    """The versions of what determines the bytes of a folder; of the recipe of this name, if there is one."""
    own = RECIPES[name].versions() if name in RECIPES else {}
    return {**{package: version_of(package) for package in _VERSIONED}, **own}


def plan(
    recipe: Recipe,
    *,
    num_shards: int | None = None,
    png_bits: int = 8,
    keep_metadata: bool = True,
    folder: Path | str | None = None,
) -> Layout:
    """How a recipe's samples are laid out.

    num_shards: by default as many as `folder` has, where that holds shards of this recipe, else by the size of the set.
    Raises UsageError for a number of shards that is not possible, and for bits that cannot hold the recipe's images.
    """
    if png_bits == 1 and not recipe.two_level:
        raise UsageError(
            "--png-bits 1 holds gray images of the levels 0 and 127 only, and these have others; leave it out"
        )
    if num_shards is None:
        begun = _begun_layout(Path(folder), recipe) if folder is not None else None
        num_shards = begun.num_shards if begun is not None else default_num_shards(len(recipe), recipe.group)
    return Layout(
        name=recipe.NAME,
        num_samples=len(recipe),
        num_shards=num_shards,
        group=recipe.group,
        png_bits=png_bits,
        metadata=keep_metadata,
        multi_label=recipe.multi_label,
    )


def _begun_layout(folder: Path, recipe: Recipe) -> Layout | None:
    """The layout of a folder that holds shards of this resolved recipe; None of any other, which the writer refuses."""
    try:
        begun = load_plan(folder)
    except (FracgenError, OSError):
        return None
    return begun.layout if begun is not None and begun.recipe_hash == recipe_hash(recipe) else None


def write_shards(
    recipe: Recipe,
    folder: Path | str,
    *,
    layout: Layout | None = None,
    provenance: dict[str, Any] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    part: Part | None = None,
    any_versions: bool = False,
    on_shard: Callable[[ShardRecord], None] | None = None,
) -> Result:
    """Write all shards of a resolved recipe to `folder`, or those that are missing, and finish the folder.

    executor: any concurrent.futures.Executor; without one, `workers` threads (all cores). What is handed to it is the
    folder, which its workers must see under the same path, a shard's number and a token; the folder holds the plan.
    The bytes are the same whatever executor, workers and interruptions.
    part: write these shards only, beside other runs that write other parts; `merge` then finishes the folder.
    on_shard: called with each record as it is committed, those of an earlier run first.

    Raises UsageError where the folder is not to be written, the layout is another recipe's or the provenance is no
    mapping that JSON can hold, DataError where an image cannot be made or a worker died; shards that are committed by
    then stay, and the same call goes on from there.
    UsageError too where this call made the folder and a class turns out to be one that cannot be made: the folder is
    removed again.
    """
    folder, threads, started = Path(folder), num_threads(workers), time.perf_counter()
    check_compiler()
    layout = layout or plan(recipe, folder=folder)
    if (layout.name, layout.num_samples, layout.multi_label) != (recipe.NAME, len(recipe), recipe.multi_label):
        raise UsageError(
            f"layout: of {layout.num_samples} images of {layout.name}{', with several labels' * layout.multi_label}, "
            f"and the recipe has {len(recipe)} of {recipe.NAME}{', with several' * recipe.multi_label}; "
            "make it by plan(recipe)"
        )
    work = replace(plan_of(recipe, layout, provenance), any_versions=any_versions)
    with FolderWriter(folder, work, inputs=inputs(recipe), part=part) as writer:
        for record in writer.records.values():
            if on_shard:
                on_shard(record)
        new_samples = 0
        if writer.manifest is None:
            pool = executor or ThreadPoolExecutor(threads)
            try:
                new_samples, preview = _render_missing(pool, recipe, writer, on_shard)
            except (BrokenExecutor, CancelledError) as error:
                why = f"a worker died ({error})" if isinstance(error, BrokenExecutor) else "the executor is lost"
                raise DataError(f"{why}; the finished shards are kept, run the same again") from error
            except UnmakeableError as error:
                if not writer.discard():
                    raise
                raise UsageError(f"{error}; {folder} is removed again") from None
            except UsageError:
                if not writer.records:  # nothing to go on with: the recipe was not resolved, say
                    writer.discard()
                raise
            finally:
                if executor is None:
                    pool.shutdown(cancel_futures=True)
            if part is None:
                _finish(writer, recipe, preview)
        return Result.of(writer, new_samples, started)


def merge(folder: Path | str, *, any_versions: bool = False) -> Result:
    """Finish a folder of which all parts are written. One that is finished is left alone.

    Raises DataError with the shards that are missing, and the parts to which they belong; UsageError where the folder
    holds no shards, a part is being written, or other versions began it.
    """
    folder, started = Path(folder), time.perf_counter()
    work = _existing_plan(folder)
    work = replace(work, versions=versions(str(work.recipe.get("recipe"))), any_versions=any_versions)
    if work.recipe.get("recipe") == PACK:
        raise UsageError(f"{folder}: is packed whole, not in parts; run the command that began it again")
    try:
        recipe = from_dict(work.recipe, folder)
    except UsageError as error:
        raise DataError(f"{folder}: its plan is damaged ({error}); run the command that made it again") from error
    if recipe_hash(recipe) != work.recipe_hash:
        raise DataError(f"{folder}: its recipe does not have the hash that is stated for it; run the command again")
    with FolderWriter(folder, work) as writer:
        if missing := writer.missing():  # they were there a moment ago
            raise DataError(_missing_shards(folder, missing, num_parts(folder)))
        if writer.manifest is None:
            _finish(writer, recipe, _sheet(writer, recipe))
        return Result.of(writer, 0, started)


def _existing_plan(folder: Path) -> FolderPlan:
    """The plan of a folder, finished or not, of which all shards are there. Raises as `merge`."""
    check_folder(folder)
    if (work := load_plan(folder)) is None:
        raise UsageError(f"{folder}: holds no unfinished shards")
    shards, present = range(work.layout.num_shards), set[int]()
    if (folder / MANIFEST).exists():
        present = {shard for shard, record in enumerate(load_manifest(folder).shards) if has_tar(folder, record)}
    if missing := [n for n in shards if n not in present and read_record(folder, work.layout, n) is None]:
        raise DataError(_missing_shards(folder, missing, num_parts(folder)))
    return work


def _missing_shards(folder: Path, missing: list[int], count: int | None) -> str:
    named = ", ".join(f"{shard:06d}" for shard in missing[:8]) + (", ..." if len(missing) > 8 else "")
    one = len(missing) == 1
    message = f"{folder}: {len(missing)} shard{' is' if one else 's are'} missing ({named})"
    if count is None:
        return f"{message}; run the command that began the folder once more"
    parts = sorted({shard % count + 1 for shard in missing})
    named = ", ".join(f"{part}/{count}" for part in parts[:8]) + (", ..." if len(parts) > 8 else "")
    return f"{message}; render part{'s' if len(parts) > 1 else ''} {named}"


def plan_of(recipe: Recipe, layout: Layout, provenance: Mapping[str, Any] | None = None) -> FolderPlan:
    """What is written when a resolved recipe is rendered here.

    Raises UsageError for a provenance that a manifest cannot hold.
    """
    try:
        if not isinstance(provenance or {}, Mapping):
            raise TypeError(f"not of type {type(provenance).__name__}")
        to_json(provenance)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"provenance: must be a mapping that JSON can hold, as resolve() gives it ({error})"
        ) from error
    return FolderPlan(
        recipe=to_dict(recipe),
        recipe_hash=recipe_hash(recipe),
        provenance=provenance or {},
        layout=layout,
        versions=versions(recipe.NAME),
    )


def _render_missing(
    pool: Executor, recipe: Recipe, writer: FolderWriter, on_shard: Callable[[ShardRecord], None] | None
) -> tuple[int, bytes]:
    """Have the missing shards rendered, and draw the contact sheet meanwhile: (number of new samples, the sheet)."""
    _remember(writer.token, (recipe, writer.layout))

    def sheet() -> bytes:
        return _sheet(writer, recipe) if writer.part is None else b""

    return make_missing(pool, writer, render_shard, meanwhile=sheet, on_shard=on_shard)


def render_shard(folder: Path, shard: int, token: str) -> ShardRecord:
    """Render one shard and commit it: the unit of work that an executor runs, wherever the folder can be seen."""
    recipe, layout = _job(folder, token)
    samples = until_cancelled(recipe.render(layout.work_order(shard).tolist()), token)
    return commit_shard(folder, shard, samples, layout, token, layout.indices(shard).tolist())


def _job(folder: Path, token: str) -> tuple[Recipe, Layout]:
    """What a run renders; in another process than the run's, from the plan in the folder."""
    with _jobs_lock:
        if (job := _jobs.get(token)) is not None:
            return job
    work = read_plan(folder, f"run-{token}")
    if work is None:
        unseen = "a worker cannot see it; all must have the folder under this path"
        why = "the run has ended" if folder.is_dir() else unseen
        raise DataError(f"{folder}: {why}")
    if work.versions != (ours := versions(str(work.recipe.get("recipe")))) and not work.any_versions:
        raise DataError(f"a worker has other versions ({ours}) than the run ({work.versions}); make them equal")
    recipe = from_dict(work.recipe, folder)
    if recipe_hash(recipe) != work.recipe_hash:
        raise DataError(f"{folder}: a worker reads another recipe than the run has; make their fracgen equal")
    return _remember(token, (recipe, work.layout))


def _remember(token: str, job: tuple[Recipe, Layout]) -> tuple[Recipe, Layout]:
    with _jobs_lock:
        _jobs[token] = job
        while len(_jobs) > _MAX_JOBS:
            del _jobs[next(iter(_jobs))]
    return job


def _sheet(writer: FolderWriter, recipe: Recipe) -> bytes:
    return recipe_sheet(recipe, fracgen_version=writer.plan.versions["fracgen"])


def _finish(writer: FolderWriter, recipe: Recipe, preview: bytes) -> None:
    """Write the sidecars and the manifest."""
    height, width, *channels = recipe.image_shape
    image = ImageFormat(extension="png", width=width, height=height, mode="RGB" if channels else "L")
    manifest = writer.new_manifest(recipe.class_names, image)
    small_files = sidecars(writer.folder, manifest, card_text(recipe))
    writer.finish(manifest, {**inputs(recipe), **small_files, "preview.png": preview})
