"""Labelled sets: splits that lie there or are held out, what is decoded, and the same batches in memory or not."""

import contextlib
import io
import itertools
import pickle
import shutil
import tarfile
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.train.data.loader import TrainLoader, eval_batches
from fracgen.train.data.opening import open_examples
from fracgen.train.data.pixels import PixelReader, load_into_memory, sample_shape
from fracgen.train.data.settings import LoaderSettings
from fracgen.train.data.skipped import Skipped, SkippedDataWarning, read_good
from fracgen.train.data.splits import open_splits
from fracgen.train.data.subsets import evenly_spaced, stratified_subset
from fracgen.train.ranks import Ranks

CPU = torch.device("cpu")
CLASSES = ("ant", "bee", "cat")
GOOD = [(label, number) for label in range(3) for number in range(3) if (label, number) != (1, 1)]
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
    """One broken picture among nine; GOOD lists the labels and numbers of the others."""
    write_folder(tmp_path / "train", (3, 3, 3))
    (tmp_path / "train" / "bee" / "001.png").write_bytes(b"no picture")
    return open_splits(str(tmp_path), val_share=0).train


def names(examples):
    return [examples.describe(n) for n in range(len(examples))]


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


class Alone(Ranks):
    """One rank of several, without the others: what it asks them, it answers itself."""

    def __init__(self, rank=0, world=1):
        super().__init__(rank=rank, world=world, device=CPU)

    def agree(self, value):
        return value

    def union(self, values):
        return dict(values)


def plainly(picture):
    return torch.from_numpy(np.asarray(picture.resize((8, 8)), np.float32).transpose(2, 0, 1).copy())


def make(examples, mode="stream", *, rank=0, world=1, transform=None, others=(), **options):
    settings = LoaderSettings(**{"batch_size": 16, "mode": mode, "workers": 1, **options})
    return TrainLoader(examples, settings, seed=5, ranks=Alone(rank, world), transform=transform, others=others)


def decode(examples, *, resize=0, skip_bad=False, skipped=None, **options):
    reader = PixelReader(examples, sample_shape(examples, resize), resize)
    return load_into_memory(reader, skip_bad=skip_bad, skipped=skipped or Skipped(), **options)


def take(loader, num, start=0):
    with contextlib.closing(loader.batches(start)) as batches:
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
    assert train.open(25).getpixel((0, 0)) == color(1, 5) and train.open(25).mode == "RGB"
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
    assert decode(train).images.shape[1:] == (3, 4, 4)


def test_val_alone_is_reported_on_and_beside_test_chosen_on(where, tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", (1, 1, 1))
    splits = open_splits(str(tmp_path))
    assert splits.test.name.endswith("val") and len(splits.val) == 6 and len(splits.train) == 54
    both = open_splits(str(tmp_path), test=str(where / "test"))
    assert both.val.name.endswith("val") and len(both.test) == 9 and len(both.train) == 60
    opened = open_splits(str(tmp_path), val=str(where / "test"))
    assert opened.test.name.endswith("val") and len(opened.val) == 9
    alone = open_splits(str(tmp_path), val=str(tmp_path / "val"))
    assert alone.test is None and len(alone.val) == 3
    write_folder(tmp_path / "test", (2, 2, 2))
    splits = open_splits(str(tmp_path))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (60, 3, 6)
    for name in ("valid", "validation"):
        (tmp_path / ("val" if name == "valid" else "valid")).rename(tmp_path / name)
        assert len(open_splits(str(tmp_path)).val) == 3


def test_shards_of_ours_alone_and_as_splits(folder, tmp_path):
    whole = open_splits(str(folder), val_share=0).train
    assert len(whole) == len(whole.class_names) == 24 and sorted(whole.labels.tolist()) == list(range(24))
    lazy = decode(open_examples(str(folder)))
    assert torch.equal(decode(whole).images, lazy.images) and whole.labels.tolist() == lazy.labels.tolist()
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
    assert [train.open(n).getpixel((0, 0))[1] for n in range(6)] == [0, 1, 2, 3, 0, 1]
    assert train.describe(4) == "t-001.tar: sample x/0000"
    splits = open_splits(pattern, num_classes=3, test=write_tar(tmp_path / "e.tar", [2]), val_share=0)
    assert splits.test.labels.tolist() == [2]
    refused("give --num-classes", pattern)
    refused("label 2, out of range", pattern, num_classes=2)
    refused("class '3' without images", pattern, num_classes=4)


def test_bad_samples_of_tars(tmp_path):
    write_tar(tmp_path / "t.tar", [0, 1, "x", 0, 1])
    with pytest.raises(DataError, match=r"t\.tar: sample x/0002: label 'x'"):
        open_splits(str(tmp_path / "t.tar"), num_classes=2, val_share=0)
    with pytest.warns(SkippedDataWarning, match="label 'x'"):
        splits = open_splits(str(tmp_path / "t.tar"), num_classes=2, val_share=0, skip_bad=True)
    assert splits.train.labels.tolist() == [0, 1, 0, 1] and splits.skipped.counts == {"label": 1}
    whole = (tmp_path / "t.tar").read_bytes()
    write_tar(tmp_path / "t.tar", [0, 1, 0, 1])
    cut = open_splits(str(tmp_path / "t.tar"), num_classes=2, val_share=0).train
    (tmp_path / "t.tar").write_bytes(whole[:2000])
    with pytest.raises(DataError, match="its tar ends within it"):
        cut.open(3)


# what is refused


def test_refused_folders(where, tmp_path):
    refused("no such folder, nor a name that timm knows", tmp_path / "nowhere")
    refused("timm knows, did you mean 'torch/cifar10'?", "cifar-10")
    refused("timm knows, as torch/cifar100", "my-images")
    refused("no such folder", where, test=str(tmp_path / "nowhere"))
    refused("no train/ in it", where / "train")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    refused("no class folders", tmp_path / "empty")
    refused("bee: a class without images", write_folder(tmp_path / "e1" / "train", (1, 0, 1)).parent)
    refused("only one class, 'ant'", write_folder(tmp_path / "e2" / "train", (3,), ("ant",)).parent)
    refused("val share 1", where, val_share=1.0)
    refused("--num-classes 4: .* has 3 classes", where, num_classes=4)


def test_classes_must_agree(where, tmp_path, folder):
    other = write_folder(tmp_path / "other", (1, 1, 1), ("ant", "bee", "dog"))
    refused("lacks 'cat', has also 'dog'", where, test=str(other))
    more = write_folder(tmp_path / "more", (1, 1, 1, 1), (*CLASSES, "dog"))
    refused("classes of .*has also 'dog'", where, val=str(more))
    refused("lacks .* and 19 more, has also", folder, test=str(where / "test"))


# what is held out


def test_holding_out_is_stratified_disjoint_and_by_seed(where):
    first, again, other = (open_splits(str(where), val_share=0.2, seed=seed) for seed in (1, 1, 2))
    assert np.bincount(first.val.labels).tolist() == [4, 2, 6]
    assert sorted(names(first.train) + names(first.val)) == names(open_splits(str(where), val_share=0).train)
    assert names(first.val) == names(again.val) != names(other.val)
    assert first.val.fingerprint == again.val.fingerprint != other.val.fingerprint
    for examples in (first.train, first.val):
        pixels = [examples.open(n).getpixel((0, 0))[0] for n in range(len(examples))]
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
    colors = [train.open(n).convert("RGB").getpixel((0, 0)) for n in range(7)]
    assert [train.open(n).mode for n in (0, 3)] == ["L", "RGB"]
    gray = [(50,) * 3, (100,) * 3, (40,) * 3]
    assert colors == [*gray, (40, 20, 10), (9, 8, 7), (0, 0, 0), (255,) * 3]
    assert decode(train.subset([0, 1, 2, 6])).images[:, :, 0, 0].tolist() == [[50], [100], [40], [255]]
    in_memory = decode(train)
    assert in_memory.images.shape == (7, 3, 4, 4) and in_memory.images[:, :, 0, 0].tolist() == [
        list(pixel) for pixel in colors
    ]


def test_pictures_of_mixed_sizes(tmp_path):
    write_folder(tmp_path / "train", (2, 2, 2), size=lambda n: (30, 20 + n), suffix="jpg")
    train = open_splits(str(tmp_path), val_share=0).train
    with pytest.raises(
        UsageError, match=r"000\.jpg has 30 x 20 pixels, .*001\.jpg has 30 x 21 pixels; give --resize N"
    ):
        make(train, "memory")
    in_memory, calls = decode(train, resize=8), []
    assert in_memory.images.shape == (6, 3, 8, 8) and in_memory.labels.tolist() == [0, 0, 1, 1, 2, 2]
    decode(train, resize=8, progress=lambda *words: calls.append(words))
    assert calls[-1] == (6, 6)
    shape = sample_shape(train)
    assert (shape.num_bytes, shape.sampled) == (3 * 30 * 21, True) and "000.jpg has 30 x 20" in shape.differing
    assert sample_shape(train, 8).num_bytes == 3 * 64 and not sample_shape(train, 8).differing


def test_broken_pictures(broken):
    with pytest.raises(DataError, match=r"bee/001\.png: no JPEG, PNG") as caught:
        broken.open(4)
    assert caught.value.exit_code == 2, "the user's to mend"
    with pytest.raises(DataError, match=r"bee/001\.png"):
        decode(broken)
    skipped = Skipped()
    with pytest.warns(SkippedDataWarning, match=r"bee/001\.png"):
        in_memory = decode(broken, skip_bad=True, skipped=skipped)
    assert skipped.counts == {"image": 1} and in_memory.numbers.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert in_memory.rows.tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 7], "the next in place of the broken one"
    with pytest.raises(DataError, match=r"bee/001\.png"):
        decode(broken.subset([4]), skip_bad=True)


def test_pictures_read_one_by_one(broken):
    def read(number):
        return np.asarray(broken.open(number))

    with pytest.raises(DataError, match=r"bee/001\.png"):
        read_good(read, range(9), broken.describe, skip_bad=False)
    numbers, arrays, skipped = read_good(read, [3, 4, 5], broken.describe, skip_bad=True)
    assert numbers == [3, 5] and [array[0, 0].tolist() for array in arrays] == [[80, 0, 7], [80, 2, 7]]
    assert [each.reason for each in skipped] == ["image"] and skipped[0].name == broken.describe(4)


# the loader


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("augment", ["device", "timm"])
def test_streamed_batches_are_those_in_memory(where, workers, repeats, augment):
    """Streamed images of a folder may differ in size, so workers transform them; so they do in memory with timm."""
    train = open_splits(str(where), val_share=0).train
    options = {"transform": Jitter(), "repeats": repeats, "workers": workers}
    stream = make(train, augment=augment, **options)
    batches = take(make(train, "memory", augment="timm", **options), 9)
    same(take(stream, 9), batches)
    same(take(stream, 2, 7), batches[7:])
    assert stream.transformed and stream.num_samples == 60 and not stream.skipped()
    ranks = [take(make(train, rank=rank, world=2, **options), 2) for rank in range(2)]
    for step in range(2):
        assert torch.equal(torch.cat([mine[step].images for mine in ranks]), batches[step].images)


def test_a_folder_is_fully_shuffled(where):
    """Its neighbours are of one class: blocks of them would not do."""
    train = open_splits(str(where), val_share=0).train
    (batch,) = take(make(train, "memory", batch_size=60, shuffle=4), 1)
    assert sorted(batch.labels.tolist()) == train.labels.tolist()
    assert set(batch.labels[:20].tolist()) == {0, 1, 2}
    same([batch], take(make(train, "memory", batch_size=60), 1))


def test_a_broken_picture_leaves_its_place_to_the_next(broken):
    options = {"batch_size": 9, "transform": Jitter(), "augment": "timm"}
    with pytest.raises(UsageError, match=r"bee/001\.png"):
        take(make(broken, workers=2, **options), 1)
    with pytest.warns(SkippedDataWarning, match=r"bee/001\.png"):
        memory = make(broken, "memory", skip_bad=True, **options)
    batches = take(memory, 4)
    for workers in (1, 3):
        stream = make(broken, workers=workers, skip_bad=True, **options)
        with pytest.warns(SkippedDataWarning, match=r"bee/001\.png"):
            same(take(stream, 4), batches)
        assert stream.skipped() == memory.skipped() == {"image": 1}, "once, although every epoch and worker meets it"
    for batch in batches:
        numbers = sorted((label, int(image[1, 0, 0])) for image, label in zip(batch.images, batch.labels, strict=True))
        assert numbers == sorted(
            [(label, n) for label in range(3) for n in range(3) if (label, n) != (1, 1)] + [(1, 2)]
        )


def look(source, *, rank=0, world=1, **options):
    """(images, labels), batch by batch."""
    options = {"transform": lambda images: images.float(), "picture_transform": plainly, "batch_size": 2, **options}
    return list(eval_batches(source, ranks=Alone(rank, world), **options))


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 1), (7, 2)])
@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_every_picture_is_looked_at_once(where, mode, world, workers):
    splits = open_splits(str(where), val_share=0)
    test = splits.test.subset([8, 3, 4, 1, 6])
    loader = make(splits.train, mode, transform=Jitter(), others=[test])
    by_rank = [
        look(loader.eval_source(test, skipped=Skipped()), rank=rank, world=world, workers=workers)
        for rank in range(world)
    ]
    for rank, batches in enumerate(by_rank):
        numbers = list(range(rank, 5, world))
        assert [len(labels) for _, labels in batches] == [len(numbers[n : n + 2]) for n in range(0, len(numbers), 2)]
        assert [label for _, labels in batches for label in labels.tolist()] == test.labels[numbers].tolist()
        for image, number in zip((image for images, _ in batches for image in images), numbers, strict=True):
            assert torch.equal(image, plainly(test.open(number)))


@pytest.mark.parametrize("any_size", [True, False])
def test_looking_leaves_out_what_is_broken(broken, any_size):
    source = PixelReader(broken, sample_shape(broken), any_size=any_size)
    for workers in (0, 2):
        with pytest.raises(UsageError, match=r"bee/001\.png"):
            look(source, workers=workers)
    skipped = Skipped()
    with pytest.warns(SkippedDataWarning):
        batches = look(source, workers=2, batch_size=1, skip_bad=True, skipped=skipped)
    assert [(int(labels), int(images[0, 1, 0, 0])) for images, labels in batches] == GOOD
    assert skipped.counts == {"image": 1}


def test_tars_are_read_by_many_forked_workers(tmp_path):
    tar = write_tar(tmp_path / "t.tar", [n % 2 for n in range(60)])
    train = open_splits(tar, num_classes=2, val_share=0).train
    train.open(0)
    batches = look(PixelReader(train, sample_shape(train), any_size=True), workers=4, batch_size=10)
    assert [int(image[1, 0, 0]) for images, _ in batches for image in images] == list(range(60))
    pickled = pickle.loads(pickle.dumps(train))
    assert pickled.open(7).getpixel((0, 0)) == (0, 7, 0)


def test_images_are_squeezed_into_a_square(tmp_path):
    """As VTAB has them: a mark at the far side is not cut off."""
    picture = Image.new("RGB", (40, 10))
    picture.paste((200, 0, 0), (36, 0, 40, 10))
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        picture.save(tmp_path / "train" / name / "0.png")
    train = open_splits(str(tmp_path), val_share=0).train
    pixels, label = PixelReader(train, sample_shape(train, 10), 10, squeeze=True).read(1)
    expected = np.asarray(picture.resize((10, 10), Image.Resampling.BICUBIC))
    assert label == 1 and (pixels == expected).all() and pixels[:, 9, 0].min() > 150
    assert PixelReader(train, sample_shape(train, 10), 10).read(1)[0].max() == 0
    with pytest.raises(UsageError, match=r"loader\.squeeze true: needs loader\.resize"):
        LoaderSettings(squeeze=True)


# some of many


def test_a_stratified_subset_has_each_class():
    labels = np.repeat([0, 1, 2], [100, 50, 2])
    chosen = stratified_subset(labels, 30, seed=0, purpose=2)
    assert np.bincount(labels[chosen]).tolist() == [19, 10, 1] and (np.diff(chosen) > 0).all()
    assert (chosen == stratified_subset(labels, 30, seed=0, purpose=2)).all()
    assert (chosen != stratified_subset(labels, 30, seed=1, purpose=2)).any()
    assert len(stratified_subset(labels, 1000, seed=0, purpose=2)) == 152
    assert set(labels[stratified_subset(labels, 3, seed=0, purpose=2)]) == {0, 1, 2}


def test_evenly_spaced():
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7] and evenly_spaced(3, 5).tolist() == [0, 1, 2]
    assert evenly_spaced(3, 0).tolist() == []
