"""The contract: layout, tars, codec, manifest."""

import io
import json
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import forge_manifest
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.layout import Layout, default_num_shards
from fracgen.shards.manifest import PixelHash, load_manifest
from fracgen.shards.png import decode_png, encode_png
from fracgen.shards.reader import open_shards, read_tar
from fracgen.shards.sample import Sample
from fracgen.shards.tar_members import encode_member
from fracgen.shards.writer import write_tar


@pytest.mark.parametrize(
    ("samples", "shards", "group"), [(1, 1, 1), (24, 5, 1), (1000, 64, 1), (1000, 7, 40), (1003, 9, 40)]
)
def test_layout_holds_every_sample_once_in_even_shards(samples, shards, group):
    layout = Layout(name="x", num_samples=samples, num_shards=shards, group=group)
    parts = [layout.indices(shard) for shard in range(shards)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(samples))
    sizes = [len(part) for part in parts]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= (group if samples % group == 0 else 2 * group)
    for part in parts:
        for number in set(part // group):
            members = range(number * group, min((number + 1) * group, samples))
            assert set(members) <= set(part.tolist()), "a group is never torn apart"


def test_layout_permutes_by_its_seed():
    def first(seed):
        return Layout(name="x", num_samples=100, num_shards=4, seed=seed).indices(0).tolist()

    assert first(0) == first(0) != first(1)
    assert first(0) != sorted(first(0))


def test_layout_is_pinned():
    """Like the seeds' streams, this order is part of the format."""
    assert Layout(name="x", num_samples=12, num_shards=3).indices(1).tolist() == [4, 5, 9, 1]
    shuffled = Layout(name="x", num_samples=100, num_shards=1, group=100).indices(0).tolist()
    assert shuffled != sorted(shuffled), "samples of a shard are permuted too"


def test_default_number_of_shards():
    assert [default_num_shards(n) for n in (1, 10, 64, 400, 1000, 640_000, 1_000_000)] == [1, 2, 8, 50, 64, 64, 100]
    assert default_num_shards(1000, group=40) == 25


def test_layout_refuses_what_cannot_be():
    for shards in (0, -1, 11):
        with pytest.raises(UsageError, match="give 1 to 10"):
            Layout(name="x", num_samples=10, num_shards=shards)
    with pytest.raises(UsageError, match="1 or 8"):
        Layout(name="x", num_samples=10, num_shards=1, png_bits=4)


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (7, 13), (5, 9, 3), (512, 512)])
def test_png_round_trip(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    data = encode_png(image)
    assert np.array_equal(decode_png(data), image)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == ("RGB" if len(shape) == 3 else "L")
        assert np.array_equal(np.asarray(picture), image)


def test_one_bit_png():
    image = np.random.default_rng(0).integers(0, 2, (37, 21)).astype(np.uint8) * 127
    data = encode_png(image, 1)
    assert np.array_equal(decode_png(data, 1), image)
    with Image.open(io.BytesIO(data)) as picture:
        assert np.array_equal(np.asarray(picture.convert("L")), np.where(image, 255, 0))
    for other in (image + 1, np.stack([image] * 3, -1)):
        with pytest.raises(UsageError, match="two levels"):
            encode_png(other, 1)


def test_every_thread_encodes_the_same_bytes():
    """ISA-L in one piece does not: these images differ, about ten of them in each thread."""
    words = np.random.default_rng(0).integers(1, 256, (12000, 4), dtype=np.uint8)
    images = [np.tile(word, 150)[None] for word in words]
    here = [encode_png(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(lambda: [encode_png(image) for image in images]) for _ in range(4)]
    assert all(other.result() == here for other in others)


def test_bytes_that_are_no_image():
    data = encode_png(np.zeros((9, 9), np.uint8))
    for bad in (b"", b"nothing", data[:40], data[:50] + bytes([data[50] ^ 255]) + data[51:]):
        with pytest.raises(DataError):
            decode_png(bad)


def samples(count, size=16):
    rng = np.random.default_rng(1)
    for index in range(count):
        image = (rng.integers(0, 2, (size, size)) * 127).astype(np.uint8)
        yield Sample(
            image=image, index=index, label=index % 3, metadata={"a": 0.5, "n": index}, rejected={"fill": index}
        )


def test_tar_is_plain_and_deterministic(tmp_path):
    layout = Layout(name="x", num_samples=5, num_shards=1)
    records = [write_tar(tmp_path / name, "x-train-000000.tar", samples(5), layout) for name in ("a.tar", "b.tar")]
    assert records[0] == records[1]
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert records[0].samples == 5 and records[0].rejections == {"fill": 10}
    assert records[0].bytes == (tmp_path / "a.tar").stat().st_size
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:4]] == ["000000.cls", "000000.json", "000000.png", "000001.cls"]
    assert {(member.mtime, member.uid, member.gid, member.uname, member.type) for member in members} == {
        (0, 0, 0, "", tarfile.REGTYPE)
    }
    for sample, raw in zip(samples(5), read_tar(tmp_path / "a.tar", "png"), strict=True):
        assert (raw.label, raw.metadata) == (sample.label, sample.metadata)
        assert np.array_equal(decode_png(raw.image_bytes), sample.image)


@pytest.mark.parametrize("order", [[3, 0, 8, 6, 1, 7, 4, 2, 5], list(range(9)), list(range(8, -1, -1))])
@pytest.mark.parametrize(
    "come", [[0, 1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1, 0], [3, 8, 0, 6, 5, 1, 2, 7, 4]]
)
def test_samples_may_come_in_another_order(tmp_path, order, come):
    layout, entries = Layout(name="x", num_samples=9, num_shards=1), list(samples(9))
    in_order = write_tar(tmp_path / "a.tar", "x", [entries[index] for index in order], layout)
    waited = write_tar(tmp_path / "b.tar", "x", (entries[index] for index in come), layout, order)
    assert waited == in_order and waited.samples == 9 and waited.rejections == {"fill": 36}
    assert (tmp_path / "b.tar").read_bytes() == (tmp_path / "a.tar").read_bytes()
    assert [int(raw.key) for raw in read_tar(tmp_path / "b.tar", "png")] == order


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 123_456])
def test_tar_members_are_what_tarfile_writes(size):
    header = tarfile.TarInfo("000123.png")
    header.size = size
    expected = header.tobuf(tarfile.USTAR_FORMAT) + bytes(size) + bytes(-size % 512)
    assert encode_member("000123.png", bytes(size)) == expected


def test_metadata_can_be_left_out(tmp_path):
    layout = Layout(name="x", num_samples=2, num_shards=1, metadata=False)
    write_tar(tmp_path / "a.tar", "x", samples(2), layout)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [name.split(".")[1] for name in tar.getnames()] == ["cls", "png", "cls", "png"]


def test_pixel_hash_tells_everything_apart():
    image = np.zeros((4, 6), np.uint8)
    other = image.copy()
    other[0, 0] = 1

    def of(*pairs):
        pixels = PixelHash()
        for each in pairs:
            pixels.update(PixelHash.digest(*each))
        return pixels.hexdigest()

    variants = [
        of((image, 0)),
        of((image, 1)),
        of((other, 0)),
        of((image.T, 0)),
        of((image, 0), (image, 0)),
        of((image, 0), (other, 0)),
    ]
    assert len(set(variants)) == 6
    assert of((image, 0), (other, 0)) != of((other, 0), (image, 0))


def test_reading_back_gives_what_was_rendered(recipe, folder):
    shards = open_shards(folder)
    assert len(shards) == 24
    read = {sample.index: sample for sample in shards}
    for sample in recipe.render(range(24)):
        assert np.array_equal(read[sample.index].image, sample.image)
        assert read[sample.index].label == sample.label and read[sample.index].metadata == sample.metadata


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        load_manifest(tmp_path / "absent")
    with pytest.raises(UsageError, match="no folder of shards"):
        load_manifest(tmp_path)
    (tmp_path / ".partial").mkdir()
    with pytest.raises(DataError, match="unfinished"):
        load_manifest(tmp_path)


FORGERIES = [
    (("shards", 0, "name"), "../../etc/passwd", "not those of its layout"),
    (("shards", 0, "name"), "/dev/zero", "not those of its layout"),
    (("shards", 0, "bytes"), "12", r"shards\[0\]\.bytes '12': must be a whole number"),
    (("shards", 0, "samples"), 7, "not those of its layout"),
    (("shards", 0, "rejections"), {"fill": None}, "rejections.fill None: must be a whole number"),
    (("layout", "num_shards"), 0, "give 1 to"),
    (("layout", "name"), "../x", "only letters"),
    (("class_names",), [1], r"class_names\[0\] 1: must be text"),
    (("image",), {"extension": "png"}, "width is missing"),
    (("recipe",), [], r"recipe \[\]: must be a mapping"),
]


@pytest.mark.parametrize(("where", "value", "message"), FORGERIES)
def test_manifests_of_the_wrong_types_are_refused(folder, tmp_path, where, value, message):
    values = json.loads((folder / "dataset.json").read_text())
    inner = values
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    forge_manifest(tmp_path, values)
    with pytest.raises(DataError, match=message):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{", "[]", "{}", '{"format": "x"}', '{"format": "fracgen-shards", "version": 9}']
)
def test_damaged_manifests(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("bits", [8, 1])
def test_our_own_pngs_decode_as_pillow_decodes_them(bits):
    """And what is not ours to the byte is left to Pillow."""
    from fracgen.shards.png import _decode_ours

    random = np.random.RandomState(0)
    shapes = [(1, 1), (7, 9), (64, 64), (33, 100)] + ([(5, 6, 3), (40, 30, 3)] if bits == 8 else [])
    for shape in shapes:
        image = (random.randint(0, 2, shape) * 127).astype(np.uint8)
        if bits == 8:
            image = random.randint(0, 256, shape).astype(np.uint8)
        data = encode_png(image, bits)
        assert np.array_equal(_decode_ours(data, bits, shape), image)
        levels = np.asarray(Image.open(io.BytesIO(data)))
        assert np.array_equal(levels.astype(bool) * np.uint8(127) if bits == 1 else levels, image)
        assert np.array_equal(decode_png(data, bits), image), "without a shape"
        other = io.BytesIO()
        Image.fromarray(image).save(other, "PNG")
        if bits == 8:
            assert _decode_ours(other.getvalue(), bits, shape) is None or shape == (1, 1)
            assert np.array_equal(decode_png(other.getvalue(), bits, shape=shape), image)
        assert _decode_ours(data, bits, (*shape[:1], shape[1] + 1, *shape[2:])) is None
        for place in range(len(data)):
            bad = bytearray(data)
            bad[place] ^= 1 << random.randint(8)
            assert _decode_ours(bytes(bad), bits, shape) is None, place
        for cut in range(len(data)):
            assert _decode_ours(data[:cut], bits, shape) is None
        assert _decode_ours(data + b"x", bits, shape) is None


def test_nothing_heavy_is_imported():
    code = "import sys, {}; print({{'torch', 'webdataset', 'numba', 'typer'}} & {{*sys.modules}})"
    files = Path(__file__).parents[1].glob("shards/[!_]*.py")
    names = [path.stem for path in files if path.stem not in ("commandline", "options")]
    run = [sys.executable, "-c", code.format(", ".join(f"fracgen.shards.{name}" for name in names))]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "set()\n"
