"""Labels in tables: for packing, and for training."""

import json
import os
import warnings
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fracgen import open_shards
from fracgen.cli.app import run
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.labels.class_labels import number_labels
from fracgen.shards.labels.image_sources import open_images, open_labelled
from fracgen.shards.labels.tables import Columns
from fracgen.shards.manifest import load_manifest
from fracgen.train.data.splits import open_splits
from fracgen.train.experiments.comparison import FinetuneCommand, check_data
from fracgen.train.probing.settings import OPTIONS, ProbeSettings
from fracgen.train.probing.tasks import open_tasks

USUAL = Columns()


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def draw(folder, count=6, extension="png"):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels(number)).save(folder / "images" / f"{number}.{extension}")
    return [f"images/{number}.{extension}" for number in range(count)]


def write(path: Path, rows: list[dict[str, object]], *, delimiter=",", encoding="utf-8") -> Path:
    """A table of these rows, in the format of the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding)
    else:
        divider = "\t" if path.suffix == ".tsv" else delimiter
        lines = [divider.join(rows[0]), *(divider.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding)
    return path


def labelled(folder, labels, name="labels.csv", **columns):
    files = draw(folder, len(labels))
    rows = [{"file": file, "label": label} for file, label in zip(files, labels, strict=True)]
    for column, values in columns.items():
        rows = [{**row, column: value} for row, value in zip(rows, values, strict=True)]
    return write(folder / name, rows)


def by_file(images):
    """Class name by file."""
    return {images.name(n): images.class_names[images.label(n)] for n in range(len(images))}


def refusal(path, columns=USUAL, split=None):
    with pytest.raises((UsageError, DataError)) as caught:
        open_images(path, [split], columns)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


@pytest.mark.parametrize(
    "name", ["labels.csv", "labels.tsv", "labels.jsonl", "labels.parquet", "metadata.csv", "metadata.jsonl"]
)
def test_every_format_says_the_same(tmp_path, name):
    table = labelled(tmp_path, ["dog", "cat", "dog", "bird", "cat", "dog"], name)
    for path in (tmp_path, table):
        images = open_images(path, [None], USUAL)[None]
        assert images.class_names == ("bird", "cat", "dog") and images.starts == (0, 1, 3)
        assert by_file(images)["images/3.png"] == "bird" and len(images) == 6
        assert images.labels.tolist() == [0, 1, 1, 2, 2, 2]
        assert Image.open(images.describe(0)).size == (8, 8)


def test_integers_are_in_the_order_of_their_values(tmp_path):
    numbers = [10, 9, 2, 10, 2, 9]
    for name, labels in [("labels.csv", map(str, numbers)), ("labels.jsonl", numbers)]:
        labels = [*labels]
        images = open_images(labelled(tmp_path / name, labels, name), [None], USUAL)[None]
        assert images.class_names == ("2", "9", "10")
        assert images.passed_over() == ["labels are numbers, and classes are in their order: 2, 9, 10 become 0 to 2"]


@pytest.mark.parametrize("file", ["file", "file_name", "filename", "path", "Path"])
@pytest.mark.parametrize("label", ["label", "class", "Label"])
def test_usual_columns(tmp_path, file, label):
    files = draw(tmp_path)
    table = write(tmp_path / "a.csv", [{"id": 1, file: each, label: "x"} for each in files])
    images = open_images(table, [None], USUAL)[None]
    assert len(images) == 6 and images.passed_over() == ["columns not read: 'id'"]


def test_other_columns_are_named(tmp_path):
    files = draw(tmp_path)
    table = write(tmp_path / "a.csv", [{"id": each, "breed": "x", "fold": "train"} for each in files])
    columns = Columns(file_column="id", label_column="breed", split_column="fold")
    assert len(open_images(table, ["train"], columns)["train"]) == 6
    assert "no column of files (file, file_name, filename, path) among 'id', 'breed', 'fold'" in refusal(table)
    text = refusal(table, Columns(file_column="id", label_column="bread"))
    assert "--label-column bread: no such column, did you mean 'breed'?" in text
    both = write(tmp_path / "b.csv", [{"file": each, "path": each, "label": "x"} for each in files])
    assert "'file' and 'path' could both be meant" in refusal(both)


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dividers_and_encodings(tmp_path, delimiter, encoding):
    files = draw(tmp_path)
    rows = [{"file": each, "label": "käse"} for each in files]
    table = write(tmp_path / "a.csv", rows, delimiter=delimiter, encoding=encoding)
    assert open_images(table, [None], USUAL)[None].class_names == ("käse",)


def test_quoted_cells_windows_paths_and_line_ends(tmp_path):
    draw(tmp_path, 3)
    text = 'file,label\r\n"images\\0.png","a, b"\r\n./images//1.png, c \r\n\r\nimages/2.png,"say ""x"""\r\n'
    (tmp_path / "labels.csv").write_bytes(text.encode())
    images = open_images(tmp_path, [None], USUAL)[None]
    assert by_file(images) == {"images/0.png": "a, b", "images/1.png": "c", "images/2.png": 'say "x"'}


def test_lines_may_end_as_on_the_first_macs(tmp_path):
    files = draw(tmp_path, 2)
    (tmp_path / "labels.csv").write_bytes(f"file;label\r{files[0]};b\r{files[1]};a\r".encode())
    assert by_file(open_images(tmp_path, [None], USUAL)[None]) == {files[0]: "b", files[1]: "a"}


def test_splits_of_a_column(tmp_path):
    labels = ["b", "a", "b", "a", "a", "c"]
    splits = ["train", "train", "train", "valid", "test", "test"]
    labelled(tmp_path, labels, split=splits)
    images = open_images(tmp_path, ["train", "val", "test"], USUAL)
    assert {split: by_file(each) for split, each in images.items()} == {
        "train": {"images/0.png": "b", "images/1.png": "a", "images/2.png": "b"},
        "val": {"images/3.png": "a"},
        "test": {"images/4.png": "a", "images/5.png": "c"},
    }
    assert all(each.class_names == ("a", "b", "c") for each in images.values())
    assert images["test"].labels.tolist() == [0, 2]
    assert "no image of 1 classes (c)" in images["train"].passed_over()
    assert "holds splits (train, valid, test); give --split train" in refusal(tmp_path)
    assert "no split extra" in refusal(tmp_path, split="extra")
    columns = Columns(split_column="label")
    assert open_labelled(tmp_path, columns).split_names == ("b", "a", "c")


BAD = {
    "missing": (
        [("gone.png", "a"), ("away.png", "b")],
        "2 of 8 rows name no file there (line 8: 'gone.png'; line 9: 'away.png')",
    ),
    "above": ([("../x.png", "a")], "1 of 7 rows name a file outside of the table's folder (line 8: '../x.png')"),
    "absolute": ([("/etc/passwd", "a")], "name a file outside of the table's folder"),
    "drive": ([("C:\\x.png", "a")], "name a file outside of the table's folder"),
    "url": ([("https://example.org/x.png", "a")], "name a file outside of the table's folder"),
    "other label": ([("images/0.png", "b")], "1 of 7 rows have a file that is there before, with another label"),
    "empty": ([("images/0.png", ""), ("images/1.png", "  ")], "2 of 8 labels are empty; fill them"),
    "no file": ([("", "a")], "1 of 7 rows have no file (line 8: '')"),
    "control": ([("images/0.png", "a\x07b")], "control characters"),
    "one look": ([("images/0.png", "caf\u00e9"), ("images/1.png", "cafe\u0301")], "Unicode normalisation"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_named_and_counted(tmp_path, kind):
    rows, message = BAD[kind]
    good = [{"file": file, "label": "a"} for file in draw(tmp_path)]
    path = write(tmp_path / "labels.csv", [*good, *({"file": file, "label": label} for file, label in rows)])
    text = refusal(path)
    assert message in text, text


def test_rows_that_repeat_are_counted_once(tmp_path):
    files = draw(tmp_path, 2)
    rows = [{"file": each, "label": "a"} for each in (*files, f"./{files[0]}", files[1])]
    images = open_images(write(tmp_path / "labels.csv", rows), [None], USUAL)[None]
    assert len(images) == 2
    assert images.passed_over() == ["2 rows repeat another one, with the same label: counted once"]


TASKS = {
    "multi-label": [["a", "b"], ["a"]],
    "multi-label ": ["['a', 'b']", "['a']"],
    "boxes": [{"x": 1}, {"x": 2}],
    "regression": [0.5, 1.25],
    "regression ": ["0.5", "3"],
    "segmentation": ["masks/0.png", "masks/1.png"],
    "below 0": [3, -1],
    "mixed type": [1, "cat"],
    "empty": [1, None],
    "empty ": [1.0, float("nan")],
    "one number": ["01", "1"],
    "too large": ["1" * 30, "2"],
}


@pytest.mark.parametrize("task", TASKS)
def test_other_tasks_are_named(tmp_path, task):
    text = refusal(labelled(tmp_path, TASKS[task], "labels.jsonl"))
    assert task.strip() in text, text
    if task[:5] not in ("segme", "one n", "too l"):
        assert "of 2 labels are" in text and "line " in text


@pytest.mark.parametrize(
    ("column", "task"),
    [
        ("bbox", "boxes"),
        ("objects", "boxes"),
        ("mask", "segmentation"),
        ("tags", "multi-label"),
        ("score", "regression"),
    ],
)
def test_columns_of_other_tasks_are_named(tmp_path, column, task):
    files = draw(tmp_path)
    text = refusal(write(tmp_path / "labels.csv", [{"file": each, column: 1} for each in files]))
    assert "no column of labels" in text and task in text and text.endswith("are not supported")


def test_words_among_numbers_are_words_in_text_and_that_is_said():
    names, labels, notes = number_labels(["10", "9", "other"], source="s", describe=str, is_text=True)
    assert names == ("10", "9", "other") and labels.tolist() == [0, 1, 2]
    assert notes[0] == "2 labels are numbers and 1 are words: all are taken for words"
    assert number_labels([True, False], source="s", describe=str, is_text=False)[0] == ("false", "true")


def test_labels_that_join_others_are_said_to_be_several():
    names, labels, notes = number_labels(["cat", "cat|dog", "dog", "a/b"], source="s", describe=str, is_text=True)
    assert len(names) == 4 and len({*labels.tolist()}) == 4
    assert notes[0].startswith("1 classes are called by several others ('cat|dog')") and "multi-label" in notes[0]


def damaged_parquet(values: pa.Array) -> bytes:
    data = BytesIO()
    table = pa.table({"file": ["images/0.png"], "label": values})
    pq.write_table(table, data, compression="none", use_dictionary=False)
    return data.getvalue().replace(b"caf\xc3\xa9", b"caf\xc3\xff")


DAMAGED = {
    "nothing.csv": (b"", "no column of files"),
    "header.csv": (b"file,label\n", "no rows"),
    "headless.csv": (b"images/0.png,a\n", "no column of files (file, file_name, filename, path) among 'images/0.p"),
    "ragged.csv": (b"file,label\na.png,a,b\nimages/1.png,b\n", "1 rows have not the 2 cells of the first line (line 2"),
    "latin.csv": (b"file,label\nimages/0.png,caf\xe9\n", "line 2 is not UTF-8"),
    "quote.csv": (b'file,label\n"images/0.png,a\n', "line 2: unexpected end of data"),
    "long.csv": (b"x" * 200_000 + b",label\nimages/0.png,a\n", "line 1: field larger than field limit"),
    "huge.csv": (b"file,label\n" + b"x" * 200_000 + b",a\n", "field larger than field limit"),
    "twice.csv": (b"file,label,label\nimages/0.png,a,b\n", "two columns are called 'label'"),
    "pointer.csv": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "no.jsonl": (b'{"file": "images/0.png"\n', "line 1 is no JSON"),
    "list.jsonl": (b'["images/0.png", "a"]\n', "line 1 is no JSON object"),
    "deep.jsonl": (b"[" * 100_000, "line 1 is no JSON"),
    "no.parquet": (b"PAR1" * 20, "no whole parquet file"),
    "empty.parquet": (b"", "no whole parquet file"),
    "latin.parquet": (damaged_parquet(pa.array(["caf\u00e9"])), "a column cannot be read"),
    "late.parquet": (
        damaged_parquet(pa.array([2**61], pa.int64()).cast(pa.timestamp("us"))),
        "a column cannot be read (date value out of range)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_table(tmp_path, name):
    draw(tmp_path)
    data, message = DAMAGED[name]
    (tmp_path / name).write_bytes(data)
    assert message in refusal(tmp_path / name)


def test_tables_too_large_are_refused_unread(tmp_path):
    table = labelled(tmp_path, ["a", "b"])
    with table.open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    assert "tables of text have at most" in refusal(table)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "neither a folder nor a table" in refusal(tmp_path / "pipe.csv")


def test_two_tables_and_metadata_without_labels(tmp_path):
    labelled(tmp_path, ["a", "b"])
    labelled(tmp_path, ["a", "b"], "metadata.csv")
    assert "holds labels.csv and metadata.csv" in refusal(tmp_path)
    folder = tmp_path / "captions"
    files = draw(folder)
    write(folder / "metadata.csv", [{"file_name": each, "text": "a cat"} for each in files])
    images = open_images(folder, [None], USUAL)[None]  # class folders, as before
    assert images.class_names == ("images",) and images.others == {".csv": 1}
    for each in files:
        (folder / each).rename(folder / Path(each).name)
    (folder / "images").rmdir()
    assert "captions are not supported" in refusal(folder)


def test_other_extensions_are_passed_over_and_counted(tmp_path):
    files = draw(tmp_path, 2) + draw(tmp_path, 2, "gif")
    table = write(tmp_path / "labels.csv", [{"file": each, "label": "a"} for each in files])
    images = open_images(table, [None], USUAL)[None]
    assert len(images) == 2 and images.others == {".gif": 2}
    assert images.passed_over() == ["2 .gif: no images by their extension, passed over"]


def test_links_out_of_the_folder_are_followed_as_everywhere(tmp_path):
    draw(tmp_path / "apart", 1)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "apart" / "images" / "0.png")
    table = write(tmp_path / "set" / "labels.csv", [{"file": "a.png", "label": "x"}])
    assert len(open_images(table, [None], USUAL)[None]) == 1


def test_a_table_is_packed(tmp_path, monkeypatch, capsys):
    labels = ["10", "9", "10", "9", "10", "9"]
    labelled(tmp_path / "set", labels, split=["train"] * 4 + ["test"] * 2)
    monkeypatch.chdir(tmp_path)
    assert run(["pack", "set"]) == 2 and "give --split train" in capsys.readouterr().err
    assert run(["pack", "set/labels.csv", "--split", "train", "--split", "test"]) == 0
    manifest = load_manifest(tmp_path / "set-shards" / "train")
    assert manifest.class_names == ("9", "10") and manifest.num_samples == 4
    samples = {each.metadata["file"]: each for each in open_shards(tmp_path / "set-shards" / "test")}
    assert {name: each.label for name, each in samples.items()} == {"images/4.png": 1, "images/5.png": 0}
    assert np.array_equal(samples["images/4.png"].image, pixels(4))
    assert run(["verify", "set-shards/train"]) == 0
    labelled(tmp_path / "set", labels[::-1], split=["train"] * 4 + ["test"] * 2)
    capsys.readouterr()
    assert run(["pack", "set", "--split", "train", "--split", "test"]) == 2  # other labels: another listing
    assert "packed from other files" in capsys.readouterr().err


def test_training_reads_a_table(tmp_path):
    labels = ["b", "a"] * 12
    table = labelled(tmp_path, labels, split=["train"] * 16 + ["val"] * 4 + ["test"] * 2 + ["more"] * 2)
    for path in (table, tmp_path):
        splits = open_splits(str(path))
        assert [len(each) for each in (splits.train, splits.val, splits.test)] == [16, 4, 2]
        assert splits.train.class_names == ("a", "b") and "not read: split 'more'" in splits.description
        assert splits.test.labels.tolist() == [0, 1]
        image = splits.test.open(1)
        assert np.array_equal(np.asarray(image), pixels(20))
    labelled(tmp_path / "one", labels)
    splits = open_splits(str(tmp_path / "one"))
    assert len(splits.train) + len(splits.val) == 24 and splits.test is None
    with pytest.raises(UsageError, match="the images that are trained on"):
        open_splits(str(tmp_path / "one"), test=str(tmp_path / "one"))
    with pytest.raises(UsageError, match=r"no split train in it; there are 'b', 'a'"):
        open_splits(str(table), columns=Columns(split_column="label"))


def test_probes_and_comparisons_take_the_columns_too(tmp_path):
    files = draw(tmp_path, 12)
    rows = [{"file": each, "species": n % 3, "fold": "test" if n > 8 else "train"} for n, each in enumerate(files)]
    table = write(tmp_path / "labels.csv", rows)
    words = {"label_column": "species", "split_column": "fold"}
    overrides = tuple(f"columns.{name}={value}" for name, value in words.items())
    command = FinetuneCommand(config=None, overrides=overrides, data=str(table), model="vit_tiny_patch16_224")
    assert check_data(command, [0]) == 3
    fields = {f"columns.{name}" for name in ("file_column", "label_column", "split_column")}
    assert fields <= set(OPTIONS)
    (task,) = open_tasks(ProbeSettings(data=(str(table),), columns=Columns(**words), k=3))
    assert (len(task.train), len(task.test)) == (9, 3) and task.train.class_names == ("0", "1", "2")


def test_a_table_in_each_split_is_hugging_faces_way(tmp_path):
    for split in ("train", "test"):
        files = draw(tmp_path / split, 8)
        rows = [{"file_name": each, "label": label} for each, label in zip(files, "bababbaa", strict=True)]
        write(tmp_path / split / "metadata.jsonl", rows)
    splits = open_splits(str(tmp_path))
    assert (len(splits.train) + len(splits.val), len(splits.test)) == (8, 8)
    assert splits.train.class_names == splits.test.class_names == ("a", "b")
    ours = open_images(tmp_path, ["test"], USUAL)["test"]
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))["test"]
    label_of_pixels = {np.asarray(row["image"]).tobytes(): row["label"] for row in theirs}
    for number in range(8):
        image = np.asarray(Image.open(ours.describe(number)))
        assert label_of_pixels[image.tobytes()] == ours.class_names[ours.label(number)]
