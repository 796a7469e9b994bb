"""What conftest's `fork_program` starts; a module of its own, as the fork imports it, and conftest imports much."""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path


def run_program(script: Path, arguments: list[str], environment: dict[str, str], output: Path) -> None:
    """Run a script in its folder as a program: stdout and stderr are added to the file `output`.

    environment: all variables, OMP_NUM_THREADS among them. Signals that the fork server blocks are let through.
    Raises SystemExit as the script does.
    """
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(script.parent)
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")
