"""The one writer of a folder of shards, or of a part of it: lock, plan, resume after any interruption, finish.

    <folder>/<name>-train-000000.tar ...    committed shards
    <folder>/.partial/plan.json             what is being written, whole; another plan is refused
    <folder>/.partial/input-NAME            the files that the recipe was made from
    <folder>/.partial/lock                  held by the one run that writes, or shared by runs of different parts
    <folder>/.partial/lock-PART             held by the one run that writes this part
    <folder>/.partial/parts                 in how many parts the folder is being written
    <folder>/.partial/run-TOKEN             a run that is on, and its own plan: without it, its workers commit nothing
    <folder>/.partial/commit                locked while a worker commits, and while a run begins
    <folder>/.partial/000000.json ...       the record of each committed shard, written after the shard
    <folder>/.partial/*.tmp                 what is not committed: rubbish, if its run is over
    <folder>/dataset.json                   the manifest, written last: the folder is finished

A crash leaves a shard without its record (rubbish: removed), or everything but the removal of `.partial` (removed by
the next run). Plan, records and the number of parts end in a hash of what they say, so one that is damaged is known,
and a shard without a good record is made again; so is one whose tar was changed after it was committed. Only the shards
are flushed to the disk before their records, so after a power cut a record may be missing or empty, which costs one
shard, but none can vouch for a shard that did not survive.
"""

import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import check_local, num_cores, unique_temporary, write_atomically
from fracgen.shards.layout import Part
from fracgen.shards.locks import FolderLocks, commit_guard
from fracgen.shards.manifest import (
    MANIFEST,
    PARTIAL,
    ImageFormat,
    Manifest,
    ShardRecord,
    differing_files,
    load_manifest,
    to_json,
)
from fracgen.shards.plan import FolderPlan, has_tar, is_state, parts_to_bytes, read_plan, read_record


class FolderWriter:
    """The one writer of a folder, or of a part of it, as a context manager.

    plan: what is written; once entered, with the provenance of the run that began the folder, if it holds shards.
    inputs: files that belong to the plan, by name.
    part: which shards to write, while other runs may write other parts; all by default.
    Entering creates the folder, takes the lock, compares the plan with the folder's, and removes rubbish.

    Raises UsageError where the folder cannot be written, holds something else, or is being written by another run.
    """

    def __init__(
        self,
        folder: Path,
        plan: FolderPlan,
        *,
        inputs: Mapping[str, bytes] | None = None,
        part: Part | None = None,
    ) -> None:
        check_local(folder)
        self.folder = folder
        self.plan, self.layout = plan, plan.layout
        self.part = part
        self.manifest: Manifest | None = None
        self.records: dict[int, ShardRecord] = {}
        self._shards = range(self.layout.num_shards) if part is None else part.shards(self.layout.num_shards)
        self._slug = "whole" if part is None else part.slug
        self.token = f"{self._slug}-{secrets.token_hex(16)}"
        self._expected: dict[int, ShardRecord] = {}
        self._unchecked: set[int] = set()
        self._inputs = dict(inputs or {})
        self._created_partial = self._created_folder = self._was_empty = False
        self._locks = FolderLocks(folder, part)

    @property
    def partial(self) -> Path:
        """Where the state of an unfinished folder lies."""
        return self.folder / PARTIAL

    def missing(self) -> list[int]:
        """Numbers of the shards, of this part, that are not committed yet."""
        return [shard for shard in self._shards if shard not in self.records]

    def __enter__(self) -> Self:
        try:
            if not self.partial.exists() and (self.folder / MANIFEST).exists() and self._note_shards():
                return self
            self._create()
            self._locks.claim()
            alone = False
            try:
                with commit_guard(self.partial, make=True):
                    alone = self._locks.take()
                    self._adopt(alone)
            except BaseException:
                if self._created_partial and alone:  # refused: leave the folder as it was
                    self._remove_state()
                self._locks.release()
                raise
        except OSError as error:
            raise UsageError(f"{error.filename or self.folder}: cannot be written ({error.strerror})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self.partial / f"run-{self.token}").unlink(missing_ok=True)
        self._locks.release()

    def add(self, shard: int, record: ShardRecord) -> None:
        """Take note of a shard that `commit_shard` committed.

        Raises DataError where it replaces a lost shard of a finished folder and its pixels are not the same.
        """
        expected = self._expected.get(shard, record)
        if record.pixels_sha256 != expected.pixels_sha256:
            raise DataError(f"{record.name}: rendered again, and its pixels differ from those that the manifest names")
        self.records[shard] = record
        self._unchecked.discard(shard)

    def drop_changed(self) -> list[int]:
        """Check the tars that this run did not write against their sha256; those that differ become missing.

        Each is read once a run, on all cores. Returns the numbers of those that differ.
        """
        checked = sorted(self._unchecked)
        with ThreadPoolExecutor(num_cores()) as pool:
            is_same = list(pool.map(lambda shard: _is_same(self.folder, self.records[shard]), checked))
        self._unchecked.clear()
        changed = [shard for shard, same in zip(checked, is_same, strict=True) if not same]
        for shard in changed:
            del self.records[shard]
            self._remove_shard(shard)
        return changed

    def new_manifest(self, class_names: tuple[str, ...], image: ImageFormat) -> Manifest:
        """The manifest of the folder, but for its files. All shards must be committed."""
        return Manifest(
            recipe=self.plan.recipe,
            recipe_hash=self.plan.recipe_hash,
            provenance=self.plan.provenance,
            layout=self.layout,
            versions=self.plan.versions,
            class_names=class_names,
            image=image,
            shards=tuple(self.records[shard] for shard in range(self.layout.num_shards)),
            files={},
        )

    def finish(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Write `files`, then the manifest with their sha256, and remove the state. All shards must be committed.

        Raises DataError where the tar of one was changed since, which is then removed.
        """
        if changed := self.drop_changed():
            names = ", ".join(map(self.layout.filename, changed[:8])) + (", ..." if len(changed) > 8 else "")
            raise DataError(
                f"{self.folder}: {names}: changed after being committed, so removed; render what is missing again, by "
                "the command that began the folder"
            )
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
        manifest = replace(manifest, files=hashes)
        for name, data in {**files, MANIFEST: manifest.to_bytes()}.items():
            self._write(self.folder / name, data, durable=True)
        self.manifest = manifest
        self._remove_state()

    def discard(self, *, was_empty: bool = False) -> bool:
        """Remove what this run wrote, where it made the folder and alone wrote in it; returns whether it did.

        was_empty: also where the folder was empty when this run began; it then stays, empty.
        """
        if (
            not (self._created_folder or (was_empty and self._was_empty))
            or self.part is not None
            or self.manifest is not None
        ):
            return False
        with commit_guard(self.partial):
            for name in map(self.layout.filename, range(self.layout.num_shards)):
                (self.folder / name).unlink(missing_ok=True)
            self._remove_state()
        if self._created_folder:
            with contextlib.suppress(OSError):  # something of the user's is in it
                self.folder.rmdir()
        return True

    def _create(self) -> None:
        """Make the folder and its state. Refuses a folder with anything in it that no run of ours can have left."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is a file; name a folder")
        self._created_folder, self._created_partial = not self.folder.exists(), not self.partial.exists()
        self._was_empty = not self._created_folder and not any(self.folder.iterdir())
        if self.folder.exists() and not (self.folder / MANIFEST).exists() and not self._plan_path.exists():
            others = [path for path in self.folder.iterdir() if path != self.partial]
            inside = [] if self._created_partial else [path for path in self.partial.iterdir() if not is_state(path)]
            if others or inside:
                raise UsageError(f"{self.folder}: not empty, and not a folder of shards; name another with --out")
        self.partial.mkdir(parents=True, exist_ok=True)

    @property
    def _plan_path(self) -> Path:
        return self.partial / "plan.json"

    def _note_shards(self) -> bool:
        """Note the shards that the folder holds; returns whether it is finished and nothing of it is missing.

        Raises UsageError where it holds something else, DataError where a shard made again is not what it was.
        """
        manifest = load_manifest(self.folder) if (self.folder / MANIFEST).exists() else None
        if manifest is not None:
            self.plan.check_contents(self.folder, manifest.recipe_hash, manifest.layout)
            self._expected = dict(enumerate(manifest.shards))
        listed = {shard: record for shard, record in self._expected.items() if has_tar(self.folder, record)}
        remade = {
            shard: record
            for shard in range(self.layout.num_shards)
            if (record := read_record(self.folder, self.layout, shard)) and record != listed.get(shard)
        }
        for shard, record in {**listed, **remade}.items():
            if shard in self._shards:
                self.add(shard, record)
                self._unchecked.add(shard)
        if manifest is None:
            return False
        complete = len({**listed, **remade}) == self.layout.num_shards
        if remade or not complete or differing_files(self.folder, manifest):
            self.plan = replace(self.plan.with_versions(self.folder, manifest.versions), provenance=manifest.provenance)
            return False
        self.manifest = manifest
        return True

    def _adopt(self, alone: bool) -> None:
        """Compare the plan with the folder's, keep its good shards, remove the rest."""
        if self._note_shards():
            if alone:
                self._remove_state()
            return
        own, has_records = self.plan, any(self.partial.glob("[0-9]*.json"))
        if not (self.folder / MANIFEST).exists() and (has_records or not alone):
            saved = read_plan(self.folder)
            if saved is None:
                raise UsageError(f"{self.folder}: holds shards, and no plan of them; name another folder with --out")
            self.plan.check_contents(self.folder, saved.recipe_hash, saved.layout)
            self.plan = self.plan.with_versions(self.folder, saved.versions)
            if saved.recipe == json.loads(to_json(own.recipe)):
                self.plan = replace(self.plan, provenance=saved.provenance)
        elif not (self.folder / MANIFEST).exists():
            self._remove_tars_of_other_plan()
        self._remove_rubbish(alone)
        if alone:
            for name, data in self._inputs.items():
                self._write(self.partial / f"input-{name}", data, durable=True)
            self._write(self._plan_path, self.plan.to_bytes(), durable=True)
            if self.part is not None:
                self._write(self.partial / "parts", parts_to_bytes(self.part.count))
        self._write(self.partial / f"run-{self.token}", own.to_bytes())

    def _write(self, path: Path, data: bytes, *, durable: bool = False) -> None:
        """Write a file of the folder or its state; what an interruption leaves lies in the state."""
        write_atomically(path, data, durable=durable, temporary=unique_temporary(path, self.partial), error=None)

    def _remove_rubbish(self, alone: bool) -> None:
        """Of earlier runs; where another part's run is on, of this part only."""
        patterns = ("run-*", "*.tmp") if alone else (f"run-{self._slug}-*", f"*.tar.{self._slug}-*.tmp")
        for pattern in patterns:
            for path in self.partial.glob(pattern):
                path.unlink(missing_ok=True)
        for shard in self.missing():
            self._remove_shard(shard)

    def _remove_tars_of_other_plan(self) -> None:
        """Remove tars of a run that ended before its first record: with another plan, they have other names."""
        with contextlib.suppress(DataError):  # a damaged plan
            if (saved := read_plan(self.folder)) is not None:
                for name in map(saved.layout.filename, range(saved.layout.num_shards)):
                    (self.folder / name).unlink(missing_ok=True)

    def _remove_shard(self, shard: int) -> None:
        (self.partial / f"{shard:06d}.json").unlink(missing_ok=True)
        (self.folder / self.layout.filename(shard)).unlink(missing_ok=True)

    def _remove_state(self) -> None:
        for path in self.partial.iterdir():
            if is_state(path):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the user's is in it
            self.partial.rmdir()


def _is_same(folder: Path, record: ShardRecord) -> bool:
    """Whether a tar has the bytes that its record says."""
    try:
        with (folder / record.name).open("rb") as file:
            return has_tar(folder, record) and hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    except FileNotFoundError:
        return False
