"""What Hugging Face datasets saved, as labelled images: read, packed, trained on, and what is refused."""

import contextlib
import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from test_labels import USUAL, labelled, pixels, refusal
from test_labels import quiet as quiet

from fracgen import open_shards
from fracgen.cli.app import run
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.labels.image_sources import open_images
from fracgen.shards.labels.tables import Columns, read_table
from fracgen.shards.manifest import load_manifest
from fracgen.train.data.splits import open_splits

CLASSES = datasets.ClassLabel(names=["zebra", "ant"])


def hub_set(labels, label=CLASSES, **columns):
    features = datasets.Features(
        {"image": datasets.Image(), "label": label, **{name: feature for name, (feature, _) in columns.items()}}
    )
    rows = {"image": [Image.fromarray(pixels(n)) for n in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict({**rows, **{name: values for name, (_, values) in columns.items()}}, features)


def test_saved_sets_are_read(tmp_path):
    hub_set([0, 1, 1, 0, 1], more=(datasets.Value("string"), list("abcde"))).save_to_disk(tmp_path / "one")
    images = open_images(tmp_path / "one", [None], USUAL)[None]
    assert images.class_names == ("zebra", "ant") and images.labels.tolist() == [0, 0, 1, 1, 1]
    assert [images.name(n) for n in range(5)] == ["row 0", "row 3", "row 1", "row 2", "row 4"]
    assert images.extension == "png" and images.passed_over() == ["features not read: 'more'"]
    assert [len(images.read(n)) for n in range(5)] == images.sizes.tolist()
    splits = open_splits(str(tmp_path / "one"), val_share=0)
    assert np.array_equal(np.asarray(splits.train.open(1)), pixels(3))


def test_saved_splits_for_packing_and_training(tmp_path, monkeypatch, capsys):
    parts = {
        "train": hub_set([0, 1] * 6),
        "validation": hub_set([1, 0]),
        "test": hub_set([-1, -1]),
        "extra": hub_set([0]),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    splits = open_splits(str(tmp_path / "set"))
    assert len(splits.train) + len(splits.val or ()) + len(splits.test) == 14
    assert splits.test.name.endswith("split validation") and "not read: split 'test', 'extra'" in splits.description
    monkeypatch.chdir(tmp_path)
    assert run(["pack", "set", "--split", "train", "--split", "val"]) == 0
    assert load_manifest(tmp_path / "set-shards" / "train").class_names == ("zebra", "ant")
    sample = next(iter(open_shards(tmp_path / "set-shards" / "train")))
    assert np.array_equal(sample.image, pixels(int(sample.metadata["file"].removeprefix("train/row "))))
    capsys.readouterr()
    assert run(["pack", "set", "--split", "test"]) == 2
    assert "2 of 2 rows have no label" in capsys.readouterr().err


def test_labels_that_are_no_class_label(tmp_path):
    parts = {"train": hub_set([10, 9, 2], datasets.Value("int64")), "test": hub_set([9, 11], datasets.Value("int64"))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "numbers")
    images = open_images(tmp_path / "numbers", ["train", "test"], USUAL)
    assert images["train"].class_names == images["test"].class_names == ("2", "9", "10", "11")
    assert images["test"].labels.tolist() == [1, 3]
    hub_set(["b", "a"], datasets.Value("string")).save_to_disk(tmp_path / "words")
    assert open_images(tmp_path / "words", [None], USUAL)[None].class_names == ("a", "b")


FEATURES = {
    "regression": (datasets.Value("float32"), [0.5, 1.5]),
    "multi-label": (datasets.List(CLASSES), [[0, 1], [1]]),
    "segmentation": (datasets.Image(), [Image.new("L", (8, 8))] * 2),
    "boxes": ({"bbox": datasets.List(datasets.Value("float32"))}, [{"bbox": [1.0]}] * 2),
}


@pytest.mark.parametrize("task", FEATURES)
def test_features_of_other_tasks_are_named(tmp_path, task):
    feature, values = FEATURES[task]
    hub_set(values, feature).save_to_disk(tmp_path / "set")
    text = refusal(tmp_path / "set", Columns(file_column="image"))
    assert task in text and "not supported" in text, text


OTHER_FEATURES = {
    "segmentation": FEATURES["segmentation"],
    "multi-label": (datasets.List(datasets.Value("string")), [["a"], ["b", "c"]]),
    "boxes": (datasets.List({"bbox": datasets.List(datasets.Value("float32"))}), [[{"bbox": [1.0]}]] * 2),
}


@pytest.mark.parametrize("task", OTHER_FEATURES)
def test_sets_of_other_tasks_without_labels_are_named(tmp_path, task):
    whole = hub_set([0, 1], other=OTHER_FEATURES[task]).remove_columns("label")
    whole.save_to_disk(tmp_path / "set")
    text = refusal(tmp_path / "set")
    assert "no feature of labels" in text and task in text and text.endswith("not supported"), text


def test_saved_sets_without_rows_and_with_late_dates_are_one_line(tmp_path):
    hub_set([]).save_to_disk(tmp_path / "empty")
    assert "empty: no rows in it" in refusal(tmp_path / "empty")
    late = pa.array([2**61], pa.int64()).cast(pa.timestamp("us"))
    plain = hub_set([0]).remove_columns("label")
    plain.add_column("label", late, feature=datasets.Value("timestamp[us]")).save_to_disk(tmp_path / "late")
    assert "a column cannot be read (date value out of range)" in refusal(tmp_path / "late")


def test_features_by_name(tmp_path):
    set_ = hub_set([0, 1], fine=(CLASSES, [1, 0])).rename_columns({"label": "coarse", "image": "picture"})
    set_.save_to_disk(tmp_path / "set")
    assert "no feature of labels (label, class) among picture: Image" in refusal(tmp_path / "set")
    images = open_images(tmp_path / "set", [None], Columns(label_column="fine"))[None]
    assert images.name(0) == "row 1"
    assert "--label-column fin: no such column" in refusal(tmp_path / "set", Columns(label_column="fin"))
    set_.remove_columns("picture").save_to_disk(tmp_path / "bare")
    assert "no feature of images" in refusal(tmp_path / "bare")


def test_images_that_are_paths_are_not_fetched(tmp_path):
    schema = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    table = pa.table(
        {"image": [{"bytes": None, "path": "http://localhost:1/x.png"}], "label": [0]}, schema.arrow_schema
    )
    path = tmp_path / "set"
    hub_set([0]).save_to_disk(path)
    (file,) = path.glob("*.arrow")
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert "1 of 1 images are not in the folder but a path or nothing" in refusal(path)


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_nothing_leads_out_of_a_saved_folder(tmp_path):
    datasets.DatasetDict(train=hub_set([0, 1])).save_to_disk(tmp_path / "set")
    state = tmp_path / "set" / "train" / "state.json"
    before = state.read_text()
    change_json(state, _data_files=[{"filename": "../../elsewhere.arrow"}])
    assert "its data files are no plain names" in refusal(tmp_path / "set", split="train")
    state.write_text(before)
    change_json(tmp_path / "set" / "dataset_dict.json", splits=["../set/train"])
    assert "its splits are no plain names" in refusal(tmp_path / "set", split="train")


def test_a_saved_format_is_dropped(tmp_path):
    hub_set([0, 1]).with_format("numpy").save_to_disk(tmp_path / "set")
    images = open_images(tmp_path / "set", [None], USUAL)[None]
    assert images.read(0).startswith(b"\x89PNG")


class _Evil:
    def __reduce__(self):
        return (open, ("/tmp/fracgen-was-executed", "w"))


def test_no_pickle_in_a_schema_is_loaded(tmp_path):
    """pyarrow before 14.0.1 unpickled what the schema's metadata says."""
    hub_set([0, 1]).save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*.arrow")
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(_Evil()),
    }
    table = datasets.load_from_disk(tmp_path / "set").data.table
    field = pa.field("evil", pa.int64(), metadata=metadata)
    table = table.append_column(field, pa.array([1, 2]))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    marker = Path("/tmp/fracgen-was-executed")
    marker.unlink(missing_ok=True)
    with contextlib.suppress(DataError, UsageError):
        open_images(tmp_path / "set", [None], USUAL)
    assert not marker.exists()


def test_damaged_saved_sets_are_one_line(tmp_path):
    hub_set([0, 1] * 20).save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*.arrow")
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:cut])
        assert refusal(tmp_path / "set")
    for place in rng.integers(0, len(data), 60):
        flipped = bytearray(data)
        flipped[place] ^= 0xFF
        file.write_bytes(flipped)
        try:
            images = open_images(tmp_path / "set", [None], USUAL)[None]
            assert len([images.read(n) for n in range(len(images))]) == len(images)
        except (DataError, UsageError, OSError) as error:
            assert "\n" not in str(error)
    file.write_bytes(data)
    (tmp_path / "set" / "state.json").write_text("{")
    assert "state.json: cannot be read" in refusal(tmp_path / "set")
    change = tmp_path / "other"
    datasets.DatasetDict(train=hub_set([0])).save_to_disk(change)
    (change / "train" / "state.json").unlink()
    assert "state.json: cannot be read" in refusal(change, split="train")


def test_workers_read_saved_sets(tmp_path):
    hub_set([0, 1] * 4).save_to_disk(tmp_path / "set")
    images = open_images(tmp_path / "set", [None], USUAL)[None]
    again = pickle.loads(pickle.dumps(images))
    assert [again.read(n) for n in range(8)] == [images.read(n) for n in range(8)]


def test_without_the_libraries_it_is_said_what_to_install(tmp_path, monkeypatch):
    hub_set([0, 1]).save_to_disk(tmp_path / "set")
    table = labelled(tmp_path, ["a", "b"], "labels.parquet")
    for name in ("datasets", "pyarrow"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert "pip install 'fracgen[datasets]'" in refusal(tmp_path / "set")
    with pytest.raises(UsageError, match=r"pip install 'fracgen\[datasets\]'"):
        read_table(table, USUAL)
