"""The shards that a run has still to make: on an executor, collected as they are committed; and what the run did."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from fracgen.recipe import UnmakeableError
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.folder import FolderWriter
from fracgen.shards.manifest import Manifest, ShardRecord

T = TypeVar("T")

_cancelled: set[str] = set()
"""Tokens of runs that were interrupted: their threads stop at the next image."""
_LAST_SECONDS = 60
"""How long a run that failed waits for its workers' last images."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run did. new_samples and seconds count this run only; the manifest counts the folder.

    manifest: None after a part, as only `merge` writes it. num_samples: of the folder, or of the part.
    """

    folder: Path
    manifest: Manifest | None
    num_samples: int
    new_samples: int
    seconds: float

    @property
    def rate(self) -> float:
        """New images a second; 0 where none was made."""
        return self.new_samples / self.seconds if self.new_samples else 0.0

    @classmethod
    def of(cls, writer: FolderWriter, new_samples: int, started: float) -> Self:
        """Of a run that has written what it had to. started: `time.perf_counter` at its begin."""
        return cls(
            folder=writer.folder,
            manifest=writer.manifest,
            num_samples=sum(record.samples for record in writer.records.values()),
            new_samples=new_samples,
            seconds=time.perf_counter() - started,
        )


def make_missing(
    pool: Executor,
    writer: FolderWriter,
    work: Callable[[Path, int, str], ShardRecord],
    *,
    meanwhile: Callable[[], T],
    on_shard: Callable[[ShardRecord], None] | None,
) -> tuple[int, T]:
    """Make the missing shards of a folder; returns (number of new samples, result of `meanwhile`).

    Shards of an earlier run whose tars were changed since are made again; of parts, `FolderWriter.finish` finds them.

    work: makes and commits one shard, of (folder, number, token of the run). on_shard: called with each record.
    """
    futures: dict[Future[ShardRecord], int] = {}
    new_samples = 0

    def submit() -> None:
        futures.clear()
        for shard in writer.missing():
            futures[pool.submit(work, writer.folder.absolute(), shard, writer.token)] = shard

    def collect() -> int:
        num_samples = 0
        for future in as_completed(futures):
            record = future.result()
            writer.add(futures[future], record)
            num_samples += record.samples
            if on_shard:
                on_shard(record)
        return num_samples

    try:
        submit()
        result = meanwhile()
        new_samples = collect()
        if writer.part is None and writer.drop_changed():
            submit()
            new_samples += collect()
    except BaseException as error:
        _cancelled.add(writer.token)
        for future in futures:
            future.cancel()
        if isinstance(error, UnmakeableError | UsageError):
            wait(futures, timeout=_LAST_SECONDS)  # what they write is removed
        raise
    return new_samples, result


def until_cancelled(samples: Iterable[T], token: str) -> Iterator[T]:
    """The samples of a run, until it is interrupted. Raises DataError then."""
    for sample in samples:
        if token in _cancelled:
            raise DataError("the run was interrupted")
        yield sample
