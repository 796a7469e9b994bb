"""Programs that a command starts one after the other: signals are passed on to them, and their failures told."""

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

_KEPT = "what is finished is kept"
_GOES_ON = f"{_KEPT}, and the same command goes on"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK_SECONDS = 10.0


class ChildError(FracgenError):
    """A program ended badly. It said why on stderr, and its exit code is kept."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class Children:
    """A context in which programs run, one at a time.

    Each has a process group of its own, so that a Ctrl-C reaches it once, through this one: a second signal would stop
    it before it has saved. A signal while none runs raises StopError at once.
    """

    def __init__(self) -> None:
        self._asked: list[int] = []
        self._pending: list[int] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in _SIGNALS:
            if signal.getsignal(each) != signal.SIG_IGN:  # nohup's word stands
                self._before[each] = signal.signal(each, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def run(self, words: Sequence[str], doing: str, *, tick: Callable[[], None] = lambda: None) -> None:
        """Run a program to its end; what it prints on stdout is dropped. tick: called every ten seconds meanwhile.

        Raises StopError where a signal stopped it, ChildError where it failed.
        """
        self._check(doing)
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0)
        self._child = child
        self._pass_on()
        try:
            code = _wait(child, tick)
        finally:
            self._child = None
            if child.poll() is None:
                child.terminate()
        if code:
            self._check(doing)
            goes_on = _KEPT if code == UsageError.exit_code else _GOES_ON
            raise ChildError(f"{doing}: ended with exit code {code}; {goes_on}", code)

    def _check(self, doing: str) -> None:
        if self._asked:
            raise StopError(f"stopped at {doing}; the same command goes on", self._asked[0])

    def _ask(self, number: int, frame: Any) -> None:
        self._asked.append(number)
        if self._child is None:
            raise StopError("stopped; the same command goes on", number)
        self._pending.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._pending and self._child is not None:
            number = self._pending.pop(0)
            self._child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


def _wait(child: subprocess.Popen[bytes], tick: Callable[[], None]) -> int:
    """The exit code as a shell tells it."""
    while True:
        try:
            code = child.wait(_TICK_SECONDS)
        except subprocess.TimeoutExpired:
            tick()
            continue
        return code if code >= 0 else 128 - code


def python(script: str, launcher: Sequence[str] = ()) -> list[str]:
    """The words that start a protocol: by this Python, or by a launcher of several processes, such as torchrun.

    Raises UsageError for a launcher that is not there.
    """
    path = str(Path(__file__).parents[1] / f"{script}.py")
    if not launcher:
        return [sys.executable, path]
    found = shutil.which(launcher[0]) or shutil.which(launcher[0], path=str(Path(sys.executable).parent))
    if found is None:
        raise UsageError(f"--launcher {launcher[0]}: no such program")
    return [found, *launcher[1:], path]
