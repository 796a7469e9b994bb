"""An existing Dask cluster as an executor."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Executor

from shards.errors import DataError, UsageError

CONNECT_SECONDS = 10


@contextlib.contextmanager
def connect(address: str) -> Iterator[Executor]:
    """An executor on the cluster whose scheduler listens at `address`, as tcp://host:8786.

    Dask gives the shards of a worker that dies to another. Raises UsageError where the cluster cannot be reached,
    DataError where a shard has killed several workers.
    """
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise UsageError("--scheduler needs dask.distributed, which is not here: pip install 'fracgen[dask]'") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told in one line of ours
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # which errors there are depends on the protocol in the address
        raise UsageError(
            f"--scheduler {address}: no Dask scheduler can be reached there ({type(error).__name__}); "
            "`dask scheduler` prints its address, as tcp://host:8786"
        ) from None
    try:
        yield client.get_executor(pure=False)
    except KilledWorker as error:
        raise DataError(f"workers died, again and again, with the same shard ({error}); look at their logs") from error
    finally:
        with contextlib.suppress(Exception):  # a scheduler that has gone takes nothing with it
            client.close()
