"""Jobs beside each other on the cores of a CPU, each with one thread of torch's own.

Small products gain nothing from more threads, and lose much where others use the machine: on two shared cores, one
thread took images of 32 px through a small ViT at 96 a second, and two together at 23.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def beside(job: Callable[[int], T], count: int, threads: int) -> Iterator[T]:
    """What `job` makes of 0 to count - 1, in order; at most `threads` jobs at once, and as many waiting to be taken.

    What a job raises comes at its turn, and no other job is begun then.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "beside", initializer=torch.set_num_threads, initargs=(1,))
    ahead = deque[Future[T]]()
    try:
        for number in range(count):
            ahead.append(pool.submit(job, number))
            if len(ahead) >= 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
