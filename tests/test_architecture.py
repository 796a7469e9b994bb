"""Who may import whom, and what start-up costs in modules."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "fracgen": {"torch", "torchvision", "timm", "train"},
    "shards": {"fracgen", "train", "numba"},
    "train": {"fracgen"},
}


def imports(path: Path, *, top_level: bool) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_meet_only_in_shards(room):
    paths = list((ROOT / room).rglob("*.py"))
    assert paths
    for path in paths:
        assert not imports(path, top_level=False) & FORBIDDEN[room], path
        if room == "shards":
            assert "torch" not in imports(path, top_level=True), path


@pytest.mark.parametrize("room", ["fracgen", "shards", "train"])
def test_a_file_imports_only_what_stands_below_it(room):
    text = (ROOT / "architecture.md").read_text("utf-8").split(f"`{room}/`:")[1].split("\n`")[0]
    order = re.findall(r"^    (\w+)\.py ", text, re.MULTILINE)
    files = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"}
    assert sorted(order) == sorted(files), "every file has its line"
    for path in (ROOT / room).glob("*.py"):
        for name in re.findall(rf"(?:from|import) {room}\.(\w+)", path.read_text("utf-8")):
            if path.stem != "__init__":
                assert order.index(name) > order.index(path.stem), f"{path.name} imports {name}"


def test_train_has_no_module_named_like_another_library():
    installed = set(sys.stdlib_module_names) | {"torch", "timm", "webdataset", "numpy", "datasets", "yaml", "tqdm"}
    assert not {path.stem for path in (ROOT / "train").glob("*.py")} & installed


def test_help_and_inspect_need_no_numba():
    code = "import sys; from fracgen.cli import run; run(sys.argv[1:]); print(sorted(sys.modules), file=sys.stderr)"
    shown = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "render" in shown.stdout and "verify" in shown.stdout
    assert not {"'numba'", "'torch'", "'numpy'", "'rich'"} & set(shown.stderr.strip("[]\n").split(", "))
