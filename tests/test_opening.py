"""What can be opened as a set to train on, and what is refused before it is read."""

import json
import pickle
import shutil

import pytest
from test_data import examples as examples
from test_data import write_tars

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.reader import open_shards
from fracgen.train.data.opening import open_examples

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded.*fork")


def test_a_folder_says_what_it_is_without_opening_a_tar(folder, monkeypatch):
    monkeypatch.setattr("fracgen.shards.tar.index_tar", None)
    examples = open_examples(str(folder), num_classes=24)
    manifest = open_shards(folder).manifest
    assert len(examples) == 24 and examples.class_names == manifest.class_names
    assert str(examples).endswith("24 images of 24 classes, in 5 tars") and str(examples.shape) == "48 x 48 gray"
    assert examples.fingerprint == open_examples(str(folder)).fingerprint and len(examples.fingerprint) == 64


def test_examples_are_pickled_and_taken_in_part(examples):
    again = pickle.loads(pickle.dumps(examples))
    subset = again.subset([5, 3])
    assert subset.labels.tolist() == examples.labels[[5, 3]].tolist() and subset.fingerprint != examples.fingerprint
    assert subset.describe(0) == examples.describe(5) and subset.open(1) == examples.open(3)


@pytest.mark.parametrize(
    ("shards", "options", "said"),
    [
        ("{folder}/nowhere", {}, "no such folder"),
        ("{empty}", {}, "no dataset.json"),
        ("{foreign}", {}, r"for tars of another origin give a pattern"),
        ("{folder}", {"num_classes": 23}, "--num-classes 23: .* has 24 classes"),
        ("{folder}", {"num_classes": 25}, "--num-classes 25: .* has 24 classes"),
        ("{foreign}/none-*.tar", {"num_classes": 3}, "no file matches"),
        ("{foreign}/none-{{0..3}}.tar", {"num_classes": 3}, "no file matches"),
        ("{foreign}/set-000.tar", {}, "give --num-classes"),
        ("{foreign}/set-{{000..000.tar", {"num_classes": 3}, "no file matches|no pattern"),
        ("s3://bucket/set-*.tar", {"num_classes": 3}, r"of URLs, braces are read, as \{000\.\.063\}, and no wildcards"),
        ("s3://bucket/set-{{000..001}}.tar.gz", {"num_classes": 3}, "only plain .tar files"),
        ("s3://bucket/set-{{000..001}}.tar", {}, "give --num-classes"),
        ("pipe:cat x.tar", {"num_classes": 3}, "only files and URLs are read"),
        ("memory://no/such", {}, "dataset.json: not there"),
        ("{foreign}/*.tar.gz", {"num_classes": 3}, "only plain .tar files"),
        ("{splits}", {}, r"holds splits \(train, valid\); give one of them, as .*train"),
    ],
)
def test_what_cannot_be_opened(shards, options, said, folder, tmp_path):
    write_tars(tmp_path / "foreign", [3])
    (tmp_path / "foreign" / "set.tar.gz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name in ("train", "valid"):
        (tmp_path / "splits" / name / "ant").mkdir(parents=True)
    places = {name: tmp_path / name for name in ("empty", "foreign", "splits")}
    with pytest.raises(UsageError, match=said) as error:
        open_examples(shards.format(folder=folder, **places), **options)
    assert "\n" not in str(error.value)


def test_what_would_take_gigabytes_is_refused(tmp_path):
    sizes, path = write_tars(tmp_path, [3]), tmp_path / "sizes.json"
    with pytest.raises(UsageError, match=r"stands for 1,000,000,000,000 tars; at most 100,000 are read"):
        open_examples(str(tmp_path / "{0..999999}-{000000..999999}.tar"), num_classes=3)
    with pytest.raises(UsageError, match=r"--num-classes 1000001: must be at most 1000000"):
        open_examples(sizes, num_classes=1_000_001)
    path.write_text(json.dumps({"set-000.tar": 10**15}))
    with pytest.raises(DataError, match=r"sizes\.json: says 10{15} samples of set-000\.tar, which has \d+ bytes"):
        open_examples(sizes, num_classes=3)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"sizes\.json: damaged"):
        open_examples(sizes, num_classes=3)


def test_folders_that_are_damaged(folder, tmp_path):
    def copy(name):
        return shutil.copytree(folder, tmp_path / name)

    version = copy("version") / "dataset.json"
    version.write_text(version.read_text().replace('"version": 2', '"version": 99'))
    altered = copy("altered") / "dataset.json"
    altered.write_text(altered.read_text().replace('"num_samples": 24', '"num_samples": 23'))
    cut = copy("cut") / "dataset.json"
    cut.write_bytes(cut.read_bytes()[:-100])
    missing = copy("missing") / "1p-frac-train-000001.tar"
    missing.unlink()
    short = copy("short") / "1p-frac-train-000002.tar"
    short.write_bytes(short.read_bytes()[:-512])
    unfinished = copy("unfinished")
    (unfinished / "dataset.json").unlink()
    (unfinished / ".partial").mkdir()
    for name, said in [
        ("altered", r"dataset\.json: damaged .*its own sha256"),
        ("cut", r"dataset\.json: damaged"),
        ("missing", r"1p-frac-train-000001\.tar: missing"),
        ("short", r"1p-frac-train-000002\.tar: \d+ bytes, and the manifest says"),
    ]:
        with pytest.raises(DataError, match=said) as error:
            open_examples(str(tmp_path / name))
        assert "\n" not in str(error.value)
    for name, said in [("version", "version 99; this release reads"), ("unfinished", "unfinished")]:
        with pytest.raises(UsageError, match=said):
            open_examples(str(tmp_path / name))
    sizes = write_tars(tmp_path / "sizes", [3])
    (tmp_path / "sizes" / "sizes.json").write_text('{"set-000.tar": "3"}')
    with pytest.raises(DataError, match=r"sizes\.json: damaged"):
        open_examples(sizes, num_classes=3)
