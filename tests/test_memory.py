"""Memory of a CPU's steps."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import ctypes, resource, sys
from fracgen.train.memory import keep_freed
kept = keep_freed() if sys.argv[1] == "keep" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, size = ctypes.c_void_p, 80 << 20
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    ctypes.memset(block, 1, size)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults))  # a machine that is short of memory takes pages back in between
"""


def measure(word, **environment):
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    command = [sys.executable, "-c", FAULTS, word]
    kept, faults = subprocess.run(command, env=place, check=True, capture_output=True, text=True).stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_freed_blocks_are_found_again():
    kept, faults = measure("keep")
    assert kept and faults < 20, "of 80 MiB, which are 20,480 pages, or 40 huge ones"
    assert measure("keep", MALLOC_ARENA_MAX="2")[0] is False, "the user's word stands"
    assert measure("leave")[1] >= 30, "without it, such blocks come from the kernel each time"
