"""Programs that run several at a time, each after those that it needs; signals passed on to them, failures reported."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from fracgen.shards.errors import FracgenError, UsageError, printable
from fracgen.shards.files import num_cores
from fracgen.shards.settings import Setting
from fracgen.train.cli import StopError, say
from fracgen.train.experiments.fork_server import TRAIN, ForkedProgram, find_script

_FINISHED_KEPT = "what is finished is kept"
_RESUMABLE = f"{_FINISHED_KEPT}, and the same command goes on"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_SECONDS = 0.05
_SHOWN_LINES = 5
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")

Jobs = Annotated[
    int,
    Setting(
        "Programs that run at a time, each on an equal part of the cores. The results are the same, but for the last "
        "bits of a CPU's sums, which depend on its threads.",
        at_least=1,
        panel="Machine",
    ),
]
Launcher = Annotated[
    str,
    Setting(
        "Program that starts each training, such as 'torchrun --nproc-per-node 8'.",
        default="this Python",
        panel="Machine",
    ),
]
KeepGoing = Annotated[bool, Setting("After a failure, go on with all that does not need what failed.", panel="Machine")]


class SubprocessError(FracgenError):
    """A program failed. It printed the reason on stderr itself; its exit code becomes ours."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


Program = subprocess.Popen[bytes] | ForkedProgram


@dataclass(kw_only=True, eq=False)
class Task:
    """A program to run. label, number: as in "run" and "3 of 12". title: in words. after: the tasks that come before.

    command: returns the words of its command line, None where there is nothing to do; called when all of `after` have
    ended. end: takes the seconds that it ran, and whether it ended well.
    log: the file that its stderr is appended to, where several programs run at a time.
    """

    title: str
    label: str
    number: str
    log: Path
    command: Callable[[], Sequence[str] | None]
    end: Callable[[float, bool], None]
    after: Sequence["Task"] = ()


@dataclass(kw_only=True, eq=False)
class _Child:
    """A program that runs."""

    task: Task
    process: Program
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began


class SubprocessRunner:
    """A context in which programs run, `jobs` at a time, and signals reach all of them.

    Each program has a process group of its own: a Ctrl-C in the terminal reaches it once, through this process. Twice
    would end it before its checkpoint is written. A signal while no program runs raises StopError at once.
    One program at a time shows its stderr. That of several goes to their logs, each has an equal part of the cores, and
    those of ours in this Python are forks (see `fork_server`).
    """

    def __init__(self, jobs: int = 1, *, keep_going: bool = False) -> None:
        """keep_going: after a failure, run all that does not need what failed."""
        self.jobs, self._keep_going = jobs, keep_going
        self.threads = max(1, num_cores() // jobs)
        self._received: list[int] = []
        self._num_passed_on = 0
        self._children: list[_Child] = []
        self._is_starting = False
        self._failures: list[SubprocessError] = []
        self._old_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in _SIGNALS:
            if signal.getsignal(each) != signal.SIG_IGN:  # nohup ignores SIGHUP, and it stays so
                self._old_handlers[each] = signal.signal(each, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for each, handler in self._old_handlers.items():
            signal.signal(each, handler)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run all tasks that have something to do, in their order as far as those before them have ended.

        After a failure the programs that run are stopped, which keep a checkpoint, unless they are to go on.
        Raises StopError after a signal, SubprocessError for a program that failed.
        """
        waiting, ended = list(tasks), set[Task]()
        self._failures.clear()
        try:
            while True:
                while self._may_start() and (task := _first_ready(waiting, ended)):
                    waiting.remove(task)
                    if not self._try_start(task):
                        ended.add(task)
                if not self._children:
                    break
                time.sleep(_POLL_SECONDS)
                self._pass_signals_on()
                ended.update(self._take_ended())
        except BaseException:
            self._stop_all()
            raise
        left = [task for task in tasks if task not in ended]
        if self._received and left:
            raise StopError(f"stopped at {left[0].title}; the same command goes on", self._received[0])
        if self._failures:
            more = f"; {len(self._failures) - 1} more failed" if len(self._failures) > 1 else ""
            raise SubprocessError(f"{self._failures[0]}{more}", self._failures[0].exit_code)

    def _may_start(self) -> bool:
        failed = bool(self._failures) and not self._keep_going
        return not self._received and not failed and len(self._children) < self.jobs

    def _try_start(self, task: Task) -> bool:
        """Whether the task has something to do; if so its program runs, or has failed."""
        try:
            argv = task.command()
        except FracgenError as error:
            self._fail(task, str(error), error.exit_code)
            return True
        if argv is None:
            return False
        if self.jobs == 1:
            say({task.label: f"{task.number}: {task.title}"})
        self._is_starting = True
        try:
            self._children.append(_Child(task=task, process=self.start_process(argv, task.log)))
        finally:
            self._is_starting = False
        return True

    def start_process(self, argv: Sequence[str], log: Path) -> Program:
        """Start a program, whose stdout is dropped, in a process group of its own."""
        nothing = subprocess.DEVNULL
        if self.jobs == 1:
            return subprocess.Popen(argv, stdin=nothing, stdout=nothing, process_group=0)
        own = {name: str(self.threads) for name in _THREAD_VARIABLES if name not in os.environ}
        log.parent.mkdir(parents=True, exist_ok=True)
        if script := find_script(argv):
            return ForkedProgram(script, argv[2:], log, own)
        with log.open("ab") as stderr:
            environment = {**os.environ, **own}
            return subprocess.Popen(
                argv, stdin=nothing, stdout=nothing, stderr=stderr, process_group=0, env=environment
            )

    def _take_ended(self) -> list[Task]:
        """The tasks that have ended well, of the programs that are no longer there; failures are taken note of."""
        codes = {child: child.process.poll() for child in self._children}
        self._children = [child for child, code in codes.items() if code is None]
        return [child.task for child, code in codes.items() if code is not None and self._ended_well(child, code)]

    def _ended_well(self, child: _Child, code: int) -> bool:
        task, seconds = child.task, child.seconds
        try:
            task.end(seconds, code == 0)
        except FracgenError as error:
            self._fail(task, str(error), error.exit_code)
            return False
        if code == 0 and self.jobs > 1:
            say({task.label: f"{task.number}: {task.title}, {seconds:.0f} s"})
        elif code and not self._received and (self._keep_going or not self._failures):
            code = code if code > 0 else 128 - code  # as a shell says it
            advice = _FINISHED_KEPT if code == UsageError.exit_code else _RESUMABLE
            self._fail(task, f"ended with exit code {code}; {advice}", code)
        return code == 0

    def _fail(self, task: Task, reason: str, code: int) -> None:
        self._failures.append(SubprocessError(f"{task.title}: {reason}", code))
        if self.jobs > 1:
            print("\n".join([f"{task.title} failed:", *_last_lines(task.log)]), file=sys.stderr, flush=True)
        if not self._keep_going:
            for child in self._children:
                child.process.terminate()

    def _stop_all(self) -> None:
        """Stop all programs, and wait until they have ended."""
        for child in self._children:
            child.process.terminate()
        for child in self._children:
            child.process.wait()
            child.task.end(child.seconds, False)
        self._children.clear()

    def _on_signal(self, number: int, frame: Any) -> None:
        self._received.append(number)
        if not self._children and not self._is_starting:
            raise StopError("stopped; the same command goes on", number)

    def _pass_signals_on(self) -> None:
        new, self._num_passed_on = self._received[self._num_passed_on :], len(self._received)
        for number in new:
            for child in self._children:
                child.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


def _first_ready(waiting: Sequence[Task], ended: set[Task]) -> Task | None:
    return next((task for task in waiting if ended.issuperset(task.after)), None)


def _last_lines(path: Path) -> list[str]:
    """The last lines of a log, without control characters."""
    try:
        lines = path.read_text("utf-8", errors="replace").strip().splitlines()
    except OSError:
        return []
    return [f"  {printable(line.strip())}" for line in lines[-_SHOWN_LINES:]]


def python_command(script: str, launcher: Sequence[str] = ()) -> list[str]:
    """The first words of a command line that runs train/SCRIPT.py, in this Python or by a launcher such as torchrun.

    The script is named by its path and not as a module: `python -m` would put the working directory, and a user's own
    train.py or data.py in it, before the libraries.
    Raises UsageError for a launcher that is not installed.
    """
    path = str(TRAIN / f"{script}.py")
    if not launcher:
        return [sys.executable, path]
    program = shutil.which(launcher[0]) or shutil.which(launcher[0], path=str(Path(sys.executable).parent))
    if program is None:
        raise UsageError(f"--launcher {launcher[0]}: no such program")
    return [program, *launcher[1:], path]
