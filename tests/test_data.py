"""Both feeds: every sample once an epoch, the same batches whatever the ranks, workers and resumptions; bad input."""

import contextlib
import io
import itertools
import json
import multiprocessing
import os
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
from fracgen.shards.reader import open_shards
from fracgen.train.data.old import choose as data
from fracgen.train.data.old import samples
from fracgen.train.data.old.choose import Resident, SkippedDataWarning, Stream, choose_feed, open_source
from fracgen.train.data.old.pictures import square
from fracgen.train.data.old.stream import Plan

CPU = torch.device("cpu")
FEEDS = [Resident, Stream]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded.*fork")


@pytest.fixture(scope="module")
def source(folder):
    return open_source(str(folder))


@pytest.fixture(scope="module")
def images(folder):
    return {sample.label: sample.image for sample in open_shards(folder)}


def make(kind, source, **options):
    return kind(source, **{"batch_size": 10, "seed": 7, "device": CPU, "num_workers": 0, **options})


def take(feed, num, start=0):
    with contextlib.closing(feed.batches(start)) as batches:
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


@pytest.mark.parametrize("kind", FEEDS)
def test_every_epoch_has_every_sample_once_and_batches_straddle_epochs(kind, source, images):
    batches = take(make(kind, source), 12)  # 120 positions: five epochs of 24
    assert [len(batch.labels) for batch in batches] == [10] * 12
    assert np.array_equal(np.concatenate([batch.positions for batch in batches]), np.arange(120))
    drawn = np.array(labels(batches)).reshape(5, 24)
    assert np.array_equal(np.sort(drawn), np.tile(np.arange(24), (5, 1)))
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 5, "each epoch in an order of its own"
    for batch in batches:
        assert batch.images.dtype == torch.uint8 and batch.images.shape == (10, 1, 48, 48)
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            assert np.array_equal(image[0].numpy(), images[label])


def test_a_batch_may_be_larger_than_a_set_that_repeats(source):
    batches = take(make(Resident, source, batch_size=60, repeats=3), 6)  # 360 positions: five epochs of 3 x 24
    drawn = np.array(labels(batches)).reshape(5, 72)
    assert np.array_equal(np.sort(drawn), np.tile(np.repeat(np.arange(24), 3), (5, 1)))
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 5
    same(take(make(Resident, source, batch_size=60, repeats=3), 2, start=4), batches[4:])
    same(take(make(Resident, source, repeats=1), 3), take(make(Resident, source), 3))
    with pytest.raises(UsageError, match=r"only 24 images.*feed\.repeats=3"):
        make(Resident, source, batch_size=60)


@pytest.mark.parametrize("kind", FEEDS)
def test_the_seed_decides_the_order(kind, source):
    first = labels(take(make(kind, source), 5))
    assert first == labels(take(make(kind, source), 5)) != labels(take(make(kind, source, seed=8), 5))


@pytest.mark.parametrize("kind", FEEDS)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_are_one_process(kind, source, world):
    options = {"batch_size": 12}
    alone = take(make(kind, source, **options), 7)
    ranks = [take(make(kind, source, rank=rank, world=world, **options), 7) for rank in range(world)]
    for step, whole in enumerate(alone):
        positions = np.concatenate([batches[step].positions for batches in ranks])
        order = np.argsort(positions)
        assert np.array_equal(positions[order], whole.positions)
        assert torch.equal(torch.cat([batches[step].labels for batches in ranks])[order], whole.labels)
        assert torch.equal(torch.cat([batches[step].images for batches in ranks])[order], whole.images)


def test_three_ranks_cover_each_epoch_too(source):
    ranks = [take(make(Stream, source, batch_size=12, rank=rank, world=3), 4) for rank in range(3)]
    found = {int(p): int(n) for batches in ranks for b in batches for p, n in zip(b.positions, b.labels, strict=True)}
    assert sorted(found) == list(range(48))
    assert [sorted(found[p] for p in range(e, e + 24)) for e in (0, 24)] == [list(range(24))] * 2


@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_does_not_depend_on_workers(source, workers):
    same(take(make(Stream, source, num_workers=workers), 6), take(make(Stream, source), 6))


@pytest.mark.parametrize("kind", FEEDS)
def test_resuming_at_any_step_goes_on_exactly(kind, source):
    feed = make(kind, source)
    straight = take(feed, 9)
    for start in range(1, 9):
        same(take(feed, 9 - start, start), straight[start:])


def test_resuming_with_workers(source):
    same(take(make(Stream, source, num_workers=2), 3, 4), take(make(Stream, source), 7)[4:])


def test_one_tar_feeds_two_ranks_with_two_workers_each(tmp_path):
    source = open_source(write_tars(tmp_path / "one", [30]), num_classes=30)
    ranks = [take(make(Stream, source, rank=rank, world=2, num_workers=2), 6) for rank in range(2)]
    drawn = [[n for batch in batches for n in batch.labels.tolist()] for batches in ranks]
    assert [len(part) for part in drawn] == [30, 30]
    assert sorted(drawn[0] + drawn[1]) == sorted([*range(30)] * 2)


@pytest.mark.parametrize(("counts", "window"), [((24,), 0), ((5, 0, 7, 1, 11), 3), ((40,) * 9, 50), ((1,) * 5, 1)])
def test_a_plan_covers_every_epoch(counts, window):
    made, num = Plan(counts, 3, 16, window), sum(counts)
    for epoch in range(5):
        found, positions = [], []
        for lane in range(16):
            begin, start, count = made.lane_range(lane, epoch)
            mine = [p for p in range(epoch * num, (epoch + 1) * num) if p % 16 == lane]
            assert count == len(mine) and (not mine or begin == mine[0])
            pieces = list(made.pieces(epoch, start, count))
            assert sum(last - first for _, first, last in pieces) == count
            found += [(tar, n) for tar, first, last in pieces for n in range(first, last)]
            order = made.order(lane, epoch, count)
            assert sorted(order) == list(range(count))
            assert not count or np.abs(order - np.arange(count)).max() <= window
            positions += mine
        assert sorted(found) == [(tar, n) for tar, count in enumerate(counts) for n in range(count)]
        assert sorted(positions) == list(range(epoch * num, (epoch + 1) * num))


@pytest.mark.parametrize(("world", "workers", "batch_size"), [(1, 3, 10), (2, 5, 24), (1, 7, 24), (2, 32, 6)])
def test_a_worker_has_no_more_rows_than_it_says(source, world, workers, batch_size):
    work = make(Stream, source, world=world, batch_size=batch_size)._work
    for worker in range(workers):
        parts = itertools.islice(work.parts(0, worker, workers), 70)
        assert max(len(part.rows) for part in parts) == work.most_rows(worker, workers)


def test_no_more_than_the_window_is_held(tmp_path, monkeypatch):
    source = open_source(write_tars(tmp_path / "set", [200]), num_classes=200)
    read, emitted, most = 0, 0, 0
    original = samples.read_samples

    def counted(*arguments):
        nonlocal read, most
        for raw in original(*arguments):
            read += 1
            most = max(most, read - emitted)
            yield raw

    monkeypatch.setattr(samples, "read_samples", counted)
    feed = make(Stream, source, shuffle=64 * 2)
    for _ in itertools.islice(feed._work.parts(0, 0, 1), 20):
        emitted += 10
    assert 0 < most <= 64 * 2 + 10


@pytest.mark.parametrize("kind", FEEDS)
def test_clean_images_come_in_a_fixed_order(kind, source, images):
    feed = make(kind, source)
    whole = list(feed.clean())
    assert [len(batch.labels) for batch in whole] == [10, 10, 4]
    assert labels(whole) == [sample.label for sample in open_shards(source.name)]
    assert np.array_equal(np.concatenate([batch.positions for batch in whole]), np.arange(24))
    few = list(feed.clean(5))
    ends = np.cumsum((0, *source.counts))
    assert [int(np.searchsorted(ends, n, side="right")) for n in few[0].positions] == [1, 2, 3, 4, 5], "one of each tar"
    assert np.array_equal(few[0].images[0, 0].numpy(), images[int(few[0].labels[0])])
    parts = [labels(feed.clean(rank=rank, world=2)) for rank in range(2)]
    assert parts == [labels(whole)[0::2], labels(whole)[1::2]]


def noisy(picture):
    """A transform that draws from all three generators, and draws more where the picture is brighter."""
    assert picture.mode == "RGB"
    value = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float().mean((1, 2), keepdim=True)
    for _ in range(int(value.mean()) % 3):
        random.random()
    return value.expand(3, 4, 4) + random.random() + np.random.random() + torch.rand(3, 4, 4)


@pytest.mark.parametrize("kind", FEEDS)
def test_a_transform_depends_on_the_sample_alone(kind, source):
    straight = take(make(kind, source, transform=noisy, num_workers=1), 4)
    assert straight[0].images.shape == (10, 3, 4, 4) and straight[0].images.dtype == torch.float32
    same(take(make(kind, source, transform=noisy, num_workers=3), 4), straight)
    same(take(make(kind, source, transform=noisy, num_workers=2), 2, 2), straight[2:])
    assert labels(straight) == labels(take(make(kind, source), 4))
    with pytest.raises(UsageError, match="--workers 0"):
        make(kind, source, transform=noisy)


@pytest.mark.parametrize("kind", FEEDS)
def test_the_callers_generators_are_left_alone(kind, source):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    take(make(kind, source, transform=noisy, num_workers=1), 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", FEEDS)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 25}, "only 24 images"),
        ({"batch_size": 0}, "give 1 or more"),
        ({"batch_size": 9, "world": 2}, "not divisible by 2 ranks"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"num_workers": -1}, "--workers -1"),
    ],
)
def test_batches_that_cannot_be(kind, source, options, said):
    with pytest.raises(UsageError, match=said):
        make(kind, source, **options)


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
    source = open_source(pattern, num_classes=12, progress=lambda *counts: done.append(counts))
    assert source.counts == (3, 5, 4) and source.shape == (8, 8) and "12 images of 12 classes" in source.description
    assert done == ([] if sidecar else [(1, 3), (2, 3), (3, 3)])
    globbed = open_source(str(tmp_path / "set" / "set-*.tar"), num_classes=12)
    assert globbed.counts == source.counts and globbed.fingerprint == source.fingerprint
    for kind in FEEDS:
        (batch,) = take(make(kind, source, batch_size=12), 1)
        assert sorted(batch.labels.tolist()) == list(range(12))
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.labels)
    (tmp_path / "set" / names[0]).unlink()
    with pytest.raises(DataError, match=r"set-000\.tar: missing"):
        open_source(pattern, num_classes=12)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_any_plain_tar_is_read_from_any_sample_on(tmp_path, form):
    from fracgen.train.data.old.tars import count_samples, read_samples

    path = tmp_path / "set.tar"
    long = "d" * 60 + "/" + "e" * 60 + "/"
    with tarfile.open(path, "w", format=form) as tar:
        folder = tarfile.TarInfo("sub/")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number in range(9):
            for extension in ("CLS", "png"):
                name = f"{long if number % 3 == 2 else 'sub/'}s{number}.{extension}"
                info, content = tarfile.TarInfo(name), f"{number} {extension}".encode() * 200
                info.size = len(content)
                if form == tarfile.PAX_FORMAT and number % 2:
                    info.pax_headers = {"comment": "\u00e9" * 600}
                tar.addfile(info, io.BytesIO(content))
    assert count_samples(str(path)) == (9, None)
    whole = list(read_samples(str(path), 9))
    assert [raw.key.split("/")[-1] for raw in whole] == [f"s{n}" for n in range(9)]
    assert all(raw.members["png"] == f"{n} png".encode() * 200 for n, raw in enumerate(whole))
    for first in range(9):
        assert list(read_samples(str(path), 9, first)) == whole[first:]
        assert list(read_samples(str(path), 9, first, first + 1)) == [whole[first]]


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
    said = r"set-001\.tar: holds more than the 11 samples"
    for kind in FEEDS:
        with pytest.raises(DataError, match=said):
            take(make(kind, open_source(pattern, num_classes=24)), 5)
        source = open_source(pattern, num_classes=24, skip_bad=True)
        with pytest.warns(SkippedDataWarning, match=said):
            batches = take(make(kind, source, batch_size=23), 3)
        assert sorted(labels(batches)) == sorted([n for n in range(24) if n != 15] * 3)


DAMAGES = ["missing", "garbage", "cut", "overwritten", "short", "empty"]


@pytest.fixture
def damaged(tmp_path):
    """Makes a pattern of three tars, the second of which is damaged after it was counted."""

    def made(how, **options):
        pattern = write_tars(tmp_path / "set", [4, 12, 8])
        options = {"num_classes": 24, **options}
        source = open_source(pattern, **options)
        damage(tmp_path / "set" / "set-001.tar", how)
        return source

    return made


@pytest.mark.parametrize("kind", FEEDS)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_tar_is_an_error_that_names_it(kind, how, damaged):
    with pytest.raises(DataError, match=r"set-001\.tar") as error:
        take(make(kind, damaged(how)), 6)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_report_a_damaged_tar(workers, damaged):
    with pytest.raises(DataError, match=r"^set-001\.tar: .*"):
        take(make(Stream, damaged("cut"), num_workers=workers), 6)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_tar_is_skipped_and_counted(how, damaged):
    source = damaged(how, skip_bad=True)
    with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
        resident = make(Resident, source)
    lost = 24 - resident.num_samples
    assert 0 < lost <= 12 and sum(resident.skipped.values()) == lost
    stream = make(Stream, source, batch_size=24)
    with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
        batches = take(stream, 6)
    good = set(resident.labels.tolist())
    assert [len(batch.labels) for batch in batches] == [24] * 6 and set(labels(batches)) == good
    assert stream.skipped["tar"] + stream.skipped["members"] >= 5 * lost
    same(take(stream, 2, 4), batches[4:])
    with pytest.warns(SkippedDataWarning):
        workers = make(Stream, source, batch_size=24, num_workers=2)
        same(take(workers, 6), batches)
    assert workers.skipped["tar"] + workers.skipped["members"] >= 5 * lost


def test_tars_that_were_bad_before_are_found_on_opening(tmp_path):
    for how in ("garbage", "cut", "overwritten", "empty"):
        pattern = write_tars(tmp_path / how, [4, 12, 8])
        damage(tmp_path / how / "set-001.tar", how)
        with pytest.raises(DataError, match=r"^set-001\.tar: no whole tar"):
            open_source(pattern, num_classes=24)
        source = open_source(pattern, num_classes=24, skip_bad=True)
        with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
            assert sum(make(Resident, source).skipped.values()) >= 1


@pytest.mark.parametrize("kind", FEEDS)
def test_a_set_without_a_good_sample_is_an_error(kind, tmp_path):
    source = open_source(write_tars(tmp_path / "set", [6, 6]), num_classes=12, skip_bad=True)
    for path in (tmp_path / "set").glob("*.tar"):
        damage(path, "garbage")
    with pytest.warns(SkippedDataWarning) if kind is Resident else contextlib.nullcontext():  # noqa: SIM117
        with pytest.raises(DataError, match=r"bad samples one after the other|no sample of 12"):
            take(make(kind, source), 1)


@pytest.mark.parametrize("kind", FEEDS)
@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("cat", r"sample s0000: label 'cat'"),
        (-1, r"sample s0000: label '-1', not a number from 0 to 11"),
        ("1.0", r"sample s0000: label '1.0'"),
        (12, r"sample s0000: label 12, out of range for --num-classes 12"),
    ],
)
def test_bad_labels(kind, label, said, tmp_path):
    tars = write_tars(tmp_path / "set", [12], label=lambda n: n if n else label)
    with pytest.raises(FracgenError, match=said) as error:
        take(make(kind, open_source(tars, num_classes=12), batch_size=12), 2)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("kind", FEEDS)
def test_images_of_mixed_size_are_refused_or_resized(kind, tmp_path):
    def picture(number):
        return Image.new("L", (8, 12) if number == 5 else (8, 8), number)

    pattern = write_tars(tmp_path / "set", [12], picture)
    with pytest.raises(UsageError, match=r"sample s0005: 8 x 12 pixels, and the first image has 8 x 8; give --resize"):
        take(make(kind, open_source(pattern, num_classes=12), batch_size=12), 2)
    (batch,) = take(make(kind, open_source(pattern, num_classes=12, resize=6), batch_size=12), 1)
    assert batch.images.shape == (12, 1, 6, 6)
    assert torch.equal(batch.images[:, 0, 2, 3].long(), batch.labels)


def test_a_transform_takes_mixed_sizes_from_a_stream(tmp_path):
    pattern = write_tars(tmp_path / "set", [12], lambda n: Image.new("RGB", (8 + n, 8), (n, n, n)))
    source = open_source(pattern, num_classes=12)
    (batch,) = take(make(Stream, source, transform=noisy, num_workers=1), 1)
    assert batch.images.shape == (10, 3, 4, 4)
    assert choose_feed(source, "auto", CPU, transform=noisy).mode == "stream"


def test_resizing_crops_the_centre():
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, 10:30] = 200
    resized = np.asarray(square(Image.fromarray(pixels), 10))
    assert resized.shape == (10, 10) and resized[:, 1:-1].min() >= 199


@pytest.mark.parametrize(
    ("first", "other", "shape", "value"),
    [
        (Image.new("L", (8, 8), 50), Image.new("RGB", (8, 8), (100, 100, 100)), (1, 8, 8), 100),
        (Image.new("RGB", (8, 8), (9, 9, 9)), Image.new("L", (8, 8), 100), (3, 8, 8), 100),
        (Image.new("RGB", (8, 8), (9, 9, 9)), Image.new("RGBA", (8, 8), (200, 200, 200, 128)), (3, 8, 8), 100),
        (Image.new("L", (8, 8), 9), Image.new("LA", (8, 8), (200, 128)), (1, 8, 8), 100),
    ],
)
def test_images_of_mixed_mode_take_that_of_the_first(first, other, shape, value, tmp_path):
    pattern = write_tars(tmp_path / "set", [2], lambda number: other if number else first)
    resident = make(Resident, open_source(pattern, num_classes=2), batch_size=2)
    assert resident.images.shape[1:] == shape
    assert abs(resident.images[1].int() - value).max() <= 1


def test_sixteen_bit_images_are_refused(tmp_path):
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    pattern = write_tars(tmp_path / "set", [2], lambda number: deep if number else Image.new("L", (8, 8)))
    with pytest.raises(DataError, match=r"sample s0001: .*8 bits a channel"):
        make(Resident, open_source(pattern, num_classes=2), batch_size=2)


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_other_formats(extension, tmp_path):
    pattern = write_tars(tmp_path / "set", [12], extension=extension)
    (batch,) = take(make(Stream, open_source(pattern, num_classes=12), batch_size=12), 1)
    assert (batch.images.float().mean((1, 2, 3)) - batch.labels).abs().max() <= 3


@pytest.mark.parametrize("color", ["gray", "color"])
@pytest.mark.parametrize("kind", FEEDS)
def test_colour_and_one_bit_sets_of_ours(color, kind, tmp_path):
    recipe = small_recipe(color=color)
    bits = 1 if color == "gray" else 8
    write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=3, png_bits=bits))
    source = open_source(str(tmp_path / "set"))
    (batch,) = take(make(kind, source, batch_size=24), 1)
    for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
        expected = next(iter(recipe.render([label]))).image
        assert np.array_equal(image.permute(1, 2, 0).numpy().squeeze(), expected)
    smaller = make(kind, open_source(str(tmp_path / "set"), resize=16), batch_size=24)
    assert take(smaller, 1)[0].images.shape == (24, 3 if color == "color" else 1, 16, 16)


def test_a_folder_says_what_it_is(folder):
    source = open_source(str(folder))
    manifest = open_shards(folder).manifest
    assert (source.num_samples, source.num_classes, source.shape) == (24, 24, (48, 48))
    assert source.class_names == manifest.class_names and len(source.tars) == 5
    assert "24 images of 24 classes, 48 x 48 gray, in 5 tars" in source.description
    assert len(source.fingerprint) == 64 and open_source(str(folder), num_classes=24) == source


@pytest.mark.parametrize(
    ("shards", "options", "said"),
    [
        ("{folder}/nowhere", {}, "no such folder"),
        ("{empty}", {}, "no dataset.json"),
        ("{foreign}", {}, r"for tars of another origin give a pattern"),
        ("{folder}", {"num_classes": 23}, "--num-classes 23: .* has 24 classes"),
        ("{folder}", {"num_classes": 25}, "--num-classes 25: .* has 24 classes"),
        ("{folder}", {"num_classes": 0}, "--num-classes 0"),
        ("{folder}", {"resize": 0}, "--resize 0"),
        ("{foreign}/none-*.tar", {"num_classes": 3}, "no file matches"),
        ("{foreign}/none-{{0..3}}.tar", {"num_classes": 3}, "no file matches"),
        ("{foreign}/set-000.tar", {}, "give --num-classes"),
        ("{foreign}/set-{{000..000.tar", {"num_classes": 3}, "no file matches|no pattern"),
        ("https://host/set-{{000..001}}.tar", {"num_classes": 3}, "only local files"),
        ("{foreign}/*.tar.gz", {"num_classes": 3}, "only plain .tar files"),
    ],
)
def test_what_cannot_be_opened(shards, options, said, folder, tmp_path):
    write_tars(tmp_path / "foreign", [3])
    (tmp_path / "foreign" / "set.tar.gz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=said) as error:
        open_source(shards.format(folder=folder, empty=tmp_path / "empty", foreign=tmp_path / "foreign"), **options)
    assert "\n" not in str(error.value)


def test_folders_that_are_damaged(folder, tmp_path):
    def copy(name):
        return shutil.copytree(folder, tmp_path / name)

    version = copy("version") / "dataset.json"
    version.write_text(version.read_text().replace('"version": 2', '"version": 99'))
    missing = copy("missing") / "1p-frac-train-000001.tar"
    missing.unlink()
    short = copy("short") / "1p-frac-train-000002.tar"
    short.write_bytes(short.read_bytes()[:-512])
    unfinished = copy("unfinished")
    (unfinished / "dataset.json").unlink()
    (unfinished / ".partial").mkdir()
    for name, said in [
        ("missing", r"1p-frac-train-000001\.tar: missing"),
        ("short", r"1p-frac-train-000002\.tar: \d+ bytes, and the manifest says"),
    ]:
        with pytest.raises(DataError, match=said) as error:
            open_source(str(tmp_path / name))
        assert "\n" not in str(error.value)
    for name, said in [("version", "version 99; this release reads"), ("unfinished", "unfinished")]:
        with pytest.raises(UsageError, match=said):
            open_source(str(tmp_path / name))
    sizes = write_tars(tmp_path / "sizes", [3])
    (tmp_path / "sizes" / "sizes.json").write_text('{"set-000.tar": "3"}')
    with pytest.raises(DataError, match=r"sizes\.json: damaged"):
        open_source(sizes, num_classes=3)


def test_the_feed_is_chosen_by_size(source, monkeypatch):
    size = source.num_bytes
    assert size == 24 * 48 * 48
    for free, auto in [(5 * size, "resident"), (3 * size, "stream")]:
        monkeypatch.setattr(data, "free_memory", lambda device, free=free: free)
        choice = choose_feed(source, "auto", CPU)
        assert choice.mode == auto and choice.why.startswith(auto) and "55.3 kB decoded" in choice.why
        assert choose_feed(source, "resident", CPU).mode == "resident"
        assert choose_feed(source, "stream", CPU).mode == "stream"
    assert choose_feed(source, "auto", CPU, copies=2).mode == "stream"
    monkeypatch.setattr(data, "free_memory", lambda device: size)
    with pytest.raises(UsageError, match=r"does not fit in memory: 55\.3 kB decoded, 55\.3 kB free on the host"):
        choose_feed(source, "resident", CPU)


def test_free_memory_is_less_than_the_machine_has():
    assert 0 < data.free_memory(CPU) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_killed_worker_is_reported(source):
    before = set(multiprocessing.active_children())
    with contextlib.closing(make(Stream, source, num_workers=2).batches()) as batches:
        next(batches)
        worker, _ = sorted(set(multiprocessing.active_children()) - before, key=lambda process: process.pid)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(DataError, match=rf"data worker {worker.pid} died \(exit code -9\)"):
            for _ in range(1000):
                next(batches)


def test_closing_ends_workers_and_thread(source):
    before = set(multiprocessing.active_children()), threading.active_count()
    batches = make(Stream, source, num_workers=2).batches()
    next(batches)
    assert len(set(multiprocessing.active_children()) - before[0]) == 2
    batches.close()
    assert not set(multiprocessing.active_children()) - before[0]
    assert not any(thread.name == "batches ahead" for thread in threading.enumerate())
    until = time.monotonic() + 30  # the threads of multiprocessing's queues end by themselves, soon
    while threading.active_count() > before[1] and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before[1]
