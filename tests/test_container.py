"""The Dockerfile, which no test builds: what it names is there."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def argument(name: str) -> str:
    return re.search(rf"^ARG {name}=\"?([^\"\n]*)\"?$", DOCKERFILE, re.MULTILINE)[1]


def test_it_installs_what_the_project_has():
    assert set(argument("EXTRAS").split(",")) <= set(PROJECT["optional-dependencies"])
    least = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, argument("PYTHON").split("."))) >= tuple(map(int, least.split(".")))
    assert argument("TORCH") in PROJECT["optional-dependencies"]["train"]


def test_it_runs_our_program_and_not_as_root():
    program = re.search(r'^ENTRYPOINT \["(\w+)"\]$', DOCKERFILE, re.MULTILINE)[1]
    assert program in PROJECT["scripts"]
    steps = re.findall(r"^(\w+) (.*)$", DOCKERFILE, re.MULTILINE)
    user, *after = [step for step in steps if step[0] in ("USER", "RUN", "ENTRYPOINT")][-2:]
    assert user == ("USER", "fracgen") and [name for name, _ in after] == ["ENTRYPOINT"]
    assert "useradd --no-create-home --uid 1000 fracgen" in DOCKERFILE


def test_the_image_gets_all_that_a_wheel_is_built_of():
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]
    names = {line[1:] for line in lines if line.startswith("!")}
    assert lines[0] == "*" and all((ROOT / name).exists() for name in names)
    links = {path.readlink().parts[-1] for path in (ROOT / "fracgen").iterdir() if path.is_symlink()}
    assert {"pyproject.toml", "fracgen", *links, PROJECT["readme"], *PROJECT["license-files"]} == names
