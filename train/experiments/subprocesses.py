"""Runs programs one after the other, passes signals on to them, and reports their failures."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fracgen.shards.errors import FracgenError, UsageError
from fracgen.train.cli import StopError

_FINISHED_KEPT = "what is finished is kept"
_RESUMABLE = f"{_FINISHED_KEPT}, and the same command goes on"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK_SECONDS = 10.0


class SubprocessError(FracgenError):
    """A program failed. It printed the reason on stderr itself; its exit code becomes ours."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class SubprocessRunner:
    """A context in which programs run, one at a time, and signals reach the program that runs.

    Each program has a process group of its own: a Ctrl-C in the terminal reaches it once, through this process. Twice
    would end it before its checkpoint is written. A signal while no program runs raises StopError at once.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._unsent: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._old_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in _SIGNALS:
            if signal.getsignal(each) != signal.SIG_IGN:  # nohup ignores SIGHUP, and it stays so
                self._old_handlers[each] = signal.signal(each, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for each, handler in self._old_handlers.items():
            signal.signal(each, handler)

    def run(self, argv: Sequence[str], title: str, *, tick: Callable[[], None] = lambda: None) -> None:
        """Run a program to its end and drop its stdout. title: for messages. tick: called every ten seconds.

        Raises StopError after a signal, SubprocessError for a program that failed.
        """
        self._raise_if_stopped(title)
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0)
        self._process = process
        self._send_signals()
        try:
            code = _wait(process, tick)
        finally:
            self._process = None
            if process.poll() is None:
                process.terminate()
        if code:
            self._raise_if_stopped(title)
            advice = _FINISHED_KEPT if code == UsageError.exit_code else _RESUMABLE
            raise SubprocessError(f"{title}: ended with exit code {code}; {advice}", code)

    def _raise_if_stopped(self, title: str) -> None:
        if self._received:
            raise StopError(f"stopped at {title}; the same command goes on", self._received[0])

    def _on_signal(self, number: int, frame: Any) -> None:
        self._received.append(number)
        if self._process is None:
            raise StopError("stopped; the same command goes on", number)
        self._unsent.append(number)
        self._send_signals()

    def _send_signals(self) -> None:
        while self._unsent and self._process is not None:
            number = self._unsent.pop(0)
            self._process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


def _wait(process: subprocess.Popen[bytes], tick: Callable[[], None]) -> int:
    """The exit code of a process as a shell reports it: 128 + the signal that ended it."""
    while True:
        try:
            code = process.wait(_TICK_SECONDS)
        except subprocess.TimeoutExpired:
            tick()
            continue
        return code if code >= 0 else 128 - code


def python_command(script: str, launcher: Sequence[str] = ()) -> list[str]:
    """The first words of a command line that runs train/SCRIPT.py, in this Python or by a launcher such as torchrun.

    The script is named by its path and not as a module: `python -m` would put the working directory, and a user's own
    train.py or data.py in it, before the libraries.
    Raises UsageError for a launcher that is not installed.
    """
    path = str(Path(__file__).parents[1] / f"{script}.py")
    if not launcher:
        return [sys.executable, path]
    program = shutil.which(launcher[0]) or shutil.which(launcher[0], path=str(Path(sys.executable).parent))
    if program is None:
        raise UsageError(f"--launcher {launcher[0]}: no such program")
    return [program, *launcher[1:], path]
