"""The loader: every image once an epoch, the same batches for any mode, ranks, workers and resumption; bad input."""

import contextlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import tarfile
import threading
import time

import numpy as np
import pytest
import torch
import webdataset
from conftest import small_recipe
from PIL import Image

from fracgen.render_shards import plan, write_shards
from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.images import resize_and_center_crop
from fracgen.shards.reader import open_shards
from fracgen.train.data import choose
from fracgen.train.data.loader import TrainLoader, check_batch, eval_batches
from fracgen.train.data.opening import open_examples
from fracgen.train.data.sampler import Sampler
from fracgen.train.data.settings import LoaderSettings
from fracgen.train.data.skipped import SkippedDataWarning
from fracgen.train.memory import free_memory
from fracgen.train.ranks import Ranks

CPU = torch.device("cpu")
MODES = ["memory", "stream"]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded.*fork")


class Alone(Ranks):
    """One rank of several, without the others: what it asks them, it answers itself."""

    def agree(self, value):
        return value

    def union(self, values):
        return dict(values)


@pytest.fixture(scope="module")
def examples(folder):
    return open_examples(str(folder))


@pytest.fixture(scope="module")
def images(folder):
    return {sample.label: sample.image for sample in open_shards(folder)}


def make(examples, mode="stream", *, seed=7, rank=0, world=1, transform=None, others=(), **options):
    settings = LoaderSettings(**{"batch_size": 10, "mode": mode, "workers": 0, **options})
    if transform is not None and "augment" not in options:
        settings = LoaderSettings(**{"batch_size": 10, "mode": mode, "workers": 1, "augment": "timm", **options})
    ranks = Alone(rank=rank, world=world, device=CPU)
    return TrainLoader(examples, settings, seed=seed, ranks=ranks, transform=transform, others=others)


def take(loader, num, start=0):
    with contextlib.closing(loader.batches(start)) as batches:
        return list(itertools.islice(batches, num))


def labels(batches):
    return torch.cat([batch.labels for batch in batches]).tolist()


def same(these, those):
    assert len(these) == len(those) > 0
    for one, other in zip(these, those, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert np.array_equal(one.positions, other.positions)


def write_tars(folder, counts, picture=None, label=None, extension="png"):
    """Foreign tars of a label each; returns the brace pattern. Labels count through; images show them."""
    folder.mkdir(exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        with webdataset.TarWriter(str(folder / f"set-{shard:03d}.tar")) as tar:
            for _ in range(count):
                image = picture(number) if picture else Image.new("L", (8, 8), number)
                file = io.BytesIO()
                image.save(file, {"jpg": "JPEG"}.get(extension, extension.upper()), quality=95)
                text = str(number if label is None else label(number))
                tar.write({"__key__": f"s{number:04d}", "cls": text.encode(), extension: file.getvalue()})
                number += 1
    return str(folder / f"set-{{000..{len(counts) - 1:03d}}}.tar")


@pytest.mark.parametrize("mode", MODES)
def test_every_epoch_has_every_sample_once_and_batches_straddle_epochs(mode, examples, images):
    batches = take(make(examples, mode), 12)  # 120 positions: five epochs of 24
    assert [len(batch.labels) for batch in batches] == [10] * 12
    assert np.array_equal(np.concatenate([batch.positions for batch in batches]), np.arange(120))
    drawn = np.array(labels(batches)).reshape(5, 24)
    assert np.array_equal(np.sort(drawn), np.tile(np.arange(24), (5, 1)))
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 5, "each epoch in an order of its own"
    for batch in batches:
        assert batch.images.dtype == torch.uint8 and batch.images.shape == (10, 1, 48, 48)
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            assert np.array_equal(image[0].numpy(), images[label])


@pytest.mark.parametrize("mode", MODES)
def test_a_set_repeats_for_a_batch_that_is_larger(mode, examples):
    loader = make(examples, mode, batch_size=60)
    assert "each image comes 3 times an epoch" in loader.reason and loader.num_samples == 24
    batches = take(loader, 6)  # 360 positions: five epochs of 3 x 24
    drawn = np.array(labels(batches)).reshape(5, 72)
    assert np.array_equal(np.sort(drawn), np.tile(np.repeat(np.arange(24), 3), (5, 1)))
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 5
    same(take(make(examples, mode, batch_size=60, repeats=3), 2, start=4), batches[4:])
    assert "an epoch" not in make(examples, mode, batch_size=60, repeats=3).reason
    same(take(make(examples, mode, repeats=1), 3), take(make(examples, mode), 3))


@pytest.mark.parametrize("shuffle", [8192, 10])
@pytest.mark.parametrize("repeats", [1, 2])
def test_memory_and_stream_are_the_same(examples, shuffle, repeats):
    options = {"shuffle": shuffle, "repeats": repeats}
    batches = take(make(examples, "memory", **options), 12)
    for workers in (0, 1, 3):
        same(take(make(examples, "stream", workers=workers, **options), 12), batches)


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_decides_the_order(mode, examples):
    first = labels(take(make(examples, mode), 5))
    assert first == labels(take(make(examples, mode), 5)) != labels(take(make(examples, mode, seed=8), 5))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("world", "workers"), [(2, 0), (3, 2), (4, 0), (12, 1)])
def test_any_number_of_ranks_is_one_process(mode, examples, world, workers):
    alone = take(make(examples, mode, batch_size=12), 7)
    options = {"batch_size": 12, "world": world, "workers": workers}
    ranks = [take(make(examples, mode, rank=rank, **options), 7) for rank in range(world)]
    for step, whole in enumerate(alone):
        for name in ("images", "labels"):
            parts = torch.cat([getattr(batches[step], name) for batches in ranks])
            assert torch.equal(parts, getattr(whole, name))
        assert np.array_equal(np.concatenate([batches[step].positions for batches in ranks]), whole.positions)


@pytest.mark.parametrize("mode", MODES)
def test_resuming_at_any_step_goes_on_exactly(mode, examples):
    loader = make(examples, mode)
    straight = take(loader, 9)
    for start in range(1, 9):
        same(take(loader, 9 - start, start), straight[start:])
    same(take(make(examples, mode, workers=2), 5, 4), straight[4:])


def test_one_tar_feeds_two_ranks_with_two_workers_each(tmp_path):
    examples = open_examples(write_tars(tmp_path / "one", [30]), num_classes=30)
    ranks = [take(make(examples, rank=rank, world=2, workers=2), 6) for rank in range(2)]
    drawn = [labels(batches) for batches in ranks]
    assert [len(part) for part in drawn] == [30, 30]
    assert sorted(drawn[0] + drawn[1]) == sorted([*range(30)] * 2)


def test_more_workers_than_a_batch_has_samples(examples):
    same(take(make(examples, batch_size=3, workers=5), 4), take(make(examples, batch_size=3), 4))


# the order


@pytest.mark.parametrize(
    ("num", "repeats", "shuffle", "block"),
    [(24, 1, 8192, 64), (24, 3, 10, 4), (1000, 1, 256, 64), (1000, 2, 300, 64), (1300, 1, 0, 64), (99, 2, 5, 1)],
)
def test_a_sampler_covers_every_epoch(num, repeats, shuffle, block):
    sampler = Sampler(num, 5, repeats, shuffle, block)
    length = num * repeats
    whole = sampler.numbers(np.arange(3 * length)).reshape(3, length)
    assert np.array_equal(np.sort(whole), np.tile(np.repeat(np.arange(num), repeats), (3, 1)))
    assert len({tuple(epoch) for epoch in whole.tolist()}) == 3
    for start, count in [(0, 7), (length - 3, 6), (length + 1, 2 * length - 1)]:
        assert np.array_equal(sampler.numbers(np.arange(start, start + count)), whole.ravel()[start : start + count])


def test_a_sampler_reads_neighbours_together_and_mixes_them():
    sampler = Sampler(6400, seed=1, shuffle=640, block=64)
    for chunk in sampler.numbers(np.arange(6400)).reshape(10, 640):
        blocks = np.unique(chunk // 64)
        assert len(blocks) == 10, "a chunk of ten whole blocks"
        assert len(np.unique(chunk[:64] // 64)) > 5, "of which a batch has many"
    in_order = Sampler(640, seed=1, shuffle=0, block=64).numbers(np.arange(640)).reshape(10, 64)
    assert (np.diff(in_order) == 1).all() and not np.array_equal(in_order.ravel(), np.arange(640))
    pinned = Sampler(1000, seed=3, shuffle=256).numbers(np.array([0, 1, 2, 255, 256, 999, 1000, 123456]))
    assert pinned.tolist() == [53, 8, 25, 439, 137, 544, 113, 372], (
        "a run of another version of this order cannot be gone on with"
    )


# images to evaluate on


def counted(images):
    """As a transform on the device: the first level of each image."""
    assert images.dtype == torch.uint8 and images.ndim == 4
    return images[:, :1, :1, :1].float()


def first_level(picture):
    return torch.tensor(picture.getpixel((0, 0))[:1]).float().view(1, 1, 1)


def look(source, *, rank=0, world=1, **options):
    """(levels, labels) by batch."""
    options = {"transform": counted, "picture_transform": first_level, "batch_size": 4, **options}
    batches = eval_batches(source, ranks=Alone(rank=rank, world=world, device=CPU), **options)
    return [(images.flatten().tolist(), labels.tolist()) for images, labels in batches]


@pytest.mark.parametrize("world", [1, 3, 7])
@pytest.mark.parametrize("mode", [*MODES, "pictures", "workers"])
def test_every_example_is_looked_at_once_over_the_ranks(mode, world, tmp_path):
    size = (lambda n: (8 + n, 8)) if mode in ("pictures", "workers") else lambda n: (8, 8)
    pattern = write_tars(tmp_path / "set", [2, 3], lambda n: Image.new("L", size(n), n))
    if mode in MODES:
        source = make(open_examples(pattern, num_classes=5), mode, batch_size=5).source
    else:
        transformed = {"transform": noisy, "augment": "device", "workers": 1}
        source = make(open_examples(pattern, num_classes=5), "auto", batch_size=5, **transformed).source
    workers = 2 if mode == "workers" else 0
    by_rank = [look(source, rank=rank, world=world, workers=workers, batch_size=2) for rank in range(world)]
    for rank, batches in enumerate(by_rank):
        assert all(levels == numbers and 0 < len(numbers) <= 2 for levels, numbers in batches)
        assert [n for _, numbers in batches for n in numbers] == list(range(rank, 5, world))


@pytest.mark.parametrize("mode", MODES)
def test_some_examples_are_looked_at(mode, examples, images):
    source = make(examples, mode).source
    (levels, labels), *rest = look(source, numbers=np.array([3, 20]))
    assert not rest and labels == examples.labels[[3, 20]].tolist()
    assert levels == [float(images[label][0, 0]) for label in labels]


def noisy(picture):
    """A transform that draws from all three generators, and draws more where the picture is brighter."""
    assert picture.mode == "RGB"
    value = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float().mean((1, 2), keepdim=True)
    for _ in range(int(value.mean()) % 3):
        random.random()
    return value.expand(3, 4, 4) + random.random() + np.random.random() + torch.rand(3, 4, 4)


def test_a_transform_depends_on_the_sample_alone(examples):
    straight = take(make(examples, "stream", transform=noisy), 4)
    assert straight[0].images.shape == (10, 3, 4, 4) and straight[0].images.dtype == torch.float32
    for mode in MODES:
        same(take(make(examples, mode, transform=noisy, workers=3), 4), straight)
        same(take(make(examples, mode, transform=noisy, workers=2), 2, 2), straight[2:])
        assert labels(straight) == labels(take(make(examples, mode), 4))


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_generators_are_left_alone(mode, examples):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    take(make(examples, mode, transform=noisy), 2)
    assert torch.equal(torch.rand(3), expected)


def test_settings_that_cannot_be():
    for options, said in [
        ({"batch_size": 0}, "batch.size 0"),
        ({"workers": -1}, "workers -1"),
        ({"repeats": 0}, "repeats 0"),
        ({"augment": "timm", "workers": 0}, "--workers 0"),
    ]:
        with pytest.raises(UsageError, match=said):
            LoaderSettings(**options)
    with pytest.raises(UsageError, match="--batch-size 9: not divisible by 2 ranks"):
        check_batch(LoaderSettings(batch_size=9), Ranks(rank=0, world=2, device=CPU))


# tars of another origin


@pytest.mark.parametrize("sidecar", [None, "sizes.json", "_info.json"])
def test_foreign_tars_are_counted(tmp_path, sidecar):
    pattern = write_tars(tmp_path / "set", [3, 5, 4])
    names = [f"set-{n:03d}.tar" for n in range(3)]
    values = {
        "sizes.json": dict(zip(names, [3, 5, 4], strict=True)),
        "_info.json": {"splits": {"train": {"filenames": names, "shard_lengths": [3, 5, 4]}}},
    }
    if sidecar:
        (tmp_path / "set" / sidecar).write_text(json.dumps(values[sidecar]))
    done = []
    examples = open_examples(pattern, num_classes=12, progress=lambda *counts: done.append(counts))
    assert len(examples) == 12 and "12 images of 12 classes, in 3 tars" in str(examples)
    assert done == ([] if sidecar else [(1, 3), (2, 3), (3, 3)])
    globbed = open_examples(str(tmp_path / "set" / "set-*.tar"), num_classes=12)
    assert len(globbed) == 12 and globbed.fingerprint == examples.fingerprint
    for mode in MODES:
        loader = make(examples, mode, batch_size=12)
        (batch,) = take(loader, 1)
        assert str(loader.shape) == "8 x 8 gray"
        assert sorted(batch.labels.tolist()) == list(range(12))
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.labels)
    (tmp_path / "set" / names[0]).unlink()
    with pytest.raises(DataError, match=r"set-000\.tar: missing"):
        open_examples(pattern, num_classes=12)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_any_plain_tar_is_read(tmp_path, form):
    path = tmp_path / "set.tar"
    long = "d" * 60 + "/" + "e" * 60 + "/"
    with tarfile.open(path, "w", format=form) as tar:
        folder = tarfile.TarInfo("sub/")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number in range(9):
            png = io.BytesIO()
            Image.new("L", (8, 8), number).save(png, "PNG")
            for extension, content in (("CLS", str(number).encode()), ("json", b"{}"), ("png", png.getvalue())):
                info = tarfile.TarInfo(f"{long if number % 3 == 2 else 'sub/'}s{number}.{extension}")
                info.size = len(content)
                if form == tarfile.PAX_FORMAT and number % 2:
                    info.pax_headers = {"comment": "\u00e9" * 600}
                tar.addfile(info, io.BytesIO(content))
    examples = open_examples(str(path), num_classes=9)
    assert len(examples) == 9 and examples.labels.tolist() == list(range(9))
    assert [examples.describe(n).split("/")[-1] for n in range(9)] == [f"s{n}" for n in range(9)]
    assert [examples.open(n).getpixel((0, 0)) for n in range(9)] == list(range(9))


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"no tar at all " * 1000)
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2 + 100])
    elif how == "overwritten":
        path.write_bytes(content[:8192] + b"\x07" * 2048 + content[8192 + 2048 :])
    elif how == "short":
        shutil.copy(path.with_name("set-000.tar"), path)
    elif how == "empty":
        path.write_bytes(b"")


def test_more_samples_than_were_counted(tmp_path):
    """Is an error; where bad data is skipped, they are not read, which is said."""
    pattern = write_tars(tmp_path / "set", [4, 12, 8])
    sizes = {f"set-{n:03d}.tar": count for n, count in enumerate([4, 11, 8])}
    (tmp_path / "set" / "sizes.json").write_text(json.dumps(sizes))
    said = r"says 11, and set-001\.tar holds 12 samples"
    for mode in MODES:
        with pytest.raises(DataError, match=said):
            take(make(open_examples(pattern, num_classes=24), mode), 5)
        examples = open_examples(pattern, num_classes=24, skip_bad=True)
        with pytest.warns(SkippedDataWarning, match=said):
            batches = take(make(examples, mode, batch_size=23, skip_bad=True), 3)
        assert sorted(labels(batches)) == sorted([n for n in range(24) if n != 15] * 3)


DAMAGES = ["missing", "garbage", "cut", "overwritten", "short", "empty"]


@pytest.fixture
def damaged(tmp_path):
    """Makes a pattern of three tars, the second of which is damaged after it was counted."""

    def made(how, **options):
        pattern = write_tars(tmp_path / "set", [4, 12, 8])
        examples = open_examples(pattern, **{"num_classes": 24, **options})
        damage(tmp_path / "set" / "set-001.tar", how)
        return examples

    return made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_tar_is_an_error_that_names_it(mode, how, damaged):
    with pytest.raises(DataError, match=r"set-001\.tar") as error:
        take(make(damaged(how), mode), 6)
    assert "\n" not in str(error.value) and error.value.exit_code == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_report_a_damaged_tar(workers, damaged):
    with pytest.raises(DataError, match=r"^set-001\.tar: .*"):
        take(make(damaged("cut"), workers=workers), 6)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_tar_is_skipped_and_counted(how, damaged):
    """The same in memory and streamed: each bad sample leaves its place to the next good one, and counts once."""
    examples = damaged(how, skip_bad=True)
    options = {"batch_size": 24, "skip_bad": True}
    with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
        memory = make(examples, "memory", **options)
    lost = 24 - len(memory.source.numbers)
    assert 0 < lost <= 12 and sum(memory.skipped().values()) == lost and memory.num_samples == 24
    batches = take(memory, 6)
    good = memory.source.labels.tolist()
    assert all(set(batch.labels.tolist()) == set(good) for batch in batches), "every epoch has every good one"
    for workers in (0, 2):
        stream = make(examples, "stream", workers=workers, **options)
        with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
            same(take(stream, 6), batches)
        assert stream.skipped() == memory.skipped()
        same(take(stream, 2, 4), batches[4:])
    with pytest.warns(SkippedDataWarning):
        looked_at = look(stream.source, skip_bad=True, batch_size=24)
    assert looked_at == look(memory.source, batch_size=24) and looked_at[0][1] == good


def test_tars_that_were_bad_before_are_found_on_opening(tmp_path):
    for how in ("garbage", "cut", "overwritten", "empty"):
        pattern = write_tars(tmp_path / how, [4, 12, 8])
        damage(tmp_path / how / "set-001.tar", how)
        with pytest.raises(DataError, match=r"^set-001\.tar: no whole tar"):
            open_examples(pattern, num_classes=24)
        examples = open_examples(pattern, num_classes=24, skip_bad=True)
        with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
            assert sum(make(examples, "memory", skip_bad=True).skipped().values()) >= 1


@pytest.mark.filterwarnings("ignore::fracgen.train.data.skipped.SkippedDataWarning")
@pytest.mark.parametrize("mode", MODES)
def test_a_set_without_a_good_sample_is_an_error(mode, tmp_path):
    examples = open_examples(write_tars(tmp_path / "set", [6, 6]), num_classes=12, skip_bad=True)
    looked_at = make(examples, "stream", skip_bad=True)
    for path in (tmp_path / "set").glob("*.tar"):
        damage(path, "garbage")
    with pytest.raises(DataError, match=r"set-00\d\.tar: no whole tar"):
        make(open_examples(str(tmp_path / "set" / "*.tar"), num_classes=12, skip_bad=True), mode, skip_bad=True)
    looked_at.source.examples.store.tars._indexes.clear()
    with pytest.raises(DataError, match="no image of 12 can be used"):
        take(looked_at, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("cat", r"sample s0003: label 'cat'"),
        (-1, r"sample s0003: label '-1', not a number from 0 to 11"),
        ("1.0", r"sample s0003: label '1.0'"),
        (12, r"sample s0003: label 12, out of range for --num-classes 12"),
    ],
)
def test_bad_labels(mode, label, said, tmp_path):
    tars = write_tars(tmp_path / "set", [12], label=lambda n: n if n != 3 else label)
    with pytest.raises(FracgenError, match=said) as error:
        take(make(open_examples(tars, num_classes=12), mode, batch_size=12), 2)
    assert error.value.exit_code == 2


# images of other sizes, modes and formats


@pytest.mark.parametrize("mode", MODES)
def test_images_of_mixed_size_are_refused_or_resized(mode, tmp_path):
    pattern = write_tars(tmp_path / "set", [12], lambda n: Image.new("L", (8, 12) if n == 5 else (8, 8), n))
    examples = open_examples(pattern, num_classes=12)
    said = r"differ in size: .*s0000 has 8 x 8 pixels, .*sample s0005 has 8 x 12 pixels; give --resize N"
    with pytest.raises(UsageError, match=said):
        make(examples, mode)
    (batch,) = take(make(examples, mode, batch_size=12, resize=6), 1)
    assert batch.images.shape == (12, 1, 6, 6)
    assert torch.equal(batch.images[:, 0, 2, 3].long(), batch.labels)


@pytest.mark.parametrize("mode", MODES)
def test_an_odd_size_among_many_is_refused_when_it_is_met(mode, tmp_path):
    pattern = write_tars(tmp_path / "set", [100], lambda n: Image.new("L", (8, 12) if n == 5 else (8, 8), n))
    examples = open_examples(pattern, num_classes=100)
    with pytest.raises(UsageError, match=r"sample s0005 has 8 x 12 pixels, others 8 x 8; give --resize N"):
        take(make(examples, mode, batch_size=100), 1)


def test_a_transform_takes_mixed_sizes_from_a_stream(tmp_path):
    pattern = write_tars(tmp_path / "set", [12], lambda n: Image.new("RGB", (8 + n, 8), (n, n, n)))
    examples = open_examples(pattern, num_classes=12)
    for augment in ("timm", "device"):
        loader = make(examples, "auto", transform=noisy, augment=augment, workers=1)
        assert loader.mode == "stream" and loader.transformed and "differ in size" in loader.reason
        assert take(loader, 1)[0].images.shape == (10, 3, 4, 4)
    with pytest.raises(UsageError, match=r"differ in size: .* 8 x 8 .* 9 x 8 .*--resize N .*--workers 1 or more"):
        make(examples, "auto", transform=noisy, augment="device", workers=0)
    with pytest.raises(UsageError, match=r"images differ in size: .*--resize N .*--loader stream"):
        make(examples, "memory", transform=noisy, augment="device", workers=1)


def test_images_of_one_size_are_augmented_on_the_device_however_they_come(examples):
    for mode in MODES:
        loader = make(examples, mode, transform=noisy, augment="device")
        assert not loader.transformed and take(loader, 1)[0].images.dtype == torch.uint8


def test_resizing_crops_the_centre():
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, 10:30] = 200
    resized = np.asarray(resize_and_center_crop(Image.fromarray(pixels), 10))
    assert resized.shape == (10, 10) and resized[:, 1:-1].min() >= 199


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("first", "other", "channels", "value"),
    [
        (Image.new("L", (8, 8), 50), Image.new("RGB", (8, 8), (100, 100, 100)), 3, 100),
        (Image.new("RGB", (8, 8), (9, 9, 9)), Image.new("L", (8, 8), 100), 3, 100),
        (Image.new("RGB", (8, 8), (9, 9, 9)), Image.new("RGBA", (8, 8), (200, 200, 200, 128)), 3, 100),
        (Image.new("L", (8, 8), 9), Image.new("LA", (8, 8), (200, 128)), 1, 100),
        (Image.new("L", (8, 8)), Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)), 1, 100),
    ],
    ids=["gray, RGB", "RGB, gray", "RGBA", "LA", "16 bits"],
)
def test_images_of_mixed_mode_are_rgb_where_any_is(mode, first, other, channels, value, tmp_path):
    pattern = write_tars(tmp_path / "set", [2], lambda number: other if number else first)
    loader = make(open_examples(pattern, num_classes=2), mode, batch_size=2)
    (batch,) = take(loader, 1)
    assert batch.images.shape == (2, channels, 8, 8)
    assert abs(batch.images[batch.labels.tolist().index(1)].int() - value).max() <= 1


@pytest.mark.parametrize("extension", ["jpg", "webp", "bmp"])
def test_other_formats(extension, tmp_path):
    pattern = write_tars(tmp_path / "set", [12], extension=extension)
    (batch,) = take(make(open_examples(pattern, num_classes=12), batch_size=12), 1)
    assert (batch.images.float().mean((1, 2, 3)) - batch.labels).abs().max() <= 3


@pytest.mark.parametrize("color", ["gray", "color"])
@pytest.mark.parametrize("mode", MODES)
def test_colour_and_one_bit_sets_of_ours(color, mode, tmp_path):
    recipe = small_recipe(color=color)
    bits = 1 if color == "gray" else 8
    write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=3, png_bits=bits))
    examples = open_examples(str(tmp_path / "set"))
    (batch,) = take(make(examples, mode, batch_size=24), 1)
    for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
        expected = next(iter(recipe.render([label]))).image
        assert np.array_equal(image.permute(1, 2, 0).numpy().squeeze(), expected)
    smaller = take(make(examples, mode, batch_size=24, resize=16), 1)
    assert smaller[0].images.shape == (24, 3 if color == "color" else 1, 16, 16)


# what is opened


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


# in memory or streamed


def test_the_mode_is_chosen_by_size(examples, monkeypatch):
    size = 24 * 48 * 48
    for free, auto in [(5 * size, "memory"), (3 * size, "stream")]:
        monkeypatch.setattr(choose, "free_memory", lambda device, free=free: free)
        loader = make(examples, "auto")
        assert loader.mode == auto and loader.reason.startswith(auto) and "55.3 kB decoded" in loader.reason
        assert make(examples, "memory").mode == "memory" and make(examples, "stream").mode == "stream"
    monkeypatch.setattr(choose, "free_memory", lambda device: 5 * size)
    assert make(examples, "auto", others=(examples,)).mode == "stream"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    two = make(examples, "auto")
    assert two.mode == "stream" and "111 kB decoded (2 ranks)" in two.reason
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setattr(choose, "free_memory", lambda device: size)
    with pytest.raises(UsageError, match=r"does not fit in memory: 55\.3 kB decoded, 55\.3 kB free on the host"):
        make(examples, "memory")


def test_a_set_too_large_for_memory_without_workers_is_told_of_those(tmp_path, monkeypatch):
    tars = open_examples(write_tars(tmp_path, [3]), num_classes=3)
    monkeypatch.setattr(choose, "free_memory", lambda device: 1)
    with pytest.raises(UsageError, match=r"^memory, as there are no workers: .* give --workers 1 or more, or give --r"):
        make(tars, "auto", workers=0, augment="device", transform=lambda picture: picture)


def test_free_memory_is_less_than_the_machine_has():
    assert 0 < free_memory(CPU) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_killed_worker_is_reported(examples):
    before = set(multiprocessing.active_children())
    with contextlib.closing(make(examples, workers=2).batches()) as batches:
        next(batches)
        worker, _ = sorted(set(multiprocessing.active_children()) - before, key=lambda process: process.pid)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(DataError, match=rf"data worker {worker.pid} died \(exit code -9\)"):
            for _ in range(1000):
                next(batches)


def test_closing_ends_workers_and_thread(examples):
    before = set(multiprocessing.active_children()), threading.active_count()
    batches = make(examples, workers=2).batches()
    next(batches)
    assert len(set(multiprocessing.active_children()) - before[0]) == 2
    batches.close()
    assert not set(multiprocessing.active_children()) - before[0]
    assert not any(thread.name == "batches ahead" for thread in threading.enumerate())
    until = time.monotonic() + 30  # the threads of multiprocessing's queues end by themselves, soon
    while threading.active_count() > before[1] and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before[1]


def test_workers_are_taken_in_turn_and_their_memory_used_again(examples):
    """Many more steps than there are slots: a slot that was given away too early would mix batches up."""
    straight = take(make(examples, "memory", batch_size=7), 60)
    same(take(make(examples, batch_size=7, workers=3), 60), straight)
