"""Sets by timm's names: torchvision's, TensorFlow's, local folders of such a name."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image
from test_examples import decode, look, refused, write_folder

from fracgen.train.data import catalog
from fracgen.train.data.opening import open_examples
from fracgen.train.data.pixels import PixelReader, sample_shape
from fracgen.train.data.skipped import SkippedDataWarning
from fracgen.train.data.splits import open_splits

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded.*fork")


def write_cifar(root, monkeypatch):
    """CIFAR-10 as torchvision keeps it, of two images a batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        data = np.full((2, 3072), 9, np.uint8) if name != "test_batch" else np.zeros((2, 3072), np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car"]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: os.path.exists(path))  # noqa: PTH110


def test_timm_opens_torchvisions_sets(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    splits = open_splits("torch/cifar10", root=str(tmp_path), val_share=0.2)
    assert splits.train.class_names == ("plane", "car")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 2, 2)
    assert splits.train.open(0).getpixel((0, 0)) == (9, 9, 9) and splits.test.open(1).getpixel((0, 0)) == (
        0,
        0,
        0,
    )
    assert decode(splits.train).images.shape == (8, 3, 32, 32)
    ((_, labels),) = look(PixelReader(splits.test, sample_shape(splits.test), any_size=True), workers=1)
    assert labels.tolist() == [0, 1]
    assert len(open_examples("torch/cifar10", root=str(tmp_path))) == 10


def test_a_set_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    refused("torch/cifar100: its split 'train' cannot be opened", "torch/cifar100", root=str(tmp_path))
    refused("torch/nothing: .*Unknown", "torch/nothing", root=str(tmp_path))


def test_sets_of_tensorflow_are_kept_in_memory(monkeypatch):
    class Fake:
        def __init__(self, split):
            splits = {"train": 0, "validation": 0, "test": 0}
            info = type("Info", (), {"splits": splits})
            self.reader = type(
                "Reader", (), {"class_to_idx": {"x": 0, "y": 1}, "builder": type("B", (), {"info": info})}
            )
            self.labels = {"train": [0, 1, 0, 1], "validation": [1], "test": [-1, -1]}[split]

        def __iter__(self):
            return ((Image.new("RGB", (5, 5), (n, 0, 0)), label) for n, label in enumerate(self.labels))

    monkeypatch.setattr(catalog, "_create", lambda data, root, split: Fake(split))
    splits = open_splits("tfds/fake", val_share=0)
    assert splits.train.class_names == ("x", "y") and splits.train.open(3).getpixel((0, 0)) == (3, 0, 0)
    assert splits.test.labels.tolist() == [1], "a test split without labels is none"


def test_images_of_other_formats_are_left_out_with_a_word(tmp_path):
    write_folder(tmp_path / "train", (3, 3, 3))
    (tmp_path / "train" / "bee" / "x.GIF").write_bytes(b"GIF89a")
    (tmp_path / "train" / "bee" / "notes.txt").write_text("none")
    with pytest.warns(SkippedDataWarning, match=r"1 \.gif, 1 \.txt: no images by their extension"):
        assert len(open_splits(str(tmp_path), val_share=0).train) == 9


def test_a_local_folder_of_a_sets_name_is_taken_and_that_is_said(tmp_path, monkeypatch):
    write_folder(tmp_path / "hfds" / "cifar10" / "train", (3, 3, 3))
    monkeypatch.chdir(tmp_path)
    splits = open_splits("hfds/cifar10", val_share=0)
    assert len(splits.train) == 9 and splits.description.startswith("hfds/cifar10: a local folder is taken; ")
