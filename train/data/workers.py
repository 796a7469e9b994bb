"""Pieces of batches made by worker processes, put together and brought to the device one step ahead."""

import contextlib
import itertools
import mmap
import os
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from math import prod
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.files import forget_locks
from fracgen.train.data.examples import Indices
from fracgen.train.data.skipped import Skipped, SkippedExample

T = TypeVar("T")
_AHEAD = 2
"""Batches that stand ready."""
_PREFETCH = 2
"""Pieces that each worker has to make or to hand over."""


class Piece(NamedTuple):
    """A few rows of a batch. images: (n, ...), None where they lie in the slot of the request. labels: (n,) int64.

    failure: the error that ends the batches, as (its class, its message); then the piece holds nothing else.
    """

    images: Tensor | None
    labels: Indices
    skipped: tuple[SkippedExample, ...] = ()
    failure: tuple[type[FracgenError], str] | None = None


class PieceMaker(Protocol):
    """Makes pieces of batches; it is forked or pickled to workers. slot_shape: (C, H, W) of uint8 images, or None."""

    @property
    def slot_shape(self) -> tuple[int, int, int] | None:
        """Of its images, where they are uint8 and their shape is known before."""

    def make(self, rows: range, slot: Tensor | None) -> Piece:
        """The piece of these rows of the run. slot: uint8 (len(rows) or more, C, H, W), takes the images if given."""


class _Request(NamedTuple):
    slot: int
    rows: range


def make_batches(
    maker: PieceMaker, batches: Iterable[range], num_workers: int, *, device: torch.device, skipped: Skipped
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """(images, labels) on the device for each batch of rows of the run, made while the caller computes.

    A thread keeps two batches ready; num_workers 0 has it make them too. Else each worker makes its piece of each
    batch, which takes less memory than batches of their own and brings the first one sooner.
    Closing the iterator ends workers and thread. Raises the first error of any worker, DataError where a worker dies.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())  # which is a matter of each thread

    def make() -> Generator[tuple[list[Piece], Tensor | None, Tensor | None, Any], None, None]:
        steps = _from_workers(maker, batches, num_workers) if num_workers else _in_this_thread(maker, batches)
        stream: Any = None
        if device.type == "cuda":
            torch.cuda.set_device(device)
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with contextlib.closing(steps):
            for pieces in steps:
                if any(piece.failure for piece in pieces) or all(piece.images is None for piece in pieces):
                    yield pieces, None, None, None
                    continue
                with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                    images, labels = (t.to(device, non_blocking=True) for t in _join(pieces, device.type == "cuda"))
                    yield pieces, images, labels, stream.record_event() if stream else None

    with contextlib.closing(_ahead(make, _AHEAD)) as steps:
        for pieces, images, labels, copied in steps:
            for piece in pieces:
                skipped.extend(piece.skipped)
                if piece.failure:
                    raise piece.failure[0](piece.failure[1])
            if images is None or labels is None:  # all of its examples were left out
                continue
            if copied is not None:
                copied.wait(torch.cuda.current_stream(device))
                for tensor in (images, labels):
                    tensor.record_stream(torch.cuda.current_stream(device))
            yield images, labels


def _join(pieces: list[Piece], pin: bool) -> tuple[Tensor, Tensor]:
    """One batch of its pieces, in memory of its own; at least one has images."""
    labels = torch.from_numpy(np.concatenate([piece.labels for piece in pieces]))
    filled = [piece.images for piece in pieces if piece.images is not None]
    if pin:
        out = torch.empty((len(labels), *filled[0].shape[1:]), dtype=filled[0].dtype, pin_memory=True)
        return torch.cat(filled, out=out), labels.pin_memory()
    return torch.cat(filled), labels


def _in_this_thread(maker: PieceMaker, batches: Iterable[range]) -> Generator[list[Piece], None, None]:
    for rows in batches:
        yield [_guarded(maker, rows, None)]


def _guarded(maker: PieceMaker, rows: range, slot: Tensor | None) -> Piece:
    """A piece; an error of ours travels as a value: DataLoader would wrap its message."""
    try:
        return maker.make(rows, slot)
    except FracgenError as error:
        kind = UsageError if error.exit_code == UsageError.exit_code else DataError
        return Piece(None, np.empty(0, np.int64), failure=(kind, str(error)))


class _Pieces:
    """A map-style data set for DataLoader: a request in, a piece out."""

    def __init__(self, maker: PieceMaker, slots: list[Tensor]) -> None:
        self._maker, self._slots = maker, slots

    def __getitems__(self, request: _Request) -> Piece:
        return _guarded(self._maker, request.rows, self._slots[request.slot] if self._slots else None)


class _Requests:
    """A batch sampler for DataLoader: of each batch a piece a worker, each with the next slot in turn."""

    def __init__(self, batches: Iterable[range], num_workers: int, num_slots: int) -> None:
        self._batches, self._num_workers, self._num_slots = batches, num_workers, num_slots

    def __iter__(self) -> Iterator[_Request]:
        count = itertools.count()
        for rows in self._batches:
            for worker in range(self._num_workers):
                yield _Request(next(count) % self._num_slots, split_rows(rows, worker, self._num_workers))


def split_rows(rows: range, part: int, num_parts: int) -> range:
    """Part number `part` of a range of rows; parts differ in length by one at most."""
    return rows[len(rows) * part // num_parts : len(rows) * (part + 1) // num_parts]


def _from_workers(maker: PieceMaker, batches: Iterable[range], num_workers: int) -> Generator[list[Piece], None, None]:
    """The pieces of each batch, from worker processes.

    They are forked on Linux, where it is safe while they touch no device: they start at once (a fresh interpreter needs
    1.5 s for torch alone) and see a set in memory without a copy of it. Elsewhere they are spawned.

    Images are handed over in slots that are used again: DataLoader maps new memory for every tensor, which costs more
    than to decode a fractal of 512 x 512. When a piece is taken, `_PREFETCH * num_workers` others may have been begun;
    the slot of the one after those is its own, and free, since the pieces of a batch are copied before the next is
    taken, which `_NUM_SLOTS` allows for.
    """
    num_slots = _PREFETCH * num_workers + num_workers
    peeked, batches = _peek(batches)
    slots = _shared_slots(maker, -(-len(peeked) // num_workers), num_slots)
    loader: DataLoader[Piece] = DataLoader(
        _Pieces(maker, slots),  # type: ignore[arg-type]  # __getitems__ is enough
        batch_sampler=_Requests(batches, num_workers, num_slots),  # type: ignore[arg-type]
        num_workers=num_workers,
        prefetch_factor=_PREFETCH,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        worker_init_fn=_start_worker,
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # it is handed one piece
        generator=torch.Generator(),  # or it would draw from the trainer's, from a thread
    )
    # Made in this thread, not the main one, it installs no SIGCHLD handler, which would raise in the caller's step.
    iterator: Any = iter(loader)
    count = itertools.count()
    try:
        while pieces := [
            _from_slot(piece, slots, next(count) % num_slots) for piece in itertools.islice(iterator, num_workers)
        ]:
            yield pieces
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


def _peek(batches: Iterable[range]) -> tuple[range, Iterable[range]]:
    """(the first batch, all of them): no later batch is longer."""
    iterator = iter(batches)
    first = next(iterator, range(0))
    return first, itertools.chain([first] if first else [], iterator)


def _shared_slots(maker: PieceMaker, num_rows: int, num_slots: int) -> list[Tensor]:
    """Memory that workers share, uint8 (num_rows, C, H, W) each; none where the shape is not known.

    Forked workers inherit anonymous memory, for which /dev/shm need not be large.
    """
    if maker.slot_shape is None:
        return []
    shape = (max(1, num_rows), *maker.slot_shape)
    if sys.platform == "linux":
        rooms = [torch.frombuffer(mmap.mmap(-1, prod(shape)), dtype=torch.uint8) for _ in range(num_slots)]
        return [room.view(shape) for room in rooms]
    return [torch.empty(shape, dtype=torch.uint8).share_memory_() for _ in range(num_slots)]


def _from_slot(piece: Piece, slots: list[Tensor], slot: int) -> Piece:
    return piece._replace(images=slots[slot][: len(piece.labels)]) if piece.images is None and slots else piece


def _as_it_is(piece: Piece) -> Piece:
    return piece


def _start_worker(worker: int) -> None:
    """Leave the terminal's process group: Ctrl-C is for the trainer, which still needs the batches of this step."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    forget_locks()
    torch.set_num_threads(1)


def _ahead(make: Callable[[], Generator[T, None, None]], depth: int) -> Generator[T, None, None]:
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
        while True:
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
