"""Exports hold what the shards or the model hold, read back by others; or they are not there at all."""

import errno
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import contents
from PIL import Image
from test_verify import forge_tar

from fracgen.cli.app import run
from fracgen.export import to_image_folder, to_parquet
from fracgen.noise import Noise
from fracgen.render_shards import plan, write_shards
from fracgen.shards.data_card import CardText
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.export_images import folder_names
from fracgen.shards.export_parquet import export_parquet
from fracgen.shards.files import take_lock
from fracgen.shards.new_folder import new_folder
from fracgen.shards.reader import open_shards


@pytest.fixture
def offline(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def encoded(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Label and image of each sample by its key."""
    shards = open_shards(folder)
    samples = [sample for shard in range(len(shards.manifest.shards)) for sample in shards.read_encoded_shard(shard)]
    return {sample.key: (sample.label, sample.image_bytes) for sample in samples}


def test_paths_may_be_text(folder, tmp_path):
    to_parquet(str(folder), str(tmp_path / "parquet"))
    to_image_folder(str(folder), str(tmp_path / "images"))
    assert {path.name for path in tmp_path.iterdir()} == {"parquet", "images"}


# ---- parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_has_what_the_shards_have(folder, tmp_path, offline):
    import datasets

    to_parquet(folder, tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows.features["image"] == datasets.Image()
    assert rows.features["label"] == datasets.ClassLabel(names=[f"{label:02d}" for label in range(24)])
    raw = rows.cast_column("image", datasets.Image(decode=False))
    assert {row["key"]: (row["label"], row["image"]["bytes"]) for row in raw} == encoded(folder)
    samples = {f"{sample.index:06d}": sample for sample in open_shards(folder)}
    for row in rows:
        sample = samples[row["key"]]
        assert np.array_equal(np.asarray(row["image"]), sample.image) and row["metadata"] == sample.metadata
    first = next(iter(datasets.load_dataset(str(tmp_path / "out"), split="train", streaming=True)))
    assert first["image"].size == (48, 48)


def test_one_parquet_file_tells_its_features_alone(folder, tmp_path, offline):
    import datasets

    (name,) = to_parquet(folder, tmp_path / "out")
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / name), split="train")
    assert rows.features["label"].names[23] == "23" and rows.features["image"] == datasets.Image()
    by_card = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert by_card.features == rows.features


def test_many_images_become_several_files_of_row_groups_that_a_viewer_can_read(tmp_path, offline):
    import datasets
    import pyarrow.parquet as pq

    recipe = Noise(classes=1_001, size=32, kind="uniform")
    write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=5))
    shards = open_shards(tmp_path / "set")
    (tmp_path / "out").mkdir()
    names = export_parquet(shards, tmp_path / "out", CardText(), file_bytes=shards.manifest.num_bytes // 3)
    assert names == [f"data/train-{number:05d}-of-00004.parquet" for number in range(4)]
    files = [pq.ParquetFile(tmp_path / "out" / name) for name in names]
    groups = [file.metadata.row_group(n).num_rows for file in files for n in range(file.metadata.num_row_groups)]
    assert sum(groups) == 1_001 and max(groups) == 100
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert len(rows) == 1_001 and sorted(rows["label"]) == list(range(1_001))
    schema = json.loads(files[0].schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert len(schema["label"]["names"]) == 1_001, "the names that are too many for the card"


def test_the_same_set_gives_the_same_parquet(folder, tmp_path):
    for name in ("one", "two"):
        to_parquet(folder, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_metadata_of_another_type_is_named(folder, tmp_path, monkeypatch):
    shards = open_shards(folder)
    original = shards.read_encoded_shard

    def damaged(shard):
        for sample in original(shard):
            sample.metadata["fill_rate"] = "a half" if shard == 3 else sample.metadata["fill_rate"]
            yield sample

    monkeypatch.setattr(shards, "read_encoded_shard", damaged)
    with pytest.raises(DataError, match="metadata of another type"), new_folder(tmp_path / "out") as temporary:
        export_parquet(shards, temporary, CardText())
    assert not list(tmp_path.iterdir())


# ---- image folders ---------------------------------------------------------------------------------------------------


def test_an_image_folder_is_read_by_everybody(folder, tmp_path, offline):
    import datasets
    from torchvision.datasets import ImageFolder

    assert to_image_folder(folder, tmp_path / "out") == 24
    expected = {key: (label, hashlib.sha256(data).hexdigest()) for key, (label, data) in encoded(folder).items()}
    found = {}
    for path, label in ImageFolder(str(tmp_path / "out" / "train")).samples:
        found[Path(path).stem] = (label, hashlib.sha256(Path(path).read_bytes()).hexdigest())
    assert found == expected
    by_timm = timm.data.create_dataset("", str(tmp_path / "out"), split="train")
    assert {Path(by_timm.filename(n)).stem: by_timm.reader[n][1] for n in range(24)} == {
        key: label for key, (label, _) in expected.items()
    }
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows.features["label"].names == [f"{label:02d}" for label in range(24)]
    assert run(["pack", str(tmp_path / "out"), "--split", "train", "--out", str(tmp_path / "packed")]) == 0
    packed = encoded(tmp_path / "packed" / "train")
    assert sorted(packed.values()) == sorted(encoded(folder).values())


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["00", "01"], ["00", "01"]),
        (["dog", "cat"], ["0-dog", "1-cat"]),
        (["1", "10", "2"], ["0-1", "1-10", "2-2"]),
        (["Cat", "cat"], ["0-Cat", "1-cat"]),
        (["a/b", "a:b"], ["0-a-b", "1-a-b"]),
        (["..", "con"], ["0", "1-con"]),
        (["", "\u732b"], ["0", "1"]),
        ([str(n) for n in range(11)], [f"{n:02d}-{n}" for n in range(11)]),
        (["x" * 200], ["0-" + "x" * 100]),
    ],
)
def test_folders_are_safe_and_sort_as_labels(names, folders):
    assert folder_names(names) == folders == sorted(folders)


def test_classes_whose_folders_have_other_names_are_listed(tmp_path):
    from torchvision.datasets import ImageFolder

    for name in ("z", "a b:c"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / name / "1.png")
    assert run(["pack", str(tmp_path / "images"), "--out", str(tmp_path / "set")]) == 0
    to_image_folder(tmp_path / "set", tmp_path / "out")
    assert ImageFolder(str(tmp_path / "out" / "train")).classes == ["0-a-b-c", "1-z"]
    assert (tmp_path / "out" / "classes.tsv").read_text() == "folder\tname\n0-a-b-c\ta b:c\n1-z\tz\n"


# ---- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", [to_parquet, to_image_folder])
@pytest.mark.parametrize("label", [b"-1", b"24", b"9" * 30])
def test_a_label_that_is_no_class_is_named(folder, tmp_path, export, label):
    """Forged so that the file has the sha256 that the manifest says: the last class would have had label -1."""
    copy = Path(shutil.copytree(folder, tmp_path / "set"))
    forge_tar(copy, lambda members: [(members[0][0], label), *members[1:]])
    with pytest.raises(DataError, match=r"000002\.tar: sample 0000\d\d: label -?\d+"):
        export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"its label is not in 0\.\.23"):
        _ = open_shards(copy).labels


def test_no_member_of_a_tar_leads_out_of_the_folder(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "set"))

    def lead_away(members):
        for member, _ in members[:3]:
            member.name = f"{tmp_path}/away{member.name[member.name.index('.') :]}"
        return members

    forge_tar(copy, lead_away)
    for export in (to_image_folder, to_parquet):
        with pytest.raises(DataError, match="away: its key is no index"):
            export(copy, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("export", [to_parquet, to_image_folder])
def test_a_damaged_set_is_not_exported(folder, tmp_path, export):
    copy = Path(shutil.copytree(folder, tmp_path / "set"))
    data = bytearray((copy / "1p-frac-train-000004.tar").read_bytes())
    data[3000] ^= 1
    (copy / "1p-frac-train-000004.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"000004\.tar: sha256 differs"):
        export(copy, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_is_stopped_leaves_nothing(folder, tmp_path, monkeypatch, error):
    def fail(*words, **options):
        raise error

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", fail)
    expected = DataError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        to_parquet(folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert expected is KeyboardInterrupt or "No space left on device" in str(caught.value)


def test_what_a_kill_left_is_removed_and_two_at_once_are_refused(folder, tmp_path):
    left = tmp_path / ".out.unfinished"
    (left / "data").mkdir(parents=True)
    (left / "data" / "train-00000-of-00001.parquet").write_bytes(b"half")
    lock = take_lock(left / ".lock")
    with pytest.raises(UsageError, match="another process writes it"):
        to_parquet(folder, tmp_path / "out")
    lock.close()
    (tmp_path / "out").mkdir()
    to_parquet(folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "data"] and not left.exists()


def test_a_folder_that_holds_something_is_left(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert run(["export", str(folder), "--to", "imagefolder", "--out", str(tmp_path / "out")]) == 2
    assert "not empty; name another folder with --out" in capsys.readouterr().err
    assert contents(tmp_path / "out") == {"mine": b"mine"}
    (tmp_path / "file").write_text("")
    assert run(["export", str(folder), "--to", "parquet", "--out", str(tmp_path / "file")]) == 2
    assert run(["export", str(folder), "--to", "parquet", "--out", "s3://bucket/x"]) == 2
    assert run(["export", str(tmp_path / "none"), "--to", "parquet"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_the_command_says_what_it_wrote(folder, tmp_path, capsys):
    copy = Path(shutil.copytree(folder, tmp_path / "set"))
    assert run(["export", str(copy), "--to", "parquet", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["out"] == str(tmp_path / "set-parquet") and values["files"] == 1 and values["bytes"] > 5000


# ---- ONNX ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory, folder) -> Path:
    place = tmp_path_factory.mktemp("run")
    words = ["--steps=2", "--batch-size=4", "--workers=0", "--device=cpu", "augment.size=32", "run.clean_images=0"]
    words += [f"model.options.{option}" for option in ("patch_size=8", "depth=2", "embed_dim=16", "num_heads=2")]
    assert run(["pretrain", "--shards", str(folder), "--out", str(place / "run"), *words]) == 0
    return place / "run" / "model"


def test_onnx_says_what_torch_says(model, folder, tmp_path, capsys):
    import onnx
    import onnxruntime

    assert run(["export", str(model), "--to", "onnx", "--out", str(tmp_path / "out")]) == 0
    assert "4 images: logits of onnxruntime within" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "config.json", "model.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    plain = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    images = torch.stack([transform(Image.fromarray(sample.image).convert("RGB")) for sample in open_shards(folder)])
    with torch.no_grad():
        expected = plain(images).numpy()
    (actual,) = session.run(["logits"], {"images": images.numpy()})
    assert actual.shape == (24, 24) and np.allclose(actual, expected, rtol=1e-3, atol=1e-4)
    stored = {entry.key: entry.value for entry in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert json.loads(stored["input_size"]) == [3, 32, 32] and json.loads(stored["mean"]) == [0.5, 0.5, 0.5]
    assert stored["architecture"] == "vit_tiny_patch16_224" and stored["license"] == "mit"
    assert json.loads(stored["fracgen"])["data"]["recipe"] == "1p-frac"


def test_onnx_that_differs_is_not_written(model, tmp_path, monkeypatch):
    from fracgen.train.engine import export_onnx

    original = export_onnx._write

    def other(network, path, size):
        with torch.no_grad():
            network.head.bias += 0.01
        original(network, path, size)
        with torch.no_grad():
            network.head.bias -= 0.01

    monkeypatch.setattr(export_onnx, "_write", other)
    with pytest.raises(DataError, match=r"differ from torch's by up to 0\.01"), new_folder(tmp_path / "out") as out:
        export_onnx.export_onnx(model, out)
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_exported(model, tmp_path, capsys, monkeypatch):
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(b"")
    for words, message in (
        ([copy, "onnx"], "timm cannot load it"),
        ([model, "parquet"], "is a model; give --to onnx"),
        ([model.parent, "onnx"], f"its model is {model}"),
        ([tmp_path / "none", "onnx"], "no model that timm loads"),
        (["s3://bucket/model", "onnx"], "s3://bucket/model"),
    ):
        assert run(["export", str(words[0]), "--to", words[1], "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    assert run(["export", str(model), "--to", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'fracgen[onnx]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_that_is_taken_while_it_is_finished_stays_whole(tmp_path, monkeypatch):
    """Another process that comes between the last two steps is refused; it would empty what is being finished."""
    replace = Path.replace

    def come_between(self, target):
        with pytest.raises(UsageError, match="another process writes it"), new_folder(tmp_path / "out"):
            raise AssertionError("two write it")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", come_between)
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "x").write_text("whole")
    assert contents(tmp_path) == {"out/x": b"whole"}


def test_where_a_folder_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    with new_folder(tmp_path / "link") as temporary:
        (temporary / "x").write_text("whole")
    assert (tmp_path / "empty" / "x").read_text() == "whole" and (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for here in (".", "", "../here", tmp_path / "here"):  # what becomes its place would not be seen in this shell
        with pytest.raises(UsageError, match="is the current folder"), new_folder(Path(here)):
            raise AssertionError("it is found when all is written")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "here", "link"}
