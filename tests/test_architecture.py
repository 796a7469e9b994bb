"""Who may import whom: folder by folder, then file by file; and what start-up costs in modules."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("fracgen", "shards", "train")
SHARDS = {"shards", "shards/labels", "shards/publish"}
BASE = {"train", *SHARDS}
FOLDERS = {  # folder: the folders whose files it may import; "train" is the files directly under train/
    "shards": {"shards"},
    "shards/labels": {"shards/labels", "shards"},
    "shards/publish": {"shards/publish", "shards"},
    "fracgen": {"fracgen", "fracgen/photo", *SHARDS},  # and __main__.py the command line
    "fracgen/photo": {"fracgen/photo", "fracgen", "shards"},
    "fracgen/explore": {"fracgen/explore", "fracgen", "fracgen/photo", *SHARDS},
    "fracgen/cli": {"fracgen/cli", "fracgen/explore", "fracgen", "fracgen/photo", *SHARDS},
    "train/data": {"train/data", *BASE},
    "train/augment": {"train/augment", *BASE},
    "train/engine": {"train/engine", *BASE},
    "train/masked": {"train/masked", "train/engine", *BASE},
    "train/probing": {"train/probing", "train/data", "train/augment", "train/engine", *BASE},
    "train/procedural": {"train/procedural", "train/engine", *BASE},
    "train/experiments": {"train/experiments", "train/data", "train/augment", "train/engine", *BASE},
    "train": {
        "train",
        "train/data",
        "train/augment",
        "train/engine",
        "train/masked",
        "train/probing",
        "train/procedural",
        "train/experiments",
        *SHARDS,
    },
}
SCRIPTS = {"pretrain", "mae", "dyck", "finetune", "probe", "compare", "study", "suite"}
FOREIGN = {  # libraries that a room never imports
    "fracgen": {"torch", "torchvision", "timm"},
    "shards": {"numba"},
    "train": {"numba"},
}


def files(room: str) -> list[Path]:
    """The files of a room, as paths from the root."""
    paths = [path.relative_to(ROOT) for path in (ROOT / room).rglob("*.py")]
    return [path for path in paths if not any((ROOT / part).is_symlink() for part in path.parents)]


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Dotted names of the modules that a file imports, or whose names it takes."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(module: str) -> Path | None:
    """The file of ours that a dotted name stands for, or is defined in; None for others' modules and for packages."""
    parts = module.split(".")
    if parts[0] != "fracgen":
        return None
    for length in (len(parts), len(parts) - 1):
        path = Path(*parts[:length]).with_suffix(".py")
        if (ROOT / path).is_file():
            return path.relative_to("fracgen") if parts[1] in ("shards", "train") else path
    return None


@pytest.mark.parametrize("room", ROOMS)
def test_folders_import_only_what_they_may(room):
    assert files(room)
    for path in files(room):
        for module in imports(path):
            assert module.split(".")[0] not in FOREIGN[room], f"{path} imports {module}"
            lazy = path == Path("fracgen/__init__.py")  # public names: for type checkers, and when they are used
            assert room == "train" or lazy or not module.startswith("fracgen.train"), f"{path} imports {module}"
            if (other := file_of(module)) is not None and path.name not in ("__init__.py", "__main__.py"):
                assert str(other.parent) in FOLDERS[str(path.parent)], f"{path} imports {other}"
                if path.parent == Path("train") and other.parent != Path("train"):
                    assert path.stem in SCRIPTS or str(other.parent) in SHARDS, f"{path}: {other} is above it"
                elif other.parent == Path("train") and path.parent != Path("train"):
                    assert other.stem not in SCRIPTS, f"{path} imports the script {other}"
        if room == "shards":
            assert not {name.split(".")[0] for name in imports(path, top_level=True)} & {"torch"}, path


@pytest.mark.parametrize("room", ROOMS)
def test_a_file_imports_only_what_stands_below_it(room):
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8").split(f"`{room}/`:")[1].split("\n`")[0]
    order = [Path(room, f"{name}.py") for name in re.findall(r"^    ([\w/]+)\.py ", text, re.MULTILINE)]
    assert sorted(order) == sorted(path for path in files(room) if path.name != "__init__.py"), "every file has a line"
    for path in order:
        for module in imports(path):
            if (other := file_of(module)) in order:
                assert order.index(other) > order.index(path), f"{path} imports {other}, which stands above it"


def test_train_has_no_name_of_another_library():
    """`python train/pretrain.py` puts the folder first on the path."""
    names = {path.stem for path in (ROOT / "train").iterdir() if path.suffix == ".py" or path.is_dir()} - {"__init__"}
    assert {"pretrain", "data"} <= names
    others = {name for name in importlib.metadata.packages_distributions() if name != "fracgen"}
    assert not names & (set(sys.stdlib_module_names) | others | {"distributed"})


def test_help_and_inspect_need_no_numba():
    code = "import sys; from fracgen.cli.app import run; run(sys.argv[1:]); print(sorted(sys.modules), file=sys.stderr)"
    shown = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "render" in shown.stdout and "verify" in shown.stdout
    assert not {"'numba'", "'torch'", "'numpy'", "'rich'"} & set(shown.stderr.strip("[]\n").split(", "))


def test_recipes_are_imported_without_kernels():
    """Options, ranges and defaults are read from recipes, by commands that render nothing."""
    code = "import sys; from fracgen.registry import RECIPES; list(RECIPES.values()); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fracgen.photo.recipe" in loaded
    assert not {"numba", "llvmlite", "cv2", "torch", "rich"} & set(loaded)
