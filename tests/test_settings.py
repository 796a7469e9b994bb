"""The converter of settings, and command lines made of them."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from fracgen.cli.output import InterruptError
from fracgen.shards import commandline, settings
from fracgen.shards.commandline import LazyCommand, command_app, lazy_group, options_from
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.settings import Setting, check_settings, from_json, from_plain, load_settings, to_plain


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: Annotated[float, Setting("Learning rate.", above=0, panel="Optimiser")] = 1e-3
    name: Annotated[Literal["adamw", "sgd"], Setting("Optimiser.", panel="Optimiser")] = "adamw"
    betas: Annotated[tuple[float, float], Setting("Decay rates.", at_least=0, below=1)] = (0.9, 0.999)
    options: Annotated[Mapping[str, Any], Setting("More of timm's.", option="")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Run:
    optim: Optim = Optim(lr=0.01)
    steps: Annotated[int, Setting("Length of the run.", at_least=1, at_most=10**6)] = 100
    compile: Annotated[bool, Setting("Compile the model.")] = False
    shuffle: Annotated[bool, Setting("Shuffle the samples.")] = True
    blur: Annotated[tuple[float, ...] | None, Setting("Blurs.", at_least=0, default="derived")] = None
    out: Annotated[Path | None, Setting("Folder of the run.", identity=False, panel="Output")] = None
    log_every: Annotated[int, Setting("Steps between two lines.", option="--log", identity=False)] = 50

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 1}, "unknown key 'step', did you mean 'steps'?; there are optim, steps"),
        ({"optim": {"rl": 1}}, "unknown key 'optim.rl', did you mean 'lr'?"),
        ({"optim": 5}, "optim 5: must be a mapping"),
        ({"optim": {"lr": 0}}, "optim.lr 0.0: must be more than 0"),
        ({"optim": {"lr": float("nan")}}, "optim.lr nan: must be more than 0"),
        ({"optim": {"name": "adam"}}, "optim.name 'adam': must be one of adamw, sgd"),
        ({"optim": {"name": ["sgd"]}}, "must be one of adamw, sgd"),
        ({"optim": {"betas": 0.9}}, "optim.betas 0.9: must be 2 values"),
        ({"optim": {"betas": [0.9, 1]}}, "optim.betas 1.0: must be in [0, 1)"),
        ({"optim": {"options": [1]}}, "optim.options [1]: must be a mapping"),
        ({"steps": 0}, "steps 0: must be 1 to 1000000"),
        ({"steps": 4.0}, "steps 4.0: must be a whole number"),
        ({"steps": "4"}, "steps '4': must be a whole number"),
        ({"steps": True}, "steps True: must be a whole number"),
        ({"steps": None}, "steps None: must be a whole number"),
        ({"steps": np.float64(4)}, "steps 4.0: must be a whole number"),
        ({"compile": 1}, "compile 1: must be true or false"),
        ({"blur": "x"}, "blur 'x': must be a number"),
        ({"blur": 10**400}, "too large"),
        ({"out": 5}, "out 5: must be a path"),
        ({"out": "s3://bucket/x"}, "out 's3://bucket/x': is a URL"),
        ({"log-every": 1, "log_every": 1}, "given twice"),
    ],
)
def test_what_is_not_allowed_is_named(values, message):
    with pytest.raises(UsageError) as caught:
        from_plain(Run, values)
    assert message in str(caught.value) and type(caught.value) is UsageError


def test_numbers_of_numpy_are_pythons():
    run = Run(steps=np.int64(7), blur=np.array([1, 2]), compile=np.bool_(True), optim=Optim(lr=np.float32(0.5)))
    assert run == Run(steps=7, blur=(1.0, 2.0), compile=True, optim=Optim(lr=0.5))
    assert [type(value) for value in (run.steps, run.blur[0], run.compile, run.optim.lr)] == [int, float, bool, float]
    assert Run(blur=[1, 2]).blur == (1.0, 2.0) and Run(blur=3).blur == (3.0,)
    assert str(Optim(lr=1).lr) == "1.0" and str(Run(blur=-0.0).blur) == "(0.0,)"
    with pytest.raises(UsageError, match="steps 0: must be 1 to"):
        Run(steps=0)


def test_plain_values_lead_back():
    run = Run(steps=5, out=Path("a"), blur=(1.0,), optim=Optim(lr=0.5, options={"x": (1, 2)}))
    assert to_plain(run)["optim"] == {"lr": 0.5, "name": "adamw", "betas": [0.9, 0.999], "options": {"x": [1, 2]}}
    assert settings.parse_yaml(settings.to_yaml(to_plain(run)), "x") == to_plain(run)
    again = from_plain(Run, to_plain(run))
    assert to_plain(again) == to_plain(run) and from_plain(Run, {"log-every": 7}).log_every == 7


def test_our_json_may_be_newer():
    assert from_json(Run, {"steps": 3, "later": 1, "optim": {"lr": 1, "later": 2}}) == Run(steps=3, optim=Optim(lr=1))
    for values, message in [({"steps": "3"}, r"steps '3'"), ([], "must be a mapping"), ({"blur": 1}, "must be a list")]:
        with pytest.raises(TypeError, match=message):
            from_json(Run, values)


def test_defaults_then_file_then_options_then_overrides(tmp_path):
    (tmp_path / "r.yaml").write_text("steps: 1\nlog_every: 1\noptim: {name: sgd}\n")
    run = load_settings(Run, str(tmp_path / "r.yaml"), {"log_every": 2, "steps": 2}, ["steps=3", "optim.options.a=[1]"])
    assert run == Run(steps=3, log_every=2, optim=Optim(lr=0.01, name="sgd", options={"a": [1]}))
    assert load_settings(Run, None, {}) == Run()
    for overrides, message in [(["steps"], "an override is NAME=VALUE"), (["steps.x=1"], "steps 1|steps {'x': 1}")]:
        with pytest.raises(UsageError, match=message):
            load_settings(Run, None, {}, overrides)
    (tmp_path / "r.yaml").write_text("step: 1\n")
    with pytest.raises(UsageError, match=r"r\.yaml: unknown key 'step'"):
        load_settings(Run, str(tmp_path / "r.yaml"), {})


def test_an_error_names_the_file_where_that_is_at_fault(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("optim: {lr: fast}\n")
    for options, overrides in (({}, ()), ({"steps": 3}, ()), ({}, ["steps=3"])):
        with pytest.raises(UsageError, match=r"r\.yaml: optim\.lr 'fast': must be a number"):
            load_settings(Run, str(path), options, overrides)
    path.write_text("steps: 1\n")
    for options, overrides in (({"optim.lr": "fast"}, ()), ({}, ["optim.lr=fast"])):
        with pytest.raises(UsageError, match=r"^optim\.lr 'fast': must be a number"):
            load_settings(Run, str(path), options, overrides)


def test_names_may_be_spelt_with_dashes_anywhere(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("log-every: 3\noptim: {options: {a-b: 1}}\n")
    run = load_settings(Run, str(path), {"optim.lr": 0.5})
    assert run == Run(log_every=3, optim=Optim(lr=0.5, options={"a-b": 1})), "keys that are no settings stay"
    assert load_settings(Run, str(path), {"log_every": 4}).log_every == 4
    assert load_settings(Run, str(path), {}, ["log-every=5"]).log_every == 5
    path.write_text("log-every: 3\nlog_every: 3\n")
    with pytest.raises(UsageError, match=r"r\.yaml: key log_every is given twice"):
        load_settings(Run, str(path), {})


def test_only_what_identifies_a_run_differs():
    old, new = to_plain(Run(out=Path("a"))), to_plain(Run(steps=5, log_every=3, optim=Optim(lr=0.01, name="sgd")))
    assert settings.differences(Run, old, new) == ["optim.name sgd, was adamw", "steps 5, was 100"]
    assert settings.differences(Run, old, {**new, "later": {"x": 1}})[0] == "later.x 1, was None"
    before = {name: value for name, value in old.items() if name != "steps"}
    assert settings.differences(Run, before, old) == [], "a version without this setting did as its default says"
    assert settings.differences(Run, before, new)[1] == "steps 5, was 100"


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases repeat values too often"),
        ("a: &a {b: *a}", "an alias that holds itself"),
        ("[" * 100 + "]" * 100, "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("".join(f"k{number}: 1\n" for number in range(60_000)), "more than 10,000 keys and values"),
        ("[" + "0," * 400_000, "more than 10,000 keys and values"),
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("{[1]: 2}", "not YAML"),
    ],
)
def test_yaml_that_would_grow_is_refused(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        settings.parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith("x.yaml: ")


@pytest.mark.parametrize("text", ["1e5", "7e-2", "+1e5", "1_0", "010", "12:30", ".5", "0x10", "yes", "~", "", "a: b"])
def test_text_like_a_number_stays_text(text):
    """A folder may be called 1e5; read back as a number it was no path."""
    values = {text: {"path": text}, "numbers": [1e-5, 1e22, 5, 0.1]}
    assert settings.parse_yaml(settings.to_yaml(values), "x") == values


def test_large_yaml_of_plain_values_is_read():
    values = {f"k{number}": [number] for number in range(3_000)}
    assert settings.parse_yaml(settings.to_yaml(values), "x") == values


def test_a_table_says_what_the_help_says():
    table = settings.markdown_table(Run)
    assert "| `--lr` | more than 0 | `0.01` | Learning rate. |" in table
    assert "| `--name` | adamw, sgd | `adamw` | Optimiser. |" in table
    assert "| `--blur` | at least 0 | derived | Blurs. |" in table and "options" not in table
    assert "| `optim.betas` | in [0, 1) | `0.9, 0.999` |" in settings.markdown_table(Run, options=False)


@options_from(Run)
def train(option_values: dict[str, Any]) -> None:
    """Train a model.

    More of it.
    """
    print(to_plain(load_settings(Run, None, option_values)), sorted(option_values))


def call(capsys, *words, app=None, **options):
    code = commandline.main(app or command_app(train), "train", [str(word) for word in words], **options)
    return code, *capsys.readouterr()


def test_options_are_made_of_fields(capsys):
    words = ["--lr", 1, "--name", "sgd", "--betas", 0, 0.5, "--steps", 3, "--compile", "--no-shuffle"]
    words += ["--blur", 1, "--blur", 2, "--out", "x", "--log", 3]
    code, out, err = call(capsys, *words)
    optim = {"lr": 1.0, "name": "sgd", "betas": [0.0, 0.5], "options": {}}
    values = {"optim": optim, "steps": 3, "compile": True, "shuffle": False, "blur": [1.0, 2.0], "out": "x"}
    assert (code, err) == (0, "") and out.startswith(str({**values, "log_every": 3}))
    assert call(capsys)[1].endswith("[]\n"), "what is not typed is not given"


def test_help_is_grouped_and_says_range_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    code, out, err = call(capsys, "--help")
    assert (code, err) == (0, "") and "Train a model.\n\n  More of it." in out
    optimiser, output = out.split("Optimiser:\n")[1].split("\n\n")[0], out.split("Output:\n")[1].split("\n\n")[0]
    assert "--lr <float>" in optimiser and "Learning rate.  [more than 0; default: 0.01]" in optimiser
    assert "--name <adamw|sgd>" in optimiser and "--out <path>" in output
    assert "--betas <float> <float>" in out and "[in [0, 1); default: 0.9, 0.999]" in out
    assert "--compile  " in out and "--shuffle / --no-shuffle" in out and "[at least 0; default: derived]" in out
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, call(capsys, "--help")[1].splitlines())) <= 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", 0], "--lr 0.0: must be more than 0"),
        (["--lr", "x"], "--lr 'x': must be a number"),
        (["--steps", "4.0"], "--steps '4.0': must be a whole number"),
        (["--name", "adam"], "--name 'adam': must be one of adamw, sgd"),
        (["--betas", 0.5, 2], "--betas 2.0: must be in [0, 1)"),
        (["--out", "gs://x/y"], "--out 'gs://x/y': is a URL"),
        (["--out", "a\0b"], "must hold no NUL character"),
        (["--nonsense"], "--nonsense"),
        (["word"], "word"),
    ],
)
def test_words_that_are_not_allowed_are_one_line(capsys, words, message):
    code, out, err = call(capsys, *words)
    assert (code, out) == (2, "") and err.startswith("train: ") and err.count("\n") == 1 and message in err


def caused_by(message):
    """The error of a library's loader that says nothing of memory, as llvmlite's; what it meant lies behind it."""
    error = OSError("could not find the library")
    error.__context__ = OSError(message)
    return error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("a\nb \x1b[2J"), 1, "a b \\x1b[2J"),
        (UsageError("no"), 2, "no"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory; lower --batch-size"),
        (RuntimeError("can't start new thread"), 1, "out of memory; lower --batch-size"),
        (OSError(12, "Cannot allocate memory"), 1, "out of memory; lower --batch-size"),
        (ImportError("libx.so: failed to map segment from shared object"), 1, "out of memory; lower --batch-size"),
        (caused_by("x.so: failed to map segment"), 1, "out of memory; lower --batch-size"),
        (RuntimeError("gloo"), 1, "a process has gone"),
        (OSError(28, "No space left on device", "x"), 1, "x: No space left on device"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(capsys, error, code, message):
    def fail() -> None:
        raise error

    shown = call(
        capsys,
        app=command_app(fail),
        explain=lambda error: "a process has gone" if "gloo" in str(error) else None,
        memory_hint="lower --batch-size",
        process_name=lambda: " (rank 1)",
    )
    assert shown == (code, "", f"train (rank 1): {message}\n")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ImportError("a bug")])
def test_bugs_are_not_hidden(capsys, error):
    def fail() -> None:
        raise error

    with pytest.raises(type(error), match="a bug"):
        call(capsys, app=command_app(fail))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InterruptError("interrupted; nothing was written")])
def test_an_interrupt_by_a_library_that_got_no_thread_is_memory(capsys, monkeypatch, error):
    """OpenBLAS sends this process SIGINT where it cannot start its threads."""

    def fail() -> None:
        raise error

    def start(thread):
        raise RuntimeError("can't start new thread")

    assert call(capsys, app=command_app(fail))[0] == 130
    monkeypatch.setattr("threading.Thread.start", start)
    assert call(capsys, app=command_app(fail)) == (1, "", "train: out of memory; lower --size, --points or --workers\n")


def test_a_second_interrupt_while_the_first_clears_away_says_nothing(capsys):
    def numbers():
        try:
            yield 1
        finally:
            raise KeyboardInterrupt

    def fail() -> None:
        iterator = numbers()
        next(iterator)
        del iterator  # the system tells of an exception here by sys.unraisablehook
        raise KeyboardInterrupt

    assert call(capsys, app=command_app(fail)) == (130, "", "train: interrupted\n")


@pytest.mark.parametrize("is_busy", [False, True])
def test_an_interrupt_while_an_object_is_destroyed_is_not_lost(is_busy, capsys, monkeypatch):
    destroyed, started = [], []

    class SlowTimer(threading.Timer):
        def start(self):
            super().start()
            started.append(self)
            if is_busy and len(started) == 1:
                time.sleep(0.5)  # so that it goes off before the hook has ended

    class Interrupted:
        def __del__(self):
            destroyed.append(self.__class__)
            raise KeyboardInterrupt  # the system drops it

    def work() -> None:
        Interrupted()
        assert destroyed
        for _ in range(3000):
            time.sleep(0.01)

    monkeypatch.setattr("threading.Timer", SlowTimer)
    assert call(capsys, app=command_app(work)) == (130, "", "train: interrupted\n")
    assert len(started) >= 1 + is_busy


def test_streams_that_are_closed_or_lack_letters(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    monkeypatch.setattr(sys, "stderr", None)

    def show() -> None:
        print("84 ± 1, ü")
        print("progress", file=sys.stderr)

    assert commandline.main(command_app(show), "train", []) == 0
    assert raw.getvalue() == b"84 \\xb1 1, \\xfc\n"


def test_a_reader_that_goes_is_no_traceback(tmp_path):
    code = (
        "import sys\nfrom fracgen.shards.commandline import command_app, main\n"
        "def show() -> None:\n    for number in range(100_000):\n        print(number)\n"
        "sys.exit(main(command_app(show), 'show', []))"
    )
    command = f'{sys.executable} -c "$CODE" | head -1; echo ${{PIPESTATUS[0]}}'
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "CODE": code})
    assert (shown.stdout, shown.stderr) == ("0\n1\n", "")


def test_a_group_imports_what_runs(capsys, monkeypatch):
    commands = {
        "train": LazyCommand(f"{__name__}:train", "Train a model, and say so in more words than a list usually shows."),
        "absent": LazyCommand("no_such_module:app", "Nothing.", "Others"),
    }
    app = lazy_group(commands, "What there is.")
    monkeypatch.setenv("COLUMNS", "120")
    for words in ([], ["--help"]):
        code, out, _ = call(capsys, *words, app=app)
        assert code == 0 and "What there is." in out and commands["train"].summary in out and "Others:" in out
    assert call(capsys, "train", "--steps", 5, app=app)[0] == 0
    assert call(capsys, "train", "--nonsense", app=app)[2].endswith("('train train --help' lists what there is)\n")
    assert call(capsys, "trian", app=app)[0] == 2
