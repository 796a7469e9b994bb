"""Pieces of batches made by worker processes, put together and brought to the device ahead of the training step."""

import contextlib
import itertools
import mmap
import os
import queue
import signal
import sys
import threading
from collections.abc import Generator, Iterable
from math import prod
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.files import forget_locks
from fracgen.train.data.skipped import Skipped, SkippedExample

T = TypeVar("T")
_AHEAD = 3
"""Batches that stand ready or are being made."""
_PREFETCH = 2
"""Pieces that each worker has to make or to hand over."""


class Piece(NamedTuple):
    """A few rows of a batch, those of examples that could be used.

    images: (n, C, H, W) uint8, or (n, 3, S, S) float32 where a transform made them; None where n is 0.
    labels: (n,) int64; (n, number of classes) uint8 where an image has several.
    """

    images: Tensor | None
    labels: npt.NDArray[Any]
    skipped: tuple[SkippedExample, ...] = ()


class PieceMaker(Protocol):
    """Makes pieces of batches; it is forked or pickled to workers."""

    @property
    def slot_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of its images, where they are uint8 and their shape is known before."""

    def make(self, rows: range, slot: Tensor | None) -> Piece:
        """The piece of these rows of the run. slot: uint8 (len(rows) or more, C, H, W), which the images are put in."""


def make_batches(
    maker: PieceMaker,
    batches: Iterable[range],
    num_workers: int,
    *,
    batch_size: int,
    device: torch.device,
    skipped: Skipped,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """(images, labels) on the device for each batch of rows of the run, made while the caller computes.

    Images and labels are as `Piece` has them. A batch without any example that can be used is passed over.
    A thread keeps batches ready; num_workers 0 has it make them too. Else each worker makes its piece of each batch,
    which takes less memory than a batch for each worker, and has the first batch ready sooner.
    batch_size: rows of the largest batch. skipped: takes the examples that were left out.
    Closing the iterator ends workers and thread. Raises the first error of any worker, DataError where a worker dies.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())  # which is a matter of each thread
    with contextlib.closing(_ahead(_on_device(maker, batches, num_workers, batch_size, device))) as steps:
        for step in steps:
            skipped.extend(step.skipped)
            if step.batch is None:  # all of its examples were left out
                continue
            if step.copied is not None:
                stream = torch.cuda.current_stream(device)
                step.copied.wait(stream)
                for tensor in step.batch:
                    tensor.record_stream(stream)
            yield step.batch


def _ahead(iterator: Generator[T, None, None]) -> Generator[T, None, None]:
    """What an iterator gives, taken up to `_AHEAD` items ahead by a thread, which alone runs it.

    Its errors come out here. Closing this one ends the thread, then closes the iterator.
    """
    ready = queue.SimpleQueue[T | BaseException | None]()
    room, ended = threading.Semaphore(_AHEAD), threading.Event()

    def run() -> None:
        while room.acquire() and not ended.is_set():
            try:
                ready.put(next(iterator, None))
            except BaseException as error:
                ready.put(error)

    thread = threading.Thread(target=run, name="batches ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            room.release()
            yield item
    finally:
        ended.set()
        room.release()
        thread.join()
        iterator.close()


class _Step(NamedTuple):
    """What one step trains on, on the device. copied: the event after which it is there, on a GPU."""

    batch: tuple[Tensor, Tensor] | None
    copied: Any
    skipped: list[SkippedExample]


def _on_device(
    maker: PieceMaker, batches: Iterable[range], num_workers: int, batch_size: int, device: torch.device
) -> Generator[_Step, None, None]:
    """Each batch of its pieces, on the device, copied by a stream of its own."""
    stream: Any = None
    if device.type == "cuda":
        torch.cuda.set_device(device)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    pieces_of_batches: Generator[list[Piece], None, None] = (
        _from_workers(maker, batches, num_workers, batch_size)
        if num_workers
        else ([_checked(_guarded(maker, rows, None))] for rows in batches)
    )
    with contextlib.closing(pieces_of_batches):
        for pieces in pieces_of_batches:
            skipped = [example for piece in pieces for example in piece.skipped]
            if not any(len(piece.labels) for piece in pieces):
                yield _Step(None, None, skipped)
                continue
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                images, labels = (t.to(device, non_blocking=True) for t in _join(pieces, pin=stream is not None))
                copied = stream.record_event() if stream else None
            yield _Step((images, labels), copied, skipped)


def _join(pieces: list[Piece], *, pin: bool) -> tuple[Tensor, Tensor]:
    """One batch of its pieces, in memory of its own; at least one has images."""
    labels = torch.from_numpy(np.concatenate([piece.labels for piece in pieces]))
    filled = [piece.images for piece in pieces if piece.images is not None]
    if pin:
        out = torch.empty((len(labels), *filled[0].shape[1:]), dtype=filled[0].dtype, pin_memory=True)
        return torch.cat(filled, out=out), labels.pin_memory()
    return torch.cat(filled), labels


def _guarded(maker: PieceMaker, rows: range, slot: Tensor | None) -> Piece | FracgenError:
    """A piece, or an error of ours as a value that can be pickled: DataLoader would wrap its message."""
    try:
        return maker.make(rows, slot)
    except FracgenError as error:
        kind = UsageError if error.exit_code == UsageError.exit_code else DataError
        return kind(str(error))


def _checked(piece: Piece | FracgenError) -> Piece:
    if isinstance(piece, FracgenError):
        raise piece
    return piece


class _Pieces:
    """A map-style data set for DataLoader: (number of a slot, rows) in, a piece out, its images in the slot."""

    def __init__(self, maker: PieceMaker, slots: list[Tensor]) -> None:
        self._maker, self._slots = maker, slots

    def __getitems__(self, request: tuple[int, range]) -> Piece | FracgenError:
        slot, rows = request
        if not self._slots:
            return _guarded(self._maker, rows, None)
        piece = _guarded(self._maker, rows, self._slots[slot])
        return piece._replace(images=None) if isinstance(piece, Piece) else piece


def _from_workers(
    maker: PieceMaker, batches: Iterable[range], num_workers: int, batch_size: int
) -> Generator[list[Piece], None, None]:
    """The pieces of each batch, from worker processes.

    They are forked on Linux, where it is safe while they touch no device: they start at once (a fresh interpreter needs
    1.5 s for torch alone) and see a set in memory without a copy of it. Elsewhere they are spawned.

    Images are handed over in slots that are used again: DataLoader maps new memory for every tensor, which costs more
    than to decode a fractal of 512 x 512. When a piece is taken, `_PREFETCH * num_workers` others may have been begun;
    the slot of the one after those is its own, and free, since the pieces of a batch are copied before the next is
    taken, for which there are `num_workers` slots more.
    """
    num_slots = _PREFETCH * num_workers + num_workers
    slots = _shared_slots(maker.slot_shape, -(-batch_size // num_workers), num_slots)
    parts = (_part(rows, worker, num_workers) for rows in batches for worker in range(num_workers))
    requests: Any = ((number % num_slots, rows) for number, rows in enumerate(parts))
    loader: DataLoader[Piece] = DataLoader(
        _Pieces(maker, slots),  # type: ignore[arg-type]  # __getitems__ is enough
        batch_sampler=requests,
        num_workers=num_workers,
        prefetch_factor=_PREFETCH,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        worker_init_fn=_start_worker,
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # it is handed one piece
        generator=torch.Generator(),  # or it would draw from the trainer's, from a thread
    )
    # Made in this thread, not the main one, it installs no SIGCHLD handler, which would raise in the caller's step.
    iterator: Any = iter(loader)
    slot = itertools.cycle(slots)
    try:
        while pieces := [_checked(piece) for piece in itertools.islice(iterator, num_workers)]:
            if slots:
                pieces = [piece._replace(images=next(slot)[: len(piece.labels)]) for piece in pieces]
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


def _part(rows: range, part: int, num_parts: int) -> range:
    """Part number `part` of a range of rows; parts differ in length by one at most."""
    return rows[len(rows) * part // num_parts : len(rows) * (part + 1) // num_parts]


def _shared_slots(shape: tuple[int, int, int] | None, num_rows: int, num_slots: int) -> list[Tensor]:
    """Memory that workers share, uint8 (num_rows, C, H, W) each; none where the shape of images is not known.

    Forked workers inherit anonymous memory, for which /dev/shm need not be large.
    """
    if shape is None:
        return []
    if sys.platform != "linux":
        return [torch.empty((num_rows, *shape), dtype=torch.uint8).share_memory_() for _ in range(num_slots)]
    memory = (mmap.mmap(-1, num_rows * prod(shape)) for _ in range(num_slots))
    return [torch.frombuffer(each, dtype=torch.uint8).view(num_rows, *shape) for each in memory]


def _as_it_is(piece: Piece) -> Piece:
    return piece


def _start_worker(worker: int) -> None:
    """Leave signals that come to all processes to the trainer, which still needs the batches of this step.

    Ctrl-C goes to the terminal's process group; SIGTERM, of systemd and of some batch systems, to each process.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # here, and in the threads that follow
        threading.Thread(target=_end_with_trainer, args=(os.getppid(),), daemon=True).start()
    forget_locks()
    torch.set_num_threads(1)


def _end_with_trainer(trainer: int) -> None:
    """End this process by the SIGTERM of the trainer, whose number is given; pass over those of others."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != trainer:
        pass
    os._exit(0)
