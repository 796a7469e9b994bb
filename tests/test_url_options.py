"""Every option and argument of every command is given a URL: one line, no secret, and never a folder of that name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from fracgen.cli.app import PROGRAMS, app, run

SECRET = "s3cr3t"
URL = f"nosuch://user:{SECRET}@bucket/x?token={SECRET}"
"""Of a protocol that nobody knows, so that no command waits for a server."""
SUITE = str(Path(__file__).parents[1] / "examples" / "suite-cifar10.yaml")
STUDY = str(Path(__file__).parents[1] / "examples" / "ablations" / "delta.yaml")
BASE = {  # words with which a command gets as far as it does without a URL, and no further than it must
    "photo": ["picture.png"],
    "merge": ["set"],
    "pack": ["images"],
    "inspect": ["set"],
    "verify": ["set"],
    "score": ["set"],
    "preview": ["set", "--out", "sheet.png"],
    "explore": ["--no-open"],
    "draw": ["a.csv"],
    "export": ["set", "--to", "parquet"],
    "publish": ["set", "memory://published", "--dry-run"],
    "pretrain": ["--shards", "set", "--out", "run", "--device", "cpu", "--steps", "1"],
    "mae": ["--shards", "set", "--out", "run", "--device", "cpu", "--steps", "1"],
    "dyck": ["--out", "run", "--device", "cpu", "--steps", "1"],
    "finetune": ["--data", "images", "--out", "run", "--device", "cpu", "--steps", "1"],
    "probe": ["--data", "images", "--checkpoint", "absent", "--out", "probe", "--device", "cpu"],
    "compare": ["--data", "images", "--start", "a=none", "--out", "compare", "--model", "nosuch"],
    "suite": [SUITE, "--data", "cifar10-1k=images", "--start", "a=none", "--out", "suite", "--model", "nosuch"],
    "study": [STUDY, "--data", "images", "--out", "study"],
    "search": ["--out", "base.csv"],
    "render": ["--only", "0/0"],
    "perturb": ["--only", "0/0"],
    "baseline fractaldb": ["--only", "0/0"],
    "baseline ofdb": ["--only", "0/0"],
    "baseline visualatom": ["--only", "0/0"],
    "baseline rcdb": ["--only", "0/0"],
    "baseline exfractaldb": ["--only", "0/0"],
    "baseline multifractal": ["--only", "0/0"],
    "baseline noise": ["--only", "0/0"],
}
PLACES = ("path", "yaml", "dir", "source", "image", "folder", "url", "where", "suite")
"""In the metavar of what is a place, where its type is text."""
PLACE_NAMES = ("--shards", "--data", "--val", "--test", "--root", "--checkpoint")


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    if hasattr(command, "list_commands"):
        context = command.make_context(name, [], resilient_parsing=True)
        for each in command.list_commands(context):
            yield from commands(command.get_command(context, each), f"{name} {each}".strip())
    else:
        yield name, command


def texts() -> Iterator[Any]:
    """(command, option or "" for an argument, its number among the arguments, whether it is a place)."""
    for name, command in commands(typer.main.get_command(app)):
        number = 0
        for param in command.get_params(command.make_context(name, [], resilient_parsing=True)):
            kind = str(getattr(getattr(param, "_runtime_param", None), "_kind", "")).replace("fracgen", "")
            option = max(param.opts, key=len) if param.param_type_name == "option" else ""
            is_path = "Path" in kind or (option in PLACE_NAMES and not param.hidden)
            is_place = is_path or any(word in (param.metavar or "").lower() for word in PLACES)
            if "str" in kind or "Path" in kind:
                yield pytest.param(name, option, number, is_place, id=f"{name} {option or param.name}")
            number += not option


def test_the_walk_finds_what_there_is():
    found = {each.id for each in texts()}
    for known in ("render --out", "inspect source", "pretrain --shards", "pack folder", "photo images", "study study"):
        assert known in found
    assert {each.values[0] for each in texts()} <= set(BASE), "a command's words are missing"


@pytest.fixture
def place(tmp_path, folder, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path / "cache"))
    Path("set").symlink_to(folder)
    Path("a.csv").write_text("0.5,0.2,-0.3,0.6,0.1,0.2,0.5\n-0.4,0.3,0.2,0.5,-0.6,0.4,0.5\n")
    for name in ("ant", "bee"):
        (Path("images") / "train" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(Path("images") / "train" / name / "0.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("picture.png")
    return tmp_path


@pytest.mark.parametrize(("name", "option", "number", "is_place"), list(texts()))
def test_a_url_is_one_line(name, option, number, is_place, place, capsys):
    words = [*name.split(), *with_url(BASE.get(name, []), option, number)]
    code = run(words)
    shown = capsys.readouterr()
    assert not [path for path in place.rglob("*") if "nosuch" in path.name], "a folder was made of a URL"
    assert SECRET not in shown.out + shown.err
    if is_place:
        errors = shown.err.splitlines()
        program = name if name.split()[0] in PROGRAMS else "fracgen"
        assert code == 2 and errors and errors[-1].startswith(f"{program}: "), shown
        assert len([line for line in errors if line.startswith(("Traceback", "fracgen:", f"{program}:"))]) == 1, errors
        assert "is a URL; only paths" in errors[-1] or "Protocol not known: nosuch" in errors[-1], errors


def with_url(words: list[str], option: str, number: int) -> list[str]:
    """The words, with the URL in the place of an option's value or of an argument."""
    if not option:
        arguments = len([word for word in words if not word.startswith("-")])
        return [*words[:number], URL, *words[number + 1 :]] if number < arguments else [*words, URL]
    if option in words:
        place = words.index(option) + 1
        name, equals, _ = words[place].rpartition("=")  # of NAME=WHERE, the place alone
        return [*words[:place], f"{name}{equals}{URL}", *words[place + 1 :]]
    return [*words, option, URL]
