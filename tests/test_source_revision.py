"""The commit of fracgen that a run was made by, in its model's config.json."""

import json
import shutil
import subprocess

import pytest

from fracgen.cli.app import run
from fracgen.train.engine import source_revision as module
from fracgen.train.engine import trainer
from fracgen.train.engine.source_revision import source_revision

WORDS = ["--steps=2", "--batch-size=4", "--workers=0", "--device=cpu", "augment.size=32", "run.clean_images=0"]
WORDS += [f"model.options.{option}" for option in ("patch_size=8", "depth=1", "embed_dim=16", "num_heads=2")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that stands for the one that fracgen lies in, with a file in it."""
    file = tmp_path / "place" / "fracgen" / "train" / "engine" / "source_revision.py"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    monkeypatch.setattr(module, "_HERE", file)
    return tmp_path / "place"


def git(folder, *words):
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    argv = ["git", "-C", str(folder), *settings, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_of_a_clone(place, monkeypatch):
    clone = place / "fracgen"
    git(clone, "init")
    assert source_revision() == "", "nothing is committed"
    git(clone, "add", ".")
    git(clone, "commit", "-m", "one")
    git(clone, "tag", "-a", "v1", "-m", "v1")
    commit = git(clone, "rev-parse", "HEAD")
    assert source_revision() == commit
    (clone / "notes.txt").write_text("of mine")
    assert source_revision() == commit, "no part of it"
    (clone / "train" / "engine" / "source_revision.py").write_text("two")
    assert source_revision() == f"{commit}-dirty"
    monkeypatch.setenv("GIT_DIR", str(place / "elsewhere"))
    assert source_revision() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert source_revision() == "", "there is no git"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_an_installation_in_a_repository_of_somebody_else_is_none_of_it(place):
    git(place, "init")
    git(place, "add", ".")
    git(place, "commit", "-m", "an environment")
    assert source_revision() == ""


@pytest.mark.parametrize(
    ("text", "revision"),
    [
        (json.dumps({"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "0a" * 20}}), "0a" * 20),
        (json.dumps({"url": "file:///x", "dir_info": {}}), ""),
        ("{", ""),
        (None, ""),
    ],
)
def test_of_an_installation(text, revision, place, monkeypatch):
    info = place / "fracgen-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fracgen\nVersion: 9\n")
    if text is not None:
        (info / "direct_url.json").write_text(text)
    monkeypatch.syspath_prepend(str(place))
    assert source_revision() == revision
    monkeypatch.setattr(module, "_HERE", place.parent / "fracgen" / "train" / "engine" / "source_revision.py")
    assert source_revision() == "", "another fracgen runs than pip has installed"


def test_a_run_says_by_which_it_ended_and_goes_on_by_any(folder, tmp_path, monkeypatch):
    words = ["pretrain", "--shards", str(folder), "--out", str(tmp_path / "run"), *WORDS]
    monkeypatch.setattr(trainer, "source_revision", lambda: "0a" * 20)
    assert run([*words, "--stop-after=1"]) == 0
    monkeypatch.setattr(trainer, "source_revision", lambda: "0b" * 20)
    assert run(words) == 0
    section = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["fracgen"]
    assert section["source"] == "0b" * 20
