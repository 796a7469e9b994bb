"""Programs of ours started as forks of a process that has imported what they need: seconds of imports less for each.

The forks are those of multiprocessing's fork server, which runs nothing but imports, and has no threads and no GPU.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from fracgen.shards.errors import DataError

TRAIN = Path(__file__).parents[1]
_SCRIPTS = ("pretrain", "mae", "dyck", "finetune")
PRELOADED = (
    "torch",
    "timm",
    *(f"fracgen.train.{script}" for script in _SCRIPTS),
    *(f"fracgen.train.augment.{name}" for name in ("device", "evaluation", "inputs")),
    *(f"fracgen.train.data.{name}" for name in ("loader", "opening", "splits")),
    *(f"fracgen.train.engine.{name}" for name in ("best_weights", "build", "closed_form", "losses", "trainer")),
    "matplotlib.backends.backend_agg",
)
_ENVIRONMENT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "PYTHONSAFEPATH": "1"}
"""A look whether there is a GPU, should an import take one, leaves it usable in forks; and the server imports nothing
from the working directory."""
_BLOCKED = (signal.SIGTERM, signal.SIGHUP)
"""Signals to all of a terminal or batch job, which the server outlives: it hands on the exit codes of its forks."""


def find_script(argv: Sequence[str]) -> str | None:
    """Name of the script in train/ that a command line runs by this Python, if it can be forked."""
    path = Path(argv[1])
    is_ours = argv[0] == sys.executable and path.parent == TRAIN and path.stem in _SCRIPTS
    return path.stem if is_ours else None


class ForkedProgram:
    """A program that runs: what SubprocessRunner needs of `subprocess.Popen`."""

    def __init__(self, script: str, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start train/SCRIPT.py with the words in `argv`, in a process group of its own.

        log: its stderr is appended there. environment: of the server, which the first program starts.
        Raises DataError where the server has been killed, as for want of memory; an EOFError would read "interrupted".
        """
        start_server(environment)
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_run, args=(script, list(argv), str(log)))
        try:
            self._process.start()
        except (EOFError, ConnectionError) as error:
            raise DataError("the process that programs start from was killed; the same command goes on") from error

    def poll(self) -> int | None:
        """Its exit code, -N where signal N ended it; None while it runs."""
        return self._process.exitcode

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.join()

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self._process.exitcode is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, if it runs."""
        self.send_signal(signal.SIGTERM)


def start_server(environment: Mapping[str, str]) -> None:
    """Start the server, with variables of its own, unless it runs."""
    forkserver.set_forkserver_preload(list(PRELOADED))
    resource_tracker.ensure_running()  # by the server it would be started with signals blocked, and unblock ours
    ours = dict(os.environ)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    os.environ.update({**environment, **_ENVIRONMENT})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(ours)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _run(script: str, argv: list[str], log: str) -> None:
    """Become the program. Its exit code is that of the process."""
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
    # As in a program of its own. Locks of the method "forkserver" have names, and outlive a process that a signal ends.
    multiprocessing.set_start_method(None, force=True)
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    null = os.open(os.devnull, os.O_RDWR)
    stderr = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for target, source in enumerate((null, null, stderr)):
        os.dup2(source, target)
    sys.exit(importlib.import_module(f"fracgen.train.{script}").run(argv))


def _stop_when_alone() -> None:
    """Stop this process, which keeps its checkpoint, when the one that started it has gone, killed or not."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
