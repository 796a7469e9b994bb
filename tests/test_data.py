"""The loader: every image once an epoch, the same batches for any mode, ranks, workers and resumption; bad input."""

import contextlib
import io
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
import torch
import webdataset
from conftest import small_recipe
from PIL import Image

from fracgen.render_shards import plan, write_shards
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.images import resize_and_center_crop
from fracgen.shards.reader import open_shards
from fracgen.train.data import choose
from fracgen.train.data.loader import TrainLoader, check_batch, eval_batches
from fracgen.train.data.opening import open_examples
from fracgen.train.data.sampler import Sampler
from fracgen.train.data.settings import LoaderSettings
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


@pytest.mark.parametrize("mode", MODES)
def test_colours_among_many_gray_images_are_refused_when_they_are_met(mode, tmp_path):
    colors = {5: (9, 9, 9)}
    pattern = write_tars(
        tmp_path / "gray", [100], lambda n: Image.new("RGB" if n in colors else "L", (8, 8), colors.get(n, n))
    )
    (batch,) = take(make(open_examples(pattern, num_classes=100), mode, batch_size=100), 1)
    assert batch.images.shape == (100, 1, 8, 8), "RGB of equal channels is gray"
    colors[5] = (9, 9, 8)
    pattern = write_tars(
        tmp_path / "set", [100], lambda n: Image.new("RGB" if n in colors else "L", (8, 8), colors.get(n, n))
    )
    examples = open_examples(pattern, num_classes=100)
    for resize in (0, 6):
        with pytest.raises(UsageError, match=r"images differ in mode: .*sample s0005 has colours, .*--loader stream"):
            take(make(examples, mode, batch_size=100, resize=resize), 1)
    loader = make(
        examples, "stream", transform=lambda picture: torch.tensor(picture.getpixel((0, 0))), workers=1, batch_size=100
    )
    images, labels, _ = take(loader, 1)[0]
    assert images[labels == 5].tolist() == [[9, 9, 8]], "a transform takes each as it is"


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


def test_a_stream_of_images_that_may_differ_in_size_needs_workers(tmp_path):
    """Augmented in this process, they would seed the generators that drop path and mixup draw from meanwhile."""
    tars = open_examples(write_tars(tmp_path, [12]), num_classes=12)
    options = {"augment": "device", "transform": noisy, "workers": 0}
    with pytest.raises(UsageError, match=r"^--workers 0: .* give --workers 1 or more, or --loader memory"):
        make(tars, "stream", **options)
    assert not make(tars, "stream", resize=8, **options).transformed
    assert make(tars, "stream", **options | {"workers": 1}).transformed


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


def test_sigterm_of_others_is_not_for_workers_but_the_trainers_is(examples):
    """Of systemd it comes to every process; the trainer then takes one more step, and writes its checkpoint."""
    before, straight = set(multiprocessing.active_children()), take(make(examples), 30)
    with contextlib.closing(make(examples, workers=2).batches()) as batches:
        taken = [next(batches)]
        workers = set(multiprocessing.active_children()) - before
        command = ["kill", "-TERM", *(str(worker.pid) for worker in workers)]
        subprocess.run(command, check=True)
        same(taken + list(itertools.islice(batches, 29)), straight)
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]


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
