"""The wheel, installed: only `fracgen` lands on the user's machine, and it does not meet the user's own modules."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("fracgen", "shards", "train", "pyproject.toml", "README.md", "LICENSE")
USERS_MODULES = ("train", "shards", "data", "model", "config", "engine", "augment")
SMALL = ("--classes=8", "--size=48", "--points=1500", "--min-fill=0.02", "--base-candidates=1", "--out=set")
TINY = [
    *("--shards=set", "--steps=2", "--batch-size=4", "--workers=0", "--device=cpu", "augment.size=32"),
    *(f"model.options.{option}" for option in ("patch_size=16", "depth=1", "embed_dim=16", "num_heads=1")),
]
OPEN = """
import sys
import fracgen
assert sys.path[0] != {root!r}
assert fracgen.__file__.startswith({environment!r}), fracgen.__file__
assert [sample.image.shape for sample in fracgen.open_shards("set")] == [(48, 48)] * 8
"""


def build(source: Path, out: Path, kind: str) -> Path:
    """A wheel or an sdist of the tree at `source`, made by setuptools as pip has it made, but without pip's second."""
    code = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, out], cwd=source, check=True, capture_output=True)
    (path,) = [path for path in out.iterdir() if path.is_file()]
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources, links as links: building leaves folders beside them."""
    path = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, path)
    return path


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    return build(tree, tmp_path_factory.mktemp("wheel"), "wheel")


def modules() -> set[str]:
    """The files of the package as they should be installed."""
    rooms = {"fracgen": "fracgen", "shards": "fracgen/shards", "train": "fracgen/train"}
    return {
        f"{installed}/{path.relative_to(ROOT / room)}"
        for room, installed in rooms.items()
        for path in (ROOT / room).rglob("*.py")
        if not (room == "fracgen" and path.relative_to(ROOT / room).parts[0] in ("shards", "train"))
    }


def test_the_wheel_holds_fracgen_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    top_level = {name.split("/")[0] for name in names}
    assert top_level == {"fracgen", next(name for name in top_level if name.endswith(".dist-info"))}
    page = {str(path.relative_to(ROOT)) for path in (ROOT / "fracgen" / "explore" / "page").iterdir()}
    assert {"index.html", "explore.css", "main.js"} <= {Path(name).name for name in page}
    suites = {f"fracgen/{path.relative_to(ROOT)}" for path in (ROOT / "train").rglob("*.yaml")}
    assert {Path(name).name for name in suites} == {"seven.yaml", "vtab-1k.yaml"}
    assert {name for name in names if name.startswith("fracgen/")} == modules() | page | suites | {"fracgen/py.typed"}
    assert {"fracgen/shards/reader.py", "fracgen/train/pretrain.py", "fracgen/train/engine/trainer.py"} <= names


def test_the_sdist_builds_the_same_wheel(tree, wheel, tmp_path):
    with tarfile.open(build(tree, tmp_path / "sdist", "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("fracgen-*")
    again = build(source, tmp_path / "wheel", "wheel")
    sums = [
        {entry.filename: entry.CRC for entry in zipfile.ZipFile(path).infolist() if "SOURCES" not in entry.filename}
        for path in (wheel, again)
    ]
    assert sums[0] == sums[1]


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel; the heavy libraries are those of the environment that runs the tests.

    Its .pth line adds their folder behind its own packages, and a .pth file in a folder that is added so is not read:
    an editable fracgen that is installed there stays out of the way.
    """
    path = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(path, with_pip=False)
    python = path / "bin" / "python"
    pip = [sys.executable, "-m", "pip", f"--python={python}", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    (site,) = path.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return path


@pytest.fixture(scope="module")
def users_folder(tmp_path_factory) -> Path:
    """A research folder, whose modules have the names of our rooms and wings, and must not be imported by us."""
    path = tmp_path_factory.mktemp("research")
    for name in USERS_MODULES:
        (path / f"{name}.py").write_text(f"raise RuntimeError('the user\\'s own {name}.py was imported')\n")
    return path


def test_beside_the_users_own_modules(environment, users_folder):
    """Render, open and pre-train two steps: by the command, by `python -m`, and from a script that lies there."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"OMP_NUM_THREADS": "1"}
    python, command = environment / "bin" / "python", environment / "bin" / "fracgen"
    (users_folder / "mine.py").write_text(OPEN.format(root=str(ROOT), environment=str(environment)))
    for program in (
        [command, "render", *SMALL],
        [python, "mine.py"],
        [python, "-m", "fracgen", "inspect", "set"],
        [command, "pretrain", "--out=by-command", *TINY],
    ):
        ran = subprocess.run(program, cwd=users_folder, env=variables, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, f"{program}\n{ran.stdout}{ran.stderr}"
    assert (users_folder / "by-command" / "model" / "model.safetensors").is_file()
