"""The one decoder of images that others made: the same pixels by every reader of ours."""

import io
import multiprocessing
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fracgen.pack import pack, plan
from fracgen.photo.photographs import load_photographs
from fracgen.shards.errors import BadImageError
from fracgen.shards.images import (
    _PIXELS_AT_ONCE,
    _decoding,
    decode_picture,
    is_gray,
    resize_and_center_crop,
    to_gray_or_rgb,
)
from fracgen.shards.labels.imagefolder import list_images
from fracgen.shards.reader import open_shards
from fracgen.train.data.opening import open_examples

GRAY, GRAY_ALPHA, RGB, RGBA, PALETTE = 0, 4, 2, 6, 3


def png(color_type, bits, rows, **chunks):
    """A PNG of these rows of bytes, by hand: no writer's idea of what a chunk means is in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    channels = {GRAY: 1, GRAY_ALPHA: 2, RGB: 3, RGBA: 4, PALETTE: 1}[color_type]
    width = len(rows[0]) * 8 // (bits * channels)
    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(kind.encode(), data) for kind, data in chunks.items())]
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def words(*values):
    return struct.pack(f">{len(values)}H", *values)


CASES = {  # name: (file, the pixels that are seen)
    "gray, 1 bit": (png(GRAY, 1, [b"\xf0"]), [255] * 4 + [0] * 4),
    "gray, 1 bit, white transparent": (png(GRAY, 1, [b"\xf0"], tRNS=words(1)), [0] * 8),
    "gray, 1 bit, black transparent": (png(GRAY, 1, [b"\xf0"], tRNS=words(0)), [255] * 4 + [0] * 4),
    "gray, 2 bits, 2 transparent": (png(GRAY, 2, [b"\x1b"], tRNS=words(2)), [0, 85, 0, 255]),
    "gray, 4 bits, 15 transparent": (png(GRAY, 4, [b"\x3f"], tRNS=words(15)), [51, 0]),
    "gray, 8 bits, 200 transparent": (png(GRAY, 8, [b"\xc8\x32"], tRNS=words(200)), [0, 50]),
    "gray, 16 bits": (png(GRAY, 16, [words(0, 128, 129, 4000, 65535)]), [0, 0, 1, 16, 255]),
    "gray, 16 bits, 4000 transparent": (png(GRAY, 16, [words(4000, 4001)], tRNS=words(4000)), [0, 16]),
    "gray and alpha": (png(GRAY_ALPHA, 8, [bytes([200, 255, 200, 128, 200, 0])]), [200, 100, 0]),
    "RGB, one transparent": (
        png(RGB, 8, [bytes([200, 200, 200, 200, 200, 201])], tRNS=words(200, 200, 200)),
        [[0, 0, 0], [200, 200, 201]],
    ),
    "RGB, 16 bits": (png(RGB, 16, [words(4000, 256, 65535)]), [[15, 1, 255]]),
    "RGB, 16 bits, one transparent": (
        png(RGB, 16, [words(4000, 256, 65535, 1, 2, 3)], tRNS=words(4000, 256, 65535)),
        [[0, 0, 0], [0, 0, 0]],
    ),
    "RGBA": (png(RGBA, 8, [bytes([200, 100, 50, 128])]), [[100, 50, 25]]),
    "palette, its first transparent": (
        png(PALETTE, 8, [b"\0\1"], PLTE=bytes([9, 9, 9, 5, 5, 5]), tRNS=b"\0"),
        [[0, 0, 0], [5, 5, 5]],
    ),
    "palette, half transparent": (png(PALETTE, 8, [b"\0"], PLTE=bytes([200, 100, 50]), tRNS=b"\x80"), [[100, 50, 25]]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_picture_has_one_value(name):
    data, expected = CASES[name]
    picture = decode_picture(data)
    assert picture.mode == ("RGB" if isinstance(expected[0], list) else "L")
    assert np.asarray(picture)[0].tolist() == expected


@pytest.mark.parametrize("name", CASES)
def test_every_reader_sees_the_same_pixels(tmp_path, name):
    data, expected = CASES[name]
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "0.png").write_bytes(data)
    images = list_images(tmp_path / "set")
    manifest = pack(images, tmp_path / "shards", plan(images)).manifest
    assert manifest.image.mode == decode_picture(data).mode, "the manifest says what the decoder gives"
    for sample in open_shards(tmp_path / "shards"):
        assert sample.image[0].tolist() == expected
    for place in ("set", "shards", "shards/*.tar"):
        examples = open_examples(str(tmp_path / place), num_classes=2)
        for number in range(2):
            assert np.asarray(examples.open(number))[0].tolist() == expected, place
    if "16 bits" not in name or "RGB" in name:  # a photograph's levels of 16 bits are stretched
        photographs, _ = load_photographs([tmp_path / "set" / "a" / "0.png"])
        assert photographs.images[0][0].tolist() == expected


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_other_formats(kind, mode):
    file = io.BytesIO()
    picture = Image.linear_gradient("L").convert(mode)
    if mode == "CMYK" and kind != "JPEG":
        picture = picture.convert("RGBA") if kind == "WEBP" else picture.convert("P")
    picture.save(file, kind)
    decoded = decode_picture(file.getvalue())
    assert decoded.size == (256, 256) and abs(np.asarray(decoded.convert("L"))[200].mean() - 200) < 8
    if kind != "WEBP":
        assert decoded.mode == ("L" if mode == "L" else "RGB")


def test_a_jpeg_is_decoded_no_smaller_than_asked():
    file = io.BytesIO()
    Image.linear_gradient("L").resize((640, 480)).save(file, "JPEG")
    assert decode_picture(file.getvalue(), min_size=100).size == (160, 120)
    assert decode_picture(file.getvalue()).size == (640, 480)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no image"),
        (b"GIF89a" + bytes(50), "no image"),
        (png(GRAY, 8, [np.random.default_rng(0).bytes(99)])[:90], "damaged"),
        (b"BM" + struct.pack("<IIIIiiHHII", 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0) + bytes(16), "too large"),
    ],
)
def test_what_is_no_image(data, reason):
    with pytest.raises(BadImageError) as caught:
        decode_picture(data)
    assert caught.value.reason == reason and "\n" not in str(caught.value)


def test_numbers_of_unknown_scale_are_refused():
    for picture in (Image.new("F", (2, 2)), Image.new("I", (2, 2), 70_000), Image.new("I", (2, 2), -1)):
        with pytest.raises(BadImageError) as caught:
            to_gray_or_rgb(picture)
        assert caught.value.reason == "unknown scale"


def test_which_modes_are_gray():
    for mode in ("1", "L", "LA", "La", "I", "I;16"):
        assert is_gray(mode)
    for mode in ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        assert not is_gray(mode)
        assert to_gray_or_rgb(Image.new(mode, (2, 2))).mode == "RGB"


def test_resize_and_center_crop():
    picture = Image.fromarray(np.repeat(np.arange(90, dtype=np.uint8)[None], 30, 0))
    crop = resize_and_center_crop(picture, 30)
    assert crop.size == (30, 30) and np.asarray(crop)[0].tolist() == list(range(30, 60))
    assert resize_and_center_crop(picture, 15).size == (15, 15)


def palette_png(side: int) -> bytes:
    """A palette PNG with tRNS, of few bytes however large it is."""
    picture = Image.new("P", (side, side), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=bytes([255, 128]), compress_level=9)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "I;16", "L"])
def test_bands_make_no_difference(monkeypatch, mode):
    rng = np.random.default_rng(0)
    channels = {"LA": 2, "RGBA": 4}.get(mode)
    levels = rng.integers(0, 65536 if mode == "I;16" else 256, (37, 21, channels) if channels else (37, 21))
    file, options = io.BytesIO(), {"transparency": 77} if mode in ("L", "I;16") else {}
    picture = Image.fromarray(levels.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        picture = Image.fromarray(levels.astype(np.uint8), "P")
        picture.putpalette(rng.integers(0, 256, 768).tolist())
        options = {"transparency": bytes(rng.integers(0, 256, 256).tolist())}
    picture.save(file, "PNG", **options)
    whole = np.asarray(decode_picture(file.getvalue()))
    monkeypatch.setattr("fracgen.shards.images._BAND_PIXELS", 64)
    assert np.array_equal(np.asarray(decode_picture(file.getvalue())), whole)


MEASURE = """
import sys, threading
from fracgen.shards.images import decode_picture
data, threads = open(sys.argv[1], "rb").read(), int(sys.argv[2])
def peak(): return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
workers = [threading.Thread(target=lambda: decode_picture(data) and None) for _ in range(threads)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
@pytest.mark.parametrize("threads", [1, 6])
def test_a_small_file_of_a_large_image_does_not_take_copies(tmp_path, threads):
    """64 million pixels: 4 bytes each as Pillow keeps RGB, and 1 for the palette's numbers; one such at a time."""
    (tmp_path / "x.png").write_bytes(palette_png(8000))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "x.png"), str(threads)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 200 < int(run.stdout) < 450


def test_what_a_thread_decodes_while_the_process_forks_is_not_waited_for_in_the_child():
    with _decoding(_PIXELS_AT_ONCE):
        child = multiprocessing.get_context("fork").Process(target=decode_a_large_one)
        child.start()
        child.join(20)
        child.kill()
    assert child.exitcode == 0


def decode_a_large_one() -> None:
    with _decoding(_PIXELS_AT_ONCE):
        pass
