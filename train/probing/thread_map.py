"""Maps a function over items by threads of Python's, in each of which torch uses one thread.

Small matrix products gain nothing from more threads of torch's, and lose much where other programs use the machine: on
two shared cores, one thread took images of 32 px through a small ViT at 96 a second, and two of torch's at 23.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def thread_map(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`function` of each item, in order, by `threads` threads; at most twice as many items are taken ahead.

    An exception of `function` is raised at its item's turn, and no further item is begun.
    """
    threads_before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "thread_map", initializer=torch.set_num_threads, initargs=(1,))
    pending = deque[Future[R]]()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)
