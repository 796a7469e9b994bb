"""Labelled sets: what is found and carved, what is decoded, and the same batches whether in memory or not."""

import contextlib
import io
import itertools
import os
import pickle
import shutil
import tarfile
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.train.data.old import catalog as named
from fracgen.train.data.old.choose import Resident, open_source
from fracgen.train.data.old.samples import Skipped, SkippedDataWarning
from fracgen.train.data.old.splits import ExampleFeed, clean_batches, hold, needed, open_splits

CPU = torch.device("cpu")
CLASSES = ("ant", "bee", "cat")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded.*fork")


def color(label, number):
    return (80 * label, number, 7)


def write_folder(folder, counts=(20, 10, 30), classes=CLASSES, size=lambda n: (8, 8), suffix="png"):
    """Pictures whose colour says their class and number."""
    for label, (name, count) in enumerate(zip(classes, counts, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            Image.new("RGB", size(n), color(label, n)).save(folder / name / f"{n:03d}.{suffix}")
    return folder


def write_tar(path, labels, suffix="png"):
    """A tar of another origin, whose pictures' green says their number; returns its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (0, number, 0)).save(file, {"jpg": "JPEG"}.get(suffix, suffix))
            for extension, data in (("cls", str(label).encode()), (suffix, file.getvalue())):
                info = tarfile.TarInfo(f"x/{number:04d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """An image folder of train/ and test/; not to be changed."""
    path = tmp_path_factory.mktemp("labelled")
    write_folder(path / "train")
    write_folder(path / "test", (2, 3, 4))
    return path


@pytest.fixture
def broken(tmp_path):
    """One broken picture among nine."""
    write_folder(tmp_path / "train", (3, 3, 3))
    (tmp_path / "train" / "bee" / "001.png").write_bytes(b"no picture")
    return open_splits(str(tmp_path), val_share=0).train


def names(examples):
    return [examples.where(n) for n in range(len(examples))]


def refused(message, *arguments, **options):
    with pytest.raises(UsageError, match=message) as caught:
        open_splits(*map(str, arguments), **options)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Jitter:
    """Pixels and a random number, so that equal batches have equal draws."""

    side: int = 8

    def __call__(self, picture):
        assert picture.mode == "RGB"
        pixels = np.asarray(picture.resize((self.side, self.side)), np.float32).transpose(2, 0, 1)
        return torch.from_numpy(pixels.copy()) + torch.rand(1)


def plainly(picture):
    return torch.from_numpy(np.asarray(picture.resize((8, 8)), np.float32).transpose(2, 0, 1).copy())


def take(feed, num, start=0):
    with contextlib.closing(feed.batches(start)) as batches:
        return list(itertools.islice(batches, num))


def same(these, those):
    for one, other in zip(these, those, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert np.array_equal(one.positions, other.positions)


# what is found


def test_a_folder_is_read_in_the_order_of_names(where):
    splits = open_splits(str(where), val_share=0)
    train = splits.train
    assert train.class_names == CLASSES and splits.val is None
    assert len(train) == 60 and np.bincount(train.labels).tolist() == [20, 10, 30]
    assert names(train) == sorted(names(train))
    assert train.picture(25).getpixel((0, 0)) == color(1, 5) and train.picture(25).mode == "RGB"
    assert np.bincount(splits.test.labels).tolist() == [2, 3, 4]
    assert "60 images of 3 classes" in splits.description and "9 to report on" in splits.description
    assert len(train.fingerprint) == 64 and train.fingerprint == open_splits(str(where), val_share=0).train.fingerprint


def test_suffixes_nested_folders_and_hidden_files(tmp_path):
    for name in ("a/x.JPG", "a/deep/er/y.jpeg", "a/z.Png", "a/.hidden.png", "a/.no/h.png", "b/w.webp", "b/v.BMP"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(name.split(".")[-1].lower(), name.split(".")[-1])
        Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "train" / name, kind)
    (tmp_path / "train" / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / "a" / "deep" / "loop").symlink_to(tmp_path / "train" / "a" / "deep")
    train = open_splits(str(tmp_path), val_share=0).train
    assert np.bincount(train.labels).tolist() == [3, 2]
    assert not any("hidden" in name or "/.no/" in name for name in names(train))
    assert hold(train, skipped=Skipped()).images.shape[1:] == (3, 4, 4)


def test_val_alone_is_reported_on_and_beside_test_chosen_on(where, tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", (1, 1, 1))
    splits = open_splits(str(tmp_path))
    assert splits.test.name.endswith("val") and len(splits.val) == 6 and len(splits.train) == 54
    both = open_splits(str(tmp_path), test=str(where / "test"))
    assert both.val.name.endswith("val") and len(both.test) == 9 and len(both.train) == 60
    given = open_splits(str(tmp_path), val=str(where / "test"))
    assert given.test.name.endswith("val") and len(given.val) == 9
    alone = open_splits(str(tmp_path), val=str(tmp_path / "val"))
    assert alone.test is None and len(alone.val) == 3
    write_folder(tmp_path / "test", (2, 2, 2))
    splits = open_splits(str(tmp_path))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (60, 3, 6)


def test_shards_of_ours_alone_and_as_splits(folder, tmp_path):
    whole = open_splits(str(folder), val_share=0).train
    assert len(whole) == len(whole.class_names) == 24 and sorted(whole.labels.tolist()) == list(range(24))
    held = hold(whole, skipped=Skipped())
    resident = Resident(open_source(str(folder)), batch_size=4, seed=0, device=CPU)
    assert torch.equal(held.images, resident.images) and torch.equal(held.labels, resident.labels)
    shutil.copytree(folder, tmp_path / "train")
    shutil.copytree(folder, tmp_path / "val")
    splits = open_splits(str(tmp_path), val_share=0)
    assert len(splits.test) == 24 and splits.train.fingerprint == whole.fingerprint


def test_tars_of_another_origin(tmp_path):
    write_tar(tmp_path / "t-000.tar", [0, 1, 2, 0])
    write_tar(tmp_path / "t-001.tar", [1, 2], suffix="jpg")
    pattern = str(tmp_path / "t-{000..001}.tar")
    train = open_splits(pattern, num_classes=3, val_share=0).train
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2] and train.class_names == ("0", "1", "2")
    assert [train.picture(n).getpixel((0, 0))[1] for n in range(6)] == [0, 1, 2, 3, 0, 1]
    assert train.where(4) == "t-001.tar: sample x/0000"
    beside = open_splits(pattern, num_classes=3, test=write_tar(tmp_path / "e.tar", [2]), val_share=0)
    assert beside.test.labels.tolist() == [2]
    refused("give --num-classes", pattern)
    refused("label 2, out of range", pattern, num_classes=2)
    refused("class '3' without images", pattern, num_classes=4)


def test_bad_samples_of_tars(tmp_path):
    write_tar(tmp_path / "t.tar", [0, 1, "x", 0, 1])
    with pytest.raises(DataError, match=r"t\.tar: sample x/0002: label 'x'"):
        open_splits(str(tmp_path / "t.tar"), num_classes=2, val_share=0)
    with pytest.warns(SkippedDataWarning, match="label 'x'"):
        splits = open_splits(str(tmp_path / "t.tar"), num_classes=2, val_share=0, skip_bad=True)
    assert splits.train.labels.tolist() == [0, 1, 0, 1] and splits.skipped == {"label": 1}
    whole = (tmp_path / "t.tar").read_bytes()
    write_tar(tmp_path / "t.tar", [0, 1, 0, 1])
    cut = open_splits(str(tmp_path / "t.tar"), num_classes=2, val_share=0).train
    (tmp_path / "t.tar").write_bytes(whole[:2000])
    with pytest.raises(DataError, match="its tar ends within it"):
        cut.picture(3)


# what is refused


def test_refused_folders(where, tmp_path):
    refused("no such folder, nor a name that timm knows", tmp_path / "nowhere")
    refused("no such folder", where, test=str(tmp_path / "nowhere"))
    refused("no train/ in it", where / "train")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    refused("no class folders", tmp_path / "empty")
    refused("bee: class without images", write_folder(tmp_path / "e1" / "train", (1, 0, 1)).parent)
    refused("only one class, 'ant'", write_folder(tmp_path / "e2" / "train", (3,), ("ant",)).parent)
    refused("val share 1", where, val_share=1.0)
    refused("--num-classes 4: .* has 3 classes", where, num_classes=4)


def test_classes_must_agree(where, tmp_path, folder):
    other = write_folder(tmp_path / "other", (1, 1, 1), ("ant", "bee", "dog"))
    refused("lacks 'cat', has also 'dog'", where, test=str(other))
    more = write_folder(tmp_path / "more", (1, 1, 1, 1), (*CLASSES, "dog"))
    refused("classes of .*has also 'dog'", where, val=str(more))
    refused("lacks .* and 19 more, has also", folder, test=str(where / "test"))


# what is carved


def test_carving_is_stratified_disjoint_and_by_seed(where):
    first, again, other = (open_splits(str(where), val_share=0.2, seed=seed) for seed in (1, 1, 2))
    assert np.bincount(first.val.labels).tolist() == [4, 2, 6]
    assert sorted(names(first.train) + names(first.val)) == names(open_splits(str(where), val_share=0).train)
    assert names(first.val) == names(again.val) != names(other.val)
    assert first.val.fingerprint == again.val.fingerprint != other.val.fingerprint
    for examples in (first.train, first.val):
        pixels = [examples.picture(n).getpixel((0, 0))[0] for n in range(len(examples))]
        assert pixels == [80 * label for label in examples.labels]


def test_few_of_each_class(where):
    five, ten = (open_splits(str(where), per_class=n, val_share=0, seed=3).train for n in (5, 10))
    assert np.bincount(five.labels).tolist() == [5, 5, 5] and set(names(five)) < set(names(ten))
    splits = open_splits(str(where), per_class=5, val_share=0.2, seed=3)
    assert (len(splits.train), len(splits.val)) == (12, 3)
    assert sorted(names(splits.train) + names(splits.val)) == names(five)
    refused("11 images per class: class 'bee' .* has 10", where, per_class=11)
    refused("none to choose on", where, per_class=1)
    assert open_splits(str(where), per_class=1, val_share=0).val is None


# what is decoded


def test_modes(tmp_path):
    gray16 = np.full((4, 4), 257 * 100, np.uint16)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    pictures = {
        "a/0.png": Image.new("L", (4, 4), 50),
        "a/1.png": Image.fromarray(gray16),
        "a/2.png": Image.new("LA", (4, 4), (200, 51)),
        "a/3.png": Image.new("RGBA", (4, 4), (200, 100, 50, 51)),
        "b/4.png": palette,
        "b/5.jpg": Image.new("CMYK", (4, 4), (0, 0, 0, 255)),
        "b/6.png": Image.new("1", (4, 4), 1),
    }
    for name, picture in pictures.items():
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "train" / name)
    train = open_splits(str(tmp_path), val_share=0).train
    found = [train.picture(n).getpixel((0, 0)) for n in range(7)]
    gray = [(50,) * 3, (100,) * 3, (40,) * 3]
    assert found == [*gray, (40, 20, 10), (9, 8, 7), (0, 0, 0), (255,) * 3]
    assert hold(train.take([0, 1, 2, 6]), skipped=Skipped()).images[:, :, 0, 0].tolist() == [[50], [100], [40], [255]]
    held = hold(train, skipped=Skipped(), threads=1)
    assert held.images.shape == (7, 3, 4, 4) and held.images[:, :, 0, 0].tolist() == [list(pixel) for pixel in found]


def test_holding_pictures_of_mixed_sizes(tmp_path):
    write_folder(tmp_path / "train", (2, 2, 2), size=lambda n: (30, 20 + n), suffix="jpg")
    train = open_splits(str(tmp_path), val_share=0).train
    with pytest.raises(UsageError, match=r"000\.jpg has 30 x 20, .*001\.jpg 30 x 21; give --resize N"):
        hold(train, skipped=Skipped())
    held, calls = hold(train, resize=8, skipped=Skipped()), []
    assert held.images.shape == (6, 3, 8, 8) and held.labels.tolist() == [0, 0, 1, 1, 2, 2]
    hold(train, resize=8, skipped=Skipped(), progress=lambda *words: calls.append(words))
    assert calls[-1] == (6, 6)
    assert needed(train, resize=8) == (6 * 3 * 64, True) and needed(train) == (6 * 3 * 30 * 21, False)


def test_broken_pictures(broken):
    with pytest.raises(DataError, match=r"bee/001\.png: no PNG, JPEG"):
        broken.picture(4)
    with pytest.raises(DataError, match=r"bee/001\.png"):
        hold(broken, skipped=Skipped())
    skipped = Skipped()
    with pytest.warns(SkippedDataWarning, match=r"bee/001\.png"):
        held = hold(broken, skip_bad=True, skipped=skipped)
    assert skipped.counts == {"image": 1} and held.numbers.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    with pytest.raises(DataError, match="no image of 1 can be used"), pytest.warns(SkippedDataWarning):
        hold(broken.take([4]), skip_bad=True, skipped=Skipped())


# feeds


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_feed_gives_the_batches_of_a_resident_set(where, workers, repeats):
    train = open_splits(str(where), val_share=0).train
    options = {"batch_size": 16, "seed": 5, "device": CPU, "transform": Jitter(), "repeats": repeats}
    resident = Resident.from_arrays(*hold(train, skipped=Skipped()), **options, num_workers=1)
    feed = ExampleFeed(train, **options, num_workers=workers)
    batches = take(resident, 9)
    same(take(feed, 9), batches)
    same(take(feed, 2, 7), batches[7:])
    assert feed.num_samples == resident.num_samples == 60 and not feed.skipped
    ranks = [take(ExampleFeed(train, **options, num_workers=1, rank=rank, world=2), 2) for rank in range(2)]
    for step in range(2):
        assert torch.equal(torch.cat([mine[step].images for mine in ranks]), batches[step].images)


def test_a_resident_set_of_arrays(where):
    train = open_splits(str(where), val_share=0).train
    held = hold(train, skipped=Skipped())
    resident = Resident.from_arrays(*held, batch_size=60, seed=1, device=CPU)
    (batch,) = take(resident, 1)
    assert sorted(batch.labels.tolist()) == train.labels.tolist()
    clean = list(resident.clean(batch_size=32))
    assert torch.equal(torch.cat([each.images for each in clean]), held.images)
    with pytest.raises(UsageError, match="--batch-size 61"):
        Resident.from_arrays(*held, batch_size=61, seed=1, device=CPU)


def test_a_feed_replaces_what_is_broken(broken):
    options = {"batch_size": 9, "seed": 1, "device": CPU, "transform": Jitter()}
    with pytest.raises(UsageError, match=r"bee/001\.png"):
        take(ExampleFeed(broken, **options, num_workers=2), 1)
    found = []
    for workers in (1, 3):
        feed = ExampleFeed(broken, **options, num_workers=workers, skip_bad=True)
        with pytest.warns(SkippedDataWarning, match=r"bee/001\.png"):
            found.append(take(feed, 4))
        assert feed.skipped == {"image": 1}, "once, although every epoch and worker meets it"
    same(*found)
    seen = [(batch.images[:, :2, 0, 0].floor()).tolist() for batch in found[0]]
    assert all([80.0, 1.0] not in epoch and len(epoch) == 9 for epoch in seen)
    with pytest.raises(DataError, match=r"no image of 1 can be used; .*bee/001\.png"):
        take(ExampleFeed(broken.take([4]), **{**options, "batch_size": 1}, num_workers=1, skip_bad=True), 1)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 1), (7, 2)])
def test_clean_batches_have_every_example_once(where, world, workers):
    test = open_splits(str(where), val_share=0).test.take(range(5))
    numbers, labels = [], []
    for rank in range(world):
        for images, mine, few in clean_batches(test, plainly, 2, rank, world, workers):
            assert len(images) == len(few) <= 2 and images.shape[1:] == (3, 8, 8) and images.dtype == torch.float32
            for image, number in zip(images, few, strict=True):
                assert torch.equal(image, plainly(test.picture(number)))
            numbers, labels = numbers + few.tolist(), labels + mine.tolist()
        assert world > 1 or numbers == sorted(numbers)
    assert sorted(numbers) == list(range(5)) and [test.labels[n] for n in numbers] == labels


def test_clean_batches_leave_out_what_is_broken(broken):
    with pytest.raises(UsageError, match=r"bee/001\.png"):
        list(clean_batches(broken, plainly, 4))
    skipped = Skipped()
    with pytest.warns(SkippedDataWarning):
        batches = list(clean_batches(broken, plainly, 1, num_workers=2, skip_bad=True, skipped=skipped))
    assert [batch.positions.tolist() for batch in batches] == [[n] for n in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert skipped.counts == {"image": 1}


def test_tars_are_read_by_many_forked_workers(tmp_path):
    tar = write_tar(tmp_path / "t.tar", [n % 2 for n in range(60)])
    train = open_splits(tar, num_classes=2, val_share=0).train
    train.picture(0)
    batches = list(clean_batches(train, plainly, 10, num_workers=4))
    assert [int(image[1, 0, 0]) for batch in batches for image in batch.images] == list(range(60))
    pickled = pickle.loads(pickle.dumps(train))
    assert pickled.picture(7).getpixel((0, 0)) == (0, 7, 0)


# timm's names


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
    assert splits.train.picture(0).getpixel((0, 0)) == (9, 9, 9) and splits.test.picture(1).getpixel((0, 0)) == (
        0,
        0,
        0,
    )
    assert hold(splits.train, skipped=Skipped()).images.shape == (8, 3, 32, 32)
    (batch,) = clean_batches(splits.test, plainly, 4, num_workers=1)
    assert batch.labels.tolist() == [0, 1]


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

    monkeypatch.setattr(named, "_create", lambda data, root, split: Fake(split))
    splits = open_splits("tfds/fake", val_share=0)
    assert splits.train.class_names == ("x", "y") and splits.train.picture(3).getpixel((0, 0)) == (3, 0, 0)
    assert splits.test.labels.tolist() == [1], "a test split without labels is none"


def test_images_of_other_formats_are_left_out_with_a_word(tmp_path):
    write_folder(tmp_path / "train", (3, 3, 3))
    (tmp_path / "train" / "bee" / "x.GIF").write_bytes(b"GIF89a")
    (tmp_path / "train" / "bee" / "notes.txt").write_text("none")
    with pytest.warns(SkippedDataWarning, match=r"left out: 1 images of formats that are not read, as bee/x\.GIF"):
        assert len(open_splits(str(tmp_path), val_share=0).train) == 9
