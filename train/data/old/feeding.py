"""Parts of batches from worker processes, put together and brought to the device one step ahead."""

import contextlib
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from math import prod
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.files import forget_locks
from fracgen.train.data.old.samples import Skipped

T = TypeVar("T")
AHEAD = 2
"""Batches that stand ready."""
_PREFETCH = 2


class Part(NamedTuple):
    """What one worker has of one step.

    rows: places in the rank's batch, int64 (n,). images: (n, ...), None where n is 0 or they lie in a slot.
    labels: int64 (n,). slot: the number of the slot whose first n images are these.
    skipped: (reason, message) of each sample left out since the last part.
    failure: the error that ends the feed, as (its class, its message); then the part holds nothing else.
    """

    rows: npt.NDArray[np.int64]
    images: torch.Tensor | None
    labels: npt.NDArray[np.int64]
    slot: int | None = None
    skipped: Sequence[tuple[str, str]] = ()
    failure: tuple[type[FracgenError], str] | None = None


class Work(Protocol):
    """What workers do; it is pickled where they are not forked."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Of its images, where they are uint8 and their shape is known before: (C, H, W)."""

    def most_rows(self, worker: int, num_workers: int) -> int:
        """Rows that a worker has of any step."""

    def parts(
        self, start_step: int, worker: int, num_workers: int, slots: Sequence[torch.Tensor] = ()
    ) -> Iterator[Part]:
        """The parts of one of the workers, one a step, without end or, of all workers, to the same step.

        All workers' rows of a step are the whole batch.

        slots: room for images, uint8 (most_rows, C, H, W) each; step k writes to slot k % len(slots).
        """


class _Parts(IterableDataset[Part]):
    """Work as DataLoader's workers take it. An error of ours travels as a value: DataLoader would wrap its message."""

    def __init__(self, work: Work, start_step: int, slots: Sequence[Sequence[torch.Tensor]] = ()) -> None:
        self._work, self._start_step, self._slots = work, start_step, slots

    def __iter__(self) -> Iterator[Part]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        try:
            slots = self._slots[worker] if self._slots else ()
            yield from self._work.parts(self._start_step, worker, num_workers, slots)
        except FracgenError as error:
            kind = UsageError if error.exit_code == UsageError.exit_code else DataError
            nothing = np.empty(0, np.int64)
            yield Part(nothing, None, nothing, failure=(kind, str(error)))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_workers(transform: object, num_workers: int) -> None:
    """Raises UsageError for a number of workers that cannot do the work."""
    if num_workers < 0:
        raise UsageError(f"--workers {num_workers}: give 0 or more")
    if transform is not None and num_workers == 0:
        raise UsageError("--workers 0: a transform of single images seeds global generators, so it needs 1 or more")


def check_repeats(repeats: int) -> None:
    """Raises UsageError for a number of repeats that means nothing."""
    if repeats < 1:
        raise UsageError(f"feed.repeats {repeats}: give 1 or more")


def check_batch(num_samples: int, batch_size: int, rank: int, world: int) -> int:
    """Samples of a batch that one rank gets. Raises UsageError for a batch that the set or the ranks do not allow."""
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank} of {world}: ranks count from 0")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: give 1 or more")
    if batch_size > num_samples:
        raise UsageError(
            f"--batch-size {batch_size}: the set has only {num_samples} images; give at most that many, "
            f"or let each come more than once an epoch: feed.repeats={-(-batch_size // num_samples)}"
        )
    if batch_size % world:
        raise UsageError(f"--batch-size {batch_size}: not divisible by {world} ranks; give a multiple of {world}")
    return batch_size // world


def feed(
    work: Work, start_step: int, num_workers: int, *, device: torch.device, skipped: Skipped
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """(images, labels) of each step on the device, as long as the work goes on, made while the caller computes.

    A thread keeps two batches ready; num_workers 0 has it do the work too. Closing the iterator ends workers and
    thread. Raises the first error of any worker, DataError where a worker dies.
    """

    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())  # which is a matter of each thread

    def make() -> Generator[tuple[list[Part], torch.Tensor | None, torch.Tensor | None, Any], None, None]:
        steps = _worker_parts(work, start_step, num_workers) if num_workers else _own_parts(work, start_step)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        with contextlib.closing(steps):
            for parts in steps:
                if any(part.failure for part in parts):
                    yield parts, None, None, None
                    return
                with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                    images, labels = (t.to(device, non_blocking=True) for t in _assemble(parts, device.type == "cuda"))
                    yield parts, images, labels, stream.record_event() if stream else None

    with contextlib.closing(ahead(make, AHEAD)) as steps:
        for parts, images, labels, copied in steps:
            for part in parts:
                skipped.extend(part.skipped)
                if part.failure:
                    raise part.failure[0](part.failure[1])
            assert images is not None and labels is not None
            if copied is not None:
                copied.wait(torch.cuda.current_stream(device))
                for tensor in (images, labels):
                    tensor.record_stream(torch.cuda.current_stream(device))
            yield images, labels


def _own_parts(work: Work, start_step: int) -> Generator[list[Part], None, None]:
    for part in _Parts(work, start_step):
        yield [part]


def _worker_parts(work: Work, start_step: int, num_workers: int) -> Generator[list[Part], None, None]:
    """The parts of each step from worker processes; DataLoader takes them from its workers in turn.

    They are forked on Linux, where it is safe while they touch no device: they start at once (a fresh interpreter
    needs 1.5 s for torch alone) and see a resident set without a copy of it. Elsewhere they are spawned.
    """
    slots = _shared_slots(work, num_workers)
    loader = DataLoader(
        _Parts(work, start_step, slots),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=_PREFETCH,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        worker_init_fn=_start_worker,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # or it would draw from the trainer's, from a thread
    )
    # Made in this thread, not the main one, it installs no SIGCHLD handler, which would raise in the caller's step.
    iterator: Any = iter(loader)
    try:
        while True:
            parts = list(itertools.islice(iterator, num_workers))
            if not parts:
                return
            yield [_from_slot(part, slots[n] if slots else ()) for n, part in enumerate(parts)]
    except (RuntimeError, OSError, EOFError) as error:
        if not isinstance(error, RuntimeError):  # a worker died while it handed over; the system may still be at it
            wait([w.sentinel for w in iterator._workers], timeout=5)
        dead = [w for w in iterator._workers if w.exitcode]
        if not dead:
            raise
        memory = "; /dev/shm may be too small" if any(w.exitcode == -7 for w in dead) else ""
        raise DataError(
            f"data worker {dead[0].pid} died (exit code {dead[0].exitcode}): it was killed, or memory ran out{memory}"
        ) from error
    finally:
        iterator._shutdown_workers()


def _shared_slots(work: Work, num_workers: int) -> list[list[torch.Tensor]]:
    """Memory in which each worker hands over its images, used again and again; none where their shape is not known.

    DataLoader maps new memory for every tensor, which costs more than to decode a fractal of 512 x 512. When the part
    of step k is taken, its worker may begin step k + _PREFETCH, so one slot more than that keeps k until it is copied.
    """
    if work.image_shape is None:
        return []
    slots = []
    for worker in range(num_workers):
        shape = (max(1, work.most_rows(worker, num_workers)), *work.image_shape)
        rooms = [torch.UntypedStorage._new_shared(prod(shape)) for _ in range(_PREFETCH + 1)]  # type: ignore[no-untyped-call]
        slots.append([torch.empty(0, dtype=torch.uint8).set_(room).view(shape) for room in rooms])
    return slots


def _from_slot(part: Part, slots: Sequence[torch.Tensor]) -> Part:
    return part if part.slot is None or not len(part.rows) else part._replace(images=slots[part.slot][: len(part.rows)])


def _as_it_is(part: Any) -> Any:
    return part


def _start_worker(worker: int) -> None:
    """Out of the terminal's process group: Ctrl-C is for the trainer, which still needs the batches of this step."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    forget_locks()
    torch.set_num_threads(1)


def _assemble(parts: Sequence[Part], pin: bool) -> tuple[torch.Tensor, torch.Tensor]:
    num = sum(len(part.rows) for part in parts)
    filled = [(part, part.images) for part in parts if part.images is not None]
    labels = torch.empty(num, dtype=torch.int64, pin_memory=pin)
    for part, _ in filled:
        labels[torch.from_numpy(part.rows)] = torch.from_numpy(part.labels)
    if len(filled) == 1 and not pin and filled[0][0].slot is None:
        return filled[0][1], labels
    like = filled[0][1]
    images = torch.empty((num, *like.shape[1:]), dtype=like.dtype, pin_memory=pin)
    for part, given in filled:
        images.index_copy_(0, torch.from_numpy(part.rows), given)
    return images, labels


def ahead(make: Callable[[], Generator[T, None, None]], depth: int) -> Generator[T, None, None]:
    """What an iterator gives, made up to `depth` items ahead in a thread, which also calls `make`.

    Its errors come out here; closing this one ends the thread and closes the iterator.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                return

    def run() -> None:
        try:
            iterator: Any = make()
            with contextlib.closing(iterator):
                for item in iterator:
                    put(item, None)
                    if stop.is_set():
                        return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=run, name="batches ahead", daemon=True)
    thread.start()
    try:
        for _ in itertools.count():
            item, error = _get(ready, thread)
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # it is there where no error is
    finally:
        stop.set()
        thread.join()


def _get(ready: "queue.Queue[T]", thread: threading.Thread) -> T:
    while True:
        try:
            return ready.get(timeout=1.0)
        except queue.Empty:
            if not thread.is_alive() and ready.empty():
                raise RuntimeError("the thread that makes batches has gone") from None
