"""`python examples/ablations/redrawn.py`: a set of several passes, whose patches have masks of their own in each."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fracgen
from fracgen.cli.app import run as run_fracgen

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "examples" / "ablations" / "redrawn.py")


def run(*words):
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


def test_a_set_of_three_passes(tmp_path):
    plain, out = tmp_path / "plain", tmp_path / "redrawn"
    small = ["--size=48", "--points=1500", "--min-fill=0.02", "--base-candidates=1"]
    assert run_fracgen(["render", "--classes=3", *small, f"--out={plain}"]) == 0
    assert run(plain, out, 3).returncode == 0
    first = {sample.label: sample.image for sample in fracgen.open_shards(plain)}
    by_label = {label: [] for label in first}
    for sample in fracgen.open_shards(out):
        by_label[sample.label].append(sample.image)
    for label, images in by_label.items():
        assert len(images) == 3 and sum(np.array_equal(image, first[label]) for image in images) == 1
        assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("words", [["--help"], [], ["set", "out"], ["set", "out", "none"], ["set", "out", "0"]])
def test_other_words(words):
    ended = run(*words)
    assert ended.returncode == (0 if words == ["--help"] else 2) and "redrawn.py runs/masks" in ended.stdout


def test_a_set_that_is_none(tmp_path):
    ended = run(tmp_path / "none", tmp_path / "out", 2)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr and "none" in ended.stderr
