"""`examples/train_on_the_fly.py` and `examples/reading_rates.py`, in the small."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = ["classes=24", "size=48", "points=1500", "min_fill=0.02", "base_candidates=1"]


@pytest.fixture
def example(monkeypatch, capsys):
    """Runs a script; returns (exit code, stdout, stderr)."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("masks", ["redrawn", "fixed"])
def test_a_vit_trains_straight_from_a_formula(example, masks):
    words = ["--model=test_vit", "--steps=12", "--batch-size=8", "--workers=1", f"--masks={masks}"]
    code, out, _ = example("train_on_the_fly.py", *words, *SMALL)
    steps = re.findall(r"^step +(\d+)  loss (\d\.\d{4}) +[\d.]+ images/s$", out, re.MULTILINE)
    assert code == 0 and [int(step) for step, _ in steps] == [10, 12] and all(0 < float(loss) < 9 for _, loss in steps)


def test_the_same_seed_trains_the_same_net(example):
    words = ["--model=test_vit", "--steps=3", "--batch-size=8", "--workers=1", *SMALL]
    losses = [
        re.findall(r"loss ([\d.]+)", example("train_on_the_fly.py", *words, f"--seed={seed}")[1]) for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model=vit_nope"], "--model vit_nope: timm"),
        (["--batch-size=25", *SMALL], "--batch-size 25: the recipe has only 24 images"),
        (["classes=["], "classes=[: not YAML"),
        (["classes"], "'classes': an override is NAME=VALUE"),
        (["clases=3"], "did you mean 'classes'"),
        (["--recipe=nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--masks=redrawn", "patch=fill", *SMALL], "masks cannot be redrawn"),
        (["--recipe=.", "--steps=1"], "no dataset.json in it"),
    ],
)
def test_what_is_wrong_is_one_line(example, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = example("train_on_the_fly.py", *words)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


def test_rates_of_a_recipe_and_its_shards(example):
    code, out, _ = example("reading_rates.py", "--rounds=1", "--batch-size=8", *SMALL)
    rows = re.findall(r"^ +([012])  ([a-z, ]+?)  +(\d+)  +\d+ +\d+  +([\d.]+)(?:  +\d+\.\d{3})?$", out, re.MULTILINE)
    sources = ["shards", "on the fly", "on the fly, redrawn"]
    assert code == 0 and [(workers, source) for workers, source, *_ in rows] == [(w, s) for w in "012" for s in sources]
    assert all(int(rate) > 0 for *_, rate, _ in rows) and rows[0][3] == rows[3][3] == "1.00"
    code, out, _ = example(
        "reading_rates.py",
        "--rounds=1",
        f"--recipe={EXAMPLES / 'visualatom.yaml'}",
        "classes=8",
        "instances=2",
        "size=32",
    )
    assert code == 0 and "redrawn" not in out and out.count("on the fly") == 3
