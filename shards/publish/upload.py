"""Publish a folder: what is missing is uploaded, what arrived is compared, and what readers open first comes last."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.manifest import MANIFEST
from fracgen.shards.publish.release import CONFIG, WEIGHTS, Release, ReleaseFile
from fracgen.shards.publish.store import RemoteFile, Store


@dataclass(frozen=True, kw_only=True)
class UploadPlan:
    """What is to be done. upload: in this order. present: files that are there already. delete: names, first of all."""

    upload: tuple[ReleaseFile, ...]
    present: tuple[ReleaseFile, ...]
    delete: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """That are to be uploaded."""
        return sum(file.num_bytes for file in self.upload)


def plan_upload(release: Release, store: Store, place: str, *, replace: bool = False) -> UploadPlan:
    """Compare a folder with what is at a place; nothing is written.

    replace: take the place of another set or model. Raises UsageError where there is one, and it is not to be replaced.
    """
    remote = store.listing()
    others = _others(release, remote, store)
    if others and not replace:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(f"{place}: holds another data set or model ({named}); give another URL, or --replace")
    present = [file for file in release.all_files if file.name in remote and store.is_same(file, remote[file.name])]
    upload = [file for file in release.all_files if file not in present]
    unfinished = bool(upload) and release.last.name in remote
    stale = [release.last.name] if unfinished and upload != [release.last] else []
    delete = (*stale, *(name for name in others if name not in {file.name for file in release.all_files}))
    if stale and release.last not in upload:
        present.remove(release.last)
        upload.append(release.last)
    return UploadPlan(upload=tuple(upload), present=tuple(present), delete=tuple(delete))


def _others(release: Release, remote: dict[str, RemoteFile], store: Store) -> list[str]:
    """Names of files that belong to another set or model than this one."""
    ours = {file.name: file for file in release.all_files}
    if release.manifest is None:
        foreign = [MANIFEST] if MANIFEST in remote else []
        weights = remote.get(WEIGHTS)
        is_complete = weights is not None and release.last.name in remote
        if is_complete and weights is not None and not store.is_same(ours[WEIGHTS], weights):
            foreign.append(WEIGHTS)
        return foreign
    foreign = sorted(name for name in remote if PurePosixPath(name).suffix == ".tar" and name not in ours)
    if MANIFEST in remote and not _is_same_set(release, store.read(MANIFEST)):
        foreign.insert(0, MANIFEST)
    return foreign + [name for name in (CONFIG, WEIGHTS) if WEIGHTS in remote and name in remote]


def _is_same_set(release: Release, data: bytes) -> bool:
    """Whether a manifest is of the same recipe, laid out in the same way."""
    assert release.manifest is not None
    ours = json.loads(release.manifest.to_bytes())
    try:
        theirs = json.loads(data)
        return all(theirs[name] == ours[name] for name in ("recipe_hash", "layout"))
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def upload(
    plan: UploadPlan, store: Store, *, last: ReleaseFile, on_file: Callable[[ReleaseFile], None] | None = None
) -> None:
    """Upload what a plan names, the last file when all others are there. Interrupted, the same goes on.

    on_file: called with each file that has arrived. Raises what the store raises; DataError where a file changed here.
    """
    store.create()
    if plan.delete:
        store.delete(plan.delete)
    others = [file for file in plan.upload if file.name != last.name]
    for batch in [*_batches(others, store), [last] if last in plan.upload else []]:
        if not batch:
            continue
        _check_unchanged(batch)
        store.upload(batch)
        for file in batch:
            if on_file:
                on_file(file)


def _batches(files: Sequence[ReleaseFile], store: Store) -> Iterator[list[ReleaseFile]]:
    batch: list[ReleaseFile] = []
    for file in files:
        if batch and (len(batch) >= store.batch_files or _num_bytes(batch) + file.num_bytes > store.batch_bytes):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _num_bytes(files: Sequence[ReleaseFile]) -> int:
    return sum(file.num_bytes for file in files)


def _check_unchanged(files: Sequence[ReleaseFile]) -> None:
    """Raises DataError where a file is not as long as when it was checked: what arrives is compared in any case."""
    for file in files:
        if file.path is None:
            continue
        try:
            size = file.path.stat().st_size
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read ({error.strerror}); it was there before") from error
        if size != file.num_bytes:
            raise DataError(f"{file.path}: changed since it was checked; run the command again")
