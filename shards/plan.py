"""The state of an unfinished folder of shards, as files in `.partial`: its plan, inputs and committed shards.

Each ends in the sha256 of what it says. Plans and records of fracgen 0.2 have none, and count as long as
they are well-formed: `FolderWriter.finish` checks every tar against its record whichever wrote it.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import read_plain
from fracgen.shards.layout import Layout
from fracgen.shards.manifest import MANIFEST, PARTIAL, ShardRecord, hash_json, load_manifest, to_json
from fracgen.shards.settings import from_json

T = TypeVar("T")
_MAX_INPUT_BYTES = 1 << 30
_CHECKSUM = "checksum"
SAME_BYTES = {"0.2.0", "0.3.0", "0.4.0"}
"""Versions of fracgen between which a folder may pass: each finishes it as the one that began it would."""
_STATE = re.compile(r"plan\.json|parts|commit|lock(-\d+-of-\d+)?|run-.*|input-.*|\d+\.json|.*\.tmp")
"""Names of our files in `.partial`."""


@dataclass(frozen=True, kw_only=True)
class FolderPlan:
    """What a folder is to hold: recipe_hash, layout and versions determine every byte of it.

    recipe: resolved, whole. provenance: how it was resolved. versions: of the libraries that write.
    any_versions: whether a run with other libraries may go on with the folder.
    """

    recipe: Mapping[str, Any]
    recipe_hash: str
    provenance: Mapping[str, Any]
    layout: Layout
    versions: Mapping[str, str]
    any_versions: bool = False

    def to_bytes(self) -> bytes:
        """The file `plan.json`."""
        return seal(asdict(self), indent=1)

    def check_contents(self, folder: Path, recipe_hash: str, layout: Layout) -> None:
        """Raises UsageError where a folder holds another recipe's images, or the same laid out otherwise."""
        if recipe_hash != self.recipe_hash:
            raise UsageError(f"{folder}: holds another recipe's images; name another folder with --out")
        if layout != self.layout:
            ours, theirs = asdict(self.layout), asdict(layout)
            differing = [f"{key} {theirs[key]}" for key in ours if theirs[key] != ours[key]]
            raise UsageError(
                f"{folder}: holds the same recipe laid out otherwise ({', '.join(differing)}); "
                "ask for that, or name another folder with --out"
            )

    def with_versions(self, folder: Path, theirs: Mapping[str, str]) -> "FolderPlan":
        """The plan as the versions that began a folder would go on with it, where these write the same bytes as ours.

        Raises UsageError where they may not, unless `any_versions` is set; the plan is then as it was.
        """
        fracgens = {theirs.get("fracgen", ""), self.versions.get("fracgen", "")}
        if {**theirs, "fracgen": ""} == {**self.versions, "fracgen": ""} and fracgens <= SAME_BYTES:
            return replace(self, versions=theirs)
        if theirs != self.versions and not self.any_versions:
            names = sorted(name for name in {*theirs, *self.versions} if theirs.get(name) != self.versions.get(name))
            changes = ", ".join(f"{name} {theirs.get(name)}, now {self.versions.get(name)}" for name in names)
            raise UsageError(
                f"{folder}: begun with other versions ({changes}), whose bytes may differ; "
                "go on with those, or say --any-versions"
            )
        return self


def read_plan(folder: Path, name: str = "plan.json") -> FolderPlan | None:
    """The plan of an unfinished folder; None where it has none. Raises DataError where it is damaged."""
    path = folder / PARTIAL / name
    try:
        return _read(FolderPlan, path)
    except (ValueError, TypeError, RecursionError, UsageError) as error:
        raise DataError(
            f"{path}: damaged ({type(error).__name__}: {error}); remove {path.parent} and the shards beside it to "
            "begin anew, or name another folder"
        ) from None


def load_plan(folder: Path) -> FolderPlan | None:
    """The plan of a folder, finished or not; None where it has neither a manifest nor a plan.

    Raises UsageError and DataError as `load_manifest` and `read_plan`.
    """
    if not (folder / MANIFEST).exists():
        return read_plan(folder)
    manifest = load_manifest(folder)
    return FolderPlan(
        recipe=manifest.recipe,
        recipe_hash=manifest.recipe_hash,
        provenance=manifest.provenance,
        layout=manifest.layout,
        versions=manifest.versions,
    )


def read_record(folder: Path, layout: Layout, shard: int) -> ShardRecord | None:
    """The record of a committed shard; None where it, or the shard, is missing, damaged or another's."""
    try:
        record = _read(ShardRecord, folder / PARTIAL / f"{shard:06d}.json")
    except (ValueError, TypeError, RecursionError):
        return None
    if record is None or record.name != layout.filename(shard) or _num_accounted(record) != layout.num_indices(shard):
        return None
    return record if has_tar(folder, record) else None


def _num_accounted(record: ShardRecord) -> int:
    return record.samples + len(record.skipped)


def has_tar(folder: Path, record: ShardRecord) -> bool:
    """Whether a folder has the tar of a record, in its size."""
    path = folder / record.name
    return path.is_file() and path.stat().st_size == record.bytes


def read_input(folder: Path, name: str) -> bytes:
    """A file that a folder's recipe was made from, whether the folder is finished or not.

    Raises UsageError where it is missing, too large, or not the one that the manifest names.
    """
    for path in (folder / PARTIAL / f"input-{name}", folder / name):
        with contextlib.suppress(FileNotFoundError):
            if not path.is_file() and path.exists():
                raise UsageError(f"{path}: not a plain file")
            if path.stat().st_size > _MAX_INPUT_BYTES:
                raise UsageError(f"{path}: larger than {_MAX_INPUT_BYTES >> 20} MiB, so not what it should be")
            data = path.read_bytes()
            if path == folder / name and (folder / MANIFEST).exists():
                expected = load_manifest(folder).files.get(name)
                if expected not in (None, hashlib.sha256(data).hexdigest()):
                    raise UsageError(f"{path}: is not the file that the recipe names")
            return data
    raise UsageError(f"{folder / name}: missing")


def num_parts(folder: Path) -> int | None:
    """The number of parts in which an unfinished folder is written.

    None where it is written whole, is finished, or its number is damaged or fracgen 0.2's.
    """
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        parts = _read(_Parts, folder / PARTIAL / "parts")
        return parts.count if parts is not None and parts.count > 0 else None
    return None


@dataclass(frozen=True, kw_only=True)
class _Parts:
    count: int


def parts_to_bytes(count: int) -> bytes:
    """The file `parts`: in how many parts a folder is written."""
    return seal({"count": count})


def is_state(path: Path) -> bool:
    """Whether this is one of our files in `.partial`."""
    return _STATE.fullmatch(path.name) is not None


def seal(values: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON of the values and, last, their sha256, by which a damaged file is known."""
    plain = json.loads(to_json(values))
    return to_json({**plain, _CHECKSUM: hash_json(plain)}, indent).encode()


def _read(kind: type[T], path: Path) -> T | None:
    """A file that `seal` made, or fracgen 0.2. Raises ValueError and the like where it is damaged."""
    try:
        values = json.loads(read_plain(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(error.strerror) from error
    if not isinstance(values, dict):
        raise ValueError("no mapping")
    checksum = values.pop(_CHECKSUM, None)
    if checksum is not None and checksum != hash_json(values):
        raise ValueError("it is not what its checksum says")
    if unknown := values.keys() - {field.name for field in fields(kind)}:  # type: ignore[arg-type]
        raise ValueError(f"unknown key {min(unknown)!r}")
    return from_json(kind, values)
