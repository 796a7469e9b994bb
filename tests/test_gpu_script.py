"""`python examples/gpu/measure.py`, which is for a GPU, on a CPU in the small."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[1] / "examples" / "gpu" / "measure.py")
TINY = ["augment.size=32", *(f"model.options.{each}" for each in ("patch_size=8", "depth=1", "embed_dim=16"))]
TINY += ["model.options.num_heads=2"]


@pytest.fixture
def measure(folder, tmp_path, monkeypatch):
    """Runs a piece; returns its exit code. The file: gpu.json in tmp_path."""
    monkeypatch.setattr("fracgen.train.engine.benchmark._SECONDS", 0.02)

    def run(piece, *arguments):
        words = [f"--piece={piece}", f"--shards={folder}", f"--out={tmp_path / 'gpu.json'}", "--device=cpu"]
        monkeypatch.setattr(sys, "argv", [SCRIPT, *words, "--mode=eager", *arguments, *TINY])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(SCRIPT, run_name="__main__")
        return ended.value.code

    return run


def read(tmp_path):
    return json.loads((tmp_path / "gpu.json").read_text())


def test_speed_keeps_rows_of_what_fails_too(measure, tmp_path, capsys):
    assert measure("speed", "--batch-size=4", "--batch-size=3", "--loader=memory") == 0
    speed = read(tmp_path)["speed"]
    good, bad = speed["rows"]
    assert good["batch_size"] == 4 and min(good["model_only_images_per_second"], good["end_to_end_of_model_only"]) > 0
    assert "mixup and cutmix pair images" in bad["error"] and "model_only_images_per_second" not in bad
    assert speed["machine"]["cores"] >= 1 and {"torch", "timm", "python"} <= speed["machine"].keys()
    assert "batch_size 4" in capsys.readouterr().out


def test_pieces_share_a_file(measure, tmp_path):
    assert measure("augmentation", "--images=2") == 0
    assert measure("resume", "--batch-size=4", "--steps=3") == 0
    results = read(tmp_path)
    operations = results["augmentation"]["rows"]
    assert {(row["operation"], row["channels"]) for row in operations} >= {("Rotate", 1), ("all, cutmix", 3)}
    assert all(row["equal"] and row["largest_difference"] == 0 for row in operations), "a CPU beside itself"
    for row in results["resume"]["rows"]:
        assert "error" in row or (row["repeated_equal"] and row["resumed_equal"]), row
    assert results["resume"]["rows"][0]["precision"] == "fp32" and "error" not in results["resume"]["rows"][0]


def test_refusals(measure, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert measure("speed", "--device=cuda") == 2
    assert "--device cpu tries the script" in capsys.readouterr().err
    assert measure("augmentation", "--images=3") == 2
    assert "make it even" in capsys.readouterr().err
    (tmp_path / "gpu.json").write_text("[")
    assert measure("augmentation", "--images=2") != 0
    assert "gpu.json: cannot be read" in capsys.readouterr().err
    assert (tmp_path / "gpu.json").read_text() == "[", "it may be another's"
