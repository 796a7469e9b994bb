"""Commit a shard: whole or not at all, and only for a run that is still on.

Workers commit, in any process or machine that shares the folder; the run that asked for them is `folder.FolderWriter`.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from fracgen.shards.errors import DataError
from fracgen.shards.files import unique_temporary, write_atomically
from fracgen.shards.layout import Layout
from fracgen.shards.locks import commit_guard
from fracgen.shards.manifest import PARTIAL, ShardRecord
from fracgen.shards.plan import seal
from fracgen.shards.writer import Entry, write_tar


def commit_shard(
    folder: Path, shard: int, samples: Iterable[Entry], layout: Layout, token: str, order: Sequence[int] | None = None
) -> ShardRecord:
    """Write one shard and commit it: temporary name, flush to disk, rename, then its record.

    folder: the data set's. shard: its number. order: of the samples in the tar, as their indices, where `samples` come
    in another. token: of the run that asked for it, whose file `run-TOKEN` in `.partial` stands as long as it is on.
    Raises DataError, and commits nothing, where that run has ended; OSError (disk full) leaves only a temporary file,
    which the next run removes.
    """
    partial, name = folder / PARTIAL, layout.filename(shard)
    # Two workers may have the same shard: an executor gives it to another where it believes that the first is dead.
    temporary = partial / f"{name}.{token}.{secrets.token_hex(4)}.tmp"
    try:
        record = write_tar(temporary, name, samples, layout, order)
        with commit_guard(partial):
            if not (partial / f"run-{token}").exists():
                raise DataError(f"{name}: the run that asked for it has ended; nothing was committed")
            temporary.replace(folder / name)
            path = partial / f"{shard:06d}.json"
            write_atomically(path, seal(asdict(record)), temporary=unique_temporary(path), error=None)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return record
