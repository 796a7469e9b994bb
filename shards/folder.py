"""A folder of shards while it is written: one writer, shards committed whole, resumed after any interruption.

    <folder>/<name>-train-000000.tar ...    committed shards
    <folder>/.partial/plan.json             what is being written; another plan is refused
    <folder>/.partial/lock                  held by the one run that writes; the system frees it with the process
    <folder>/.partial/owner                 token of that run; a worker of an earlier run sees that it is not its own
    <folder>/.partial/commit                locked while a worker commits, and while a run takes over
    <folder>/.partial/000000.json ...       the record of each committed shard, written after the shard
    <folder>/.partial/*.tmp                 what is not committed: rubbish, if no run is on
    <folder>/dataset.json                   the manifest, written last: the folder is finished

A crash leaves a shard without its record (rubbish: removed), or everything but the removal of `.partial` (removed by
the next run). Only the shards are flushed to the disk before their records, so after a power cut a record may be
missing or empty, which costs one shard, but none can vouch for a shard that did not survive.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from shards.errors import DataError, UsageError
from shards.layout import Layout
from shards.manifest import MANIFEST, PARTIAL, Manifest, ShardRecord, differing_files, load_manifest, to_json
from shards.sample import Sample
from shards.typed import parse
from shards.writer import write_tar

_held: set[Path] = set()
_held_guard = threading.Lock()


class FolderWriter:
    """The one writer of a folder, as a context manager.

    plan: JSON-able; what determines every byte of the folder, under the keys "recipe_hash", "layout" and "versions".
    Entering creates the folder, takes the lock, compares the plan with what is there, and removes rubbish.

    Raises UsageError where the folder cannot be written, holds something else, or is being written by another run.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any], *, any_versions: bool = False) -> None:
        self.folder = folder
        self.layout = parse(Layout, plan["layout"])
        self.token = secrets.token_hex(16)
        self.manifest: Manifest | None = None
        self.records: dict[int, ShardRecord] = {}
        self._expected: dict[int, ShardRecord] = {}
        self._plan = dict(plan)
        self._plan_path = folder / PARTIAL / "plan.json"
        self._any_versions = any_versions
        self._made_partial = False
        self._key = folder.resolve()
        self._lock: IO[bytes] | None = None

    @property
    def partial(self) -> Path:
        """Where the state of an unfinished folder lies."""
        return self.folder / PARTIAL

    def missing(self) -> list[int]:
        """Numbers of the shards that are not committed yet."""
        return [shard for shard in range(self.layout.num_shards) if shard not in self.records]

    def __enter__(self) -> Self:
        try:
            if not self.partial.exists() and (self.folder / MANIFEST).exists() and self._is_complete():
                return self
            self._create()
            self._take_lock()
            try:
                self._adopt()
            except BaseException:
                if self._made_partial:  # refused: leave the folder as it was
                    self._remove_state()
                self._release()
                raise
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:  # a complete folder was not locked: what is there may be another run's
            (self.partial / "owner").unlink(missing_ok=True)
        self._release()

    def add(self, shard: int, record: ShardRecord) -> None:
        """Take note of a shard that `commit_shard` committed.

        Raises DataError where it replaces a lost shard of a finished folder and its pixels are not the same.
        """
        expected = self._expected.get(shard, record)
        if record.pixels_sha256 != expected.pixels_sha256:
            raise DataError(f"{record.name}: rendered again, and its pixels differ from those that the manifest names")
        self.records[shard] = record

    def finish(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Write `files`, then the manifest, which names them, and remove the state. All shards must be committed."""
        for name, data in {**files, MANIFEST: manifest.to_bytes()}.items():
            _replace(self.folder / name, data, self.partial, durable=True)
        _sync_folder(self.folder)
        self.manifest = manifest
        self._remove_state()

    def _create(self) -> None:
        """Make the folder and its state. Refuses a folder with anything in it that no run of ours can have left."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is a file; name a folder")
        self._made_partial = not self.partial.exists()
        if self.folder.exists() and not (self.folder / MANIFEST).exists() and not self._plan_path.exists():
            others = [path for path in self.folder.iterdir() if path != self.partial]
            inside = [] if self._made_partial else [path for path in self.partial.iterdir() if not _is_state(path)]
            if others or inside:
                raise UsageError(f"{self.folder}: not empty, and not a folder of shards; name another with --out")
        self.partial.mkdir(parents=True, exist_ok=True)

    def _take_lock(self) -> None:
        """An fcntl lock: children do not inherit it and the system frees it, so that no dead run can hold it."""
        with _held_guard:
            if self._key in _held:
                raise UsageError(f"{self.folder}: this process is writing it already")
            _held.add(self._key)
        try:
            while True:
                path = self.partial / "lock"
                self._lock = path.open("a+b")
                try:
                    fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (BlockingIOError, PermissionError):
                    raise UsageError(f"{self.folder}: another run is writing it; wait, or name another --out") from None
                # A run that finished between the two lines above has removed the file that is locked now.
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(self._lock.fileno()).st_ino:
                        return
                self._lock.close()
                self.partial.mkdir(exist_ok=True)
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        with _held_guard:
            _held.discard(self._key)

    def _is_complete(self) -> bool:
        """Whether the folder is finished and nothing of it is missing or cut; takes note of what is there.

        Raises UsageError where it holds something else.
        """
        manifest = load_manifest(self.folder)
        self._compare_contents(manifest.recipe_hash, manifest.layout.to_dict())
        self._expected = dict(enumerate(manifest.shards))
        self.records = {shard: record for shard, record in self._expected.items() if self._is_there(shard, record)}
        if self.missing() or differing_files(self.folder, manifest):
            self._compare_versions(manifest.versions)
            return False
        self.manifest = manifest
        return True

    def _adopt(self) -> None:
        """Compare the plan with what the folder holds, keep what is good, remove the rest."""
        if (self.folder / MANIFEST).exists():
            if self._is_complete():
                self._remove_state()
                return
        else:
            found = {shard: self._read_record(shard) for shard in range(self.layout.num_shards)}
            if any(self.partial.glob("[0-9]*.json")):
                plan = _read_json(self._plan_path)
                self._compare_contents(plan.get("recipe_hash"), plan.get("layout"))
                self._compare_versions(plan.get("versions"))
            self.records = {
                shard: record for shard, record in found.items() if record and self._is_there(shard, record)
            }
        with _commit_guard(self.partial):
            _replace(self.partial / "owner", self.token.encode(), self.partial)
            _replace(self._plan_path, to_json(self._plan, indent=1).encode(), self.partial, durable=True)
            self._remove_rubbish()

    def _compare_contents(self, recipe_hash: object, layout: object) -> None:
        wanted = self._plan["layout"]
        if recipe_hash != self._plan["recipe_hash"] or not isinstance(layout, dict):
            raise UsageError(f"{self.folder}: holds another recipe's images; name another folder with --out")
        if layout != wanted:
            differing = [f"{key} {layout.get(key)}" for key in wanted if layout.get(key) != wanted[key]]
            raise UsageError(
                f"{self.folder}: holds the same recipe laid out otherwise ({', '.join(differing)}); "
                "ask for that, or name another folder with --out"
            )

    def _compare_versions(self, versions: object) -> None:
        ours, theirs = self._plan["versions"], versions if isinstance(versions, dict) else {}
        if theirs != ours and not self._any_versions:
            names = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
            changes = ", ".join(f"{name} {theirs.get(name)}, now {ours.get(name)}" for name in names)
            raise UsageError(
                f"{self.folder}: begun with other versions ({changes}), whose bytes may differ; "
                "go on with those, or say --any-versions"
            )

    def _read_record(self, shard: int) -> ShardRecord | None:
        try:
            return parse(ShardRecord, json.loads((self.partial / f"{shard:06d}.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _is_there(self, shard: int, record: ShardRecord) -> bool:
        path = self.folder / self.layout.filename(shard)
        return path.is_file() and path.stat().st_size == record.bytes

    def _remove_rubbish(self) -> None:
        for path in self.partial.glob("*.tmp"):
            path.unlink()
        for shard in self.missing():
            (self.folder / self.layout.filename(shard)).unlink(missing_ok=True)
            (self.partial / f"{shard:06d}.json").unlink(missing_ok=True)

    def _remove_state(self) -> None:
        for path in self.partial.iterdir():
            if _is_state(path):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the user's is in it
            self.partial.rmdir()


def commit_shard(folder: Path, shard: int, samples: Iterable[Sample], layout: Layout, token: str) -> ShardRecord:
    """Write one shard and commit it: temporary name, flush to disk, rename, then its record.

    token: of the run that asked for it. Raises DataError, and commits nothing, where that run has ended and another
    owns the folder; OSError (disk full) leaves only rubbish.
    """
    partial, name = folder / PARTIAL, layout.filename(shard)
    temporary = partial / f"{name}.{token}.tmp"
    try:
        record = write_tar(temporary, name, samples, layout)
        with _commit_guard(partial):
            if _read_owner(partial) != token:
                raise DataError(f"{name}: the run that asked for it has ended; nothing was committed")
            temporary.replace(folder / name)
            _replace(partial / f"{shard:06d}.json", to_json(asdict(record)).encode(), partial)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return record


@contextlib.contextmanager
def _commit_guard(partial: Path) -> Iterator[None]:
    """Held while a worker commits, and while a new run takes the folder over: neither falls between the other's steps.

    It is between processes only. Threads of one process belong to one run, which holds the folder's lock.
    """
    with (partial / "commit").open("ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _is_state(path: Path) -> bool:
    """Whether this is one of our files in `.partial`."""
    return (
        path.name in ("plan.json", "lock", "owner", "commit")
        or re.fullmatch(r"\d+\.json|.*\.tmp", path.name) is not None
    )


def _read_owner(partial: Path) -> str:
    try:
        return (partial / "owner").read_text("utf-8")
    except FileNotFoundError:
        return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
        return values if isinstance(values, dict) else {}
    except (FileNotFoundError, ValueError):
        return {}


def _replace(path: Path, data: bytes, scratch: Path, *, durable: bool = False) -> None:
    """Give `path` this content whole or not at all."""
    temporary = scratch / f"{path.name}.{secrets.token_hex(4)}.tmp"
    with temporary.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
