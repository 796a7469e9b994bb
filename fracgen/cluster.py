"""An existing Dask cluster as an executor."""

import contextlib
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, InvalidStateError
from typing import Any

from fracgen.shards.errors import DataError, FracgenError, UsageError

CONNECT_SECONDS = 10
PATIENCE_SECONDS = 300
"""How long a cluster may be without a worker, at the start too, before a run gives up."""
_LOOK_SECONDS, _WARN_SECONDS = 1, 4


@contextlib.contextmanager
def connect(address: str, *, patience: float = PATIENCE_SECONDS) -> Iterator[Executor]:
    """An executor on the cluster whose scheduler listens at `address`, as tcp://host:8786.

    Dask gives the shards of a worker that dies to another. Raises UsageError where the cluster cannot be reached,
    DataError where a shard has killed several workers, or where there has been no worker for `patience` seconds.
    """
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise UsageError("--scheduler needs dask.distributed, which is not here: pip install 'fracgen[dask]'") from None
    if not re.fullmatch(r"\w+://\S+|[^\s:/]+:\d+", address):
        raise UsageError(f"--scheduler {address!r}: no address; `dask scheduler` prints one, as tcp://host:8786")
    for name in [name for name in logging.root.manager.loggerDict if name.startswith(("distributed", "tornado"))]:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # errors become one line of ours
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # which errors there are depends on the protocol in the address
        raise UsageError(
            f"--scheduler {address}: no Dask scheduler can be reached there ({type(error).__name__}); "
            "`dask scheduler` prints its address, as tcp://host:8786"
        ) from None
    try:
        for worker, failed in client.run(exec, "from fracgen import render_shards", on_error="return").items():
            if failed is not None:
                raise UsageError(f"worker {worker} cannot import fracgen ({failed}); install it there, too")
    except BaseException:
        client.close(timeout=CONNECT_SECONDS)
        raise
    executor = _Watched(client.get_executor(pure=False), lambda: len(client.nthreads()), patience)
    try:
        yield executor
    except KilledWorker as error:
        raise DataError(
            f"{address}: workers died one after the other with the same shard ({error}); their logs say why; "
            "the finished shards are kept, run the same again"
        ) from error
    finally:
        executor.shutdown(wait=False)
        with contextlib.suppress(Exception):  # a scheduler that has gone takes nothing with it
            client.close(timeout=CONNECT_SECONDS)


class _Watched(Executor):
    """An executor whose work fails, rather than waits, when its cluster has had no worker for long."""

    def __init__(self, executor: Executor, count_workers: Callable[[], int], patience: float) -> None:
        self._executor, self._count_workers, self._patience = executor, count_workers, patience
        self._pending: dict[Future[Any], Future[Any]] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Hand a call to the cluster."""
        inner, outer = self._executor.submit(function, *arguments, **named), Future[Any]()
        self._pending[outer] = inner
        outer.add_done_callback(self._forget)
        inner.add_done_callback(lambda done: _pass_on(done, outer))
        return outer

    def _forget(self, outer: Future[Any]) -> None:
        self._pending.pop(outer).cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop the thread that looks for workers."""
        self._stopped.set()

    def _watch(self) -> None:
        alone_since: float | None = None
        is_announced = False
        while not self._stopped.wait(_LOOK_SECONDS):
            with contextlib.suppress(Exception):  # the scheduler is busy, or has gone: then the work fails by itself
                if not self._pending or self._count_workers():
                    alone_since, is_announced = None, False
                    continue
                now = time.monotonic()
                alone_since = now if alone_since is None else alone_since
                if not is_announced and now - alone_since >= min(_WARN_SECONDS, self._patience):
                    is_announced = True
                    message = f"the cluster has no workers; waiting {self._patience:g} s for some"
                    print(f"fracgen: {message}", file=sys.stderr)
                if now - alone_since > self._patience:
                    self._fail()
                    return

    def _fail(self) -> None:
        error = DataError(
            f"the cluster has had no workers for {self._patience:g} s; the finished shards are kept, "
            "start some and run the same again (where they left, their logs say why)"
        )
        for future in list(self._pending):
            with contextlib.suppress(InvalidStateError):  # done meanwhile
                future.set_exception(error)


def _pass_on(done: Future[Any], outer: Future[Any]) -> None:
    """Give the outcome of one future to another, if that still waits."""
    with contextlib.suppress(InvalidStateError):
        if done.cancelled():
            outer.set_exception(CancelledError())
        elif error := done.exception():
            has_message = (
                isinstance(error, FracgenError | OSError | BrokenExecutor) or type(error).__name__ == "KilledWorker"
            )
            outer.set_exception(
                error if has_message else DataError(f"a worker failed ({type(error).__name__}: {error})")
            )
        else:
            outer.set_result(done.result())
