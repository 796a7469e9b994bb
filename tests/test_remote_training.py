"""Training on sets at URLs: the same weights as from disk, runs that go on from another place, no secret anywhere."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from servers import FaultyServer, faulty_server, upload
from test_finetune import run as finetune
from test_pretrain import TINY, same, train, weights
from test_probe import run as probe

from fracgen.pack import pack, plan
from fracgen.shards import remote
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.labels.imagefolder import list_images
from fracgen.train import compare, study
from fracgen.train.data.opening import open_examples
from fracgen.train.data.skipped import SkippedDataWarning
from fracgen.train.data.splits import open_splits

SECRET = "s3cr3t"
pytestmark = pytest.mark.filterwarnings("ignore::fracgen.shards.remote.RemoteWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own; tries that follow at once."""
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """train/ and test/ of two classes, as folders of shards; not to be changed."""
    images, shards = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("labelled") / "set"
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for label, name in enumerate(("dark", "light")):
            (images / split / name).mkdir(parents=True)
            for number in range(count):
                levels = rng.integers(0, 120, (32, 32, 3)) + 120 * label
                Image.fromarray(levels.astype(np.uint8)).save(images / split / name / f"{number:02d}.png")
        listed = list_images(images / split, split=split)
        pack(listed, shards / split, plan(listed, split=split, num_shards=2))
    return shards


@pytest.fixture
def server(labelled, folder, tmp_path) -> FaultyServer:
    shutil.copytree(labelled, tmp_path / "served" / "labelled")
    shutil.copytree(folder, tmp_path / "served" / "set")
    with faulty_server(tmp_path / "served") as server:
        yield server


def everything(folder: Path) -> bytes:
    """All bytes of a folder's files; those of checkpoints also as torch loads them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    loaded = [repr(torch.load(path, weights_only=False)) for path in files if path.suffix == ".pt"]
    return b"".join(path.read_bytes() for path in files) + "".join(loaded).encode()


@pytest.mark.parametrize("workers", ["--workers=0", "--workers=2"])
def test_pretraining_from_s3_is_that_from_disk(s3, folder, tmp_path, capsys, workers):
    url = upload(folder, f"pretrain{workers}")
    assert train(folder, tmp_path / "disk", "--steps=8", "--loader=stream", workers) == 0
    assert train(url, tmp_path / "url", "--steps=8", "--loader=stream", workers) == 0
    shown = capsys.readouterr().err
    assert f"data      {url}: 24 images of 24 classes, in 5 tars" in shown
    assert f"cache     {tmp_path / 'cache' / 'shards'} (" in shown and "6 files, " in shown
    assert same(weights(tmp_path / "disk"), weights(tmp_path / "url"))
    cards = [json.loads((tmp_path / run / "model" / "config.json").read_text())["fracgen"] for run in ("disk", "url")]
    assert [each["data"].pop("name") for each in cards] == [folder.name, f"pretrain{workers}"]
    assert cards[0] == cards[1] and cards[1]["licence"] == "mit" and cards[1]["data"]["recipe"] == "1p-frac"


def test_a_run_begun_on_disk_goes_on_from_a_url(server, folder, tmp_path, capsys):
    url = f"http://user:{SECRET}@{server.url.removeprefix('http://')}/set?X-Amz-Signature={SECRET}"
    assert train(folder, tmp_path / "straight", "--steps=8") == 0
    assert train(folder, tmp_path / "moved", "--steps=8", "--stop-after=4") == 0
    server.faults["1p-frac-train-000002.tar"] = ["cut"]
    with pytest.warns(remote.RemoteWarning, match=r"000002\.tar\?\*\*\*: ClientPayloadError") as warned:
        assert train(url, tmp_path / "moved", "--steps=8", "--stop-after=6") == 0
    assert not any(SECRET in str(each.message) for each in warned)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "moved")) is False
    assert train(url, tmp_path / "moved", "--steps=8") == 0
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "moved"))
    assert server.queries == {f"X-Amz-Signature={SECRET}"}
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert SECRET.encode() not in everything(tmp_path / "moved")


def test_labelled_data_at_a_url(server, labelled, tmp_path, capsys):
    url = f"{server.url}/labelled?token={SECRET}"
    there, here = open_splits(url, val_share=0.25), open_splits(str(labelled), val_share=0.25)
    assert there.train.fingerprint == here.train.fingerprint and there.test.fingerprint == here.test.fingerprint
    assert [each.name for each in (there.train, there.test)] == [
        f"{server.url}/labelled/train?***", f"{server.url}/labelled/test?***"
    ]  # fmt: skip
    tiny = [*TINY[:-5], "--steps=2", *TINY[-4:]]
    for data, out in ((labelled, "disk"), (url, "url")):
        assert finetune("--data", data, "--out", tmp_path / out, *tiny) == 0
    assert same(weights(tmp_path / "disk"), weights(tmp_path / "url"))
    checkpoint = ["--checkpoint", str(tmp_path / "disk"), "--images=8", "--k=3", "--device=cpu"]
    assert probe("--data", f"{server.url}/labelled/train", "--test", f"{server.url}/labelled/test", *checkpoint,
                 "--out", tmp_path / "probe", "--cache", tmp_path / "other") == 0  # fmt: skip
    assert f"cache     {tmp_path / 'other'} (" in capsys.readouterr().err
    start = ["--start", "scratch=none", "--model=vit_tiny_patch16_224", "--seeds=1"]
    overrides = [each for each in tiny if "=" in each and not each.startswith("--")]
    settings = ["loader.batch_size=8", "run.device=cpu", "loader.workers=0", "schedule.steps=2", *overrides]
    assert compare.run(["--data", url, *start, "--out", str(tmp_path / "compare"), *settings]) == 0
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert SECRET.encode() not in b"".join(everything(tmp_path / name) for name in ("url", "probe", "compare"))


def test_a_study_reads_urls_and_shows_no_secret(server, labelled, tmp_path, capsys):
    study_file = str(Path(__file__).parents[1] / "examples" / "ablations" / "delta.yaml")
    url = f"{server.url}/labelled?token={SECRET}"
    assert study.run([study_file, "--data", url, "--out", str(tmp_path / "study"), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert f"{server.url}/labelled?***" in shown.out and SECRET not in shown.out + shown.err


def test_splits_that_are_not_there(server, labelled):
    with pytest.raises(UsageError, match=r"/absent: no dataset\.json that can be read, in it or in train/; at a URL"):
        open_splits(f"{server.url}/absent")
    shutil.rmtree(server.folder / "labelled" / "test")
    assert open_splits(f"{server.url}/labelled").test is None
    with pytest.raises(UsageError, match="the images that are trained on"):
        open_splits(f"{server.url}/labelled", test=f"{server.url}/labelled/train")
    with pytest.raises(UsageError, match="classes"):
        open_splits(f"{server.url}/labelled", test=f"{server.url}/set")


def test_bad_tars_are_left_out_if_the_user_says_so(server, folder, tmp_path, capsys):
    server.faults["1p-frac-train-000001.tar"] = ["wrong"] * 3
    (server.folder / "set" / "1p-frac-train-000003.tar").unlink()
    url = f"{server.url}/set"
    with pytest.raises(DataError, match=r"000003\.tar: not there, though|000001\.tar: what arrived has another"):
        open_examples(url)
    server.faults["1p-frac-train-000001.tar"] = ["wrong"] * 3
    with pytest.warns(SkippedDataWarning, match=r"000001\.tar: what arrived has another sha256"):
        assert train(url, tmp_path / "run", "--steps=3", "--skip-bad") == 0
    shown = capsys.readouterr()
    assert int(next(line.split()[-1] for line in shown.out.splitlines() if line.startswith("skipped"))) > 0


def test_a_set_that_the_cache_cannot_hold(server, tmp_path, capsys):
    for limit in ("0.00005", "0.00009"):
        assert train(f"{server.url}/set", tmp_path / "run", "--steps=3", f"--cache-limit={limit}") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "91.1 kB of shards, and the cache may have" in error and "--cache-limit" in error
    assert not list((tmp_path / "cache").rglob("*.tar"))
    assert train(f"{server.url}/set", tmp_path / "run", "--steps=3", "--cache-limit=0.0001") == 0


def test_tars_of_another_origin(server, tmp_path, capsys):
    place = server.folder / "foreign"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        with tarfile.open(place / f"set-{number}.tar", "w") as tar:
            for row in range(4):
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(file, "png")
                for name, data in ((f"{row}.png", file.getvalue()), (f"{row}.cls", str(row % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    url = f"{server.url}/foreign/set-{{0..1}}.tar?token={SECRET}"
    here = open_examples(str(place / "set-{0..1}.tar"), num_classes=2)
    server.faults["set-1.tar"] = ["", "", "cut"]
    there = open_examples(url, num_classes=2)
    assert there.fingerprint == here.fingerprint and there.labels.tolist() == here.labels.tolist()
    assert all(np.array_equal(there.open(n), here.open(n)) for n in range(8)) and SECRET not in str(there)
    with pytest.raises(UsageError, match="give --num-classes"):
        open_examples(url)
    with pytest.raises(DataError, match=r"set-2\.tar.*not there"):
        open_examples(url.replace("{0..1}", "{0..2}"), num_classes=2)
    assert len(open_examples(url.replace("{0..1}", "{0..2}"), num_classes=2, skip_bad=True)) == 9, "one stands for it"
    assert not any(SECRET in json.dumps(str(path)) for path in tmp_path.rglob("*"))
