"""Image files of any mode as photographs, and the one file in which a data set keeps them."""

import io
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image
from test_photo import RGB, card, save

from fracgen.photo.photographs import Photographs, load_photographs
from fracgen.shards.errors import UsageError


def load(path):
    photographs, notes = load_photographs([path])
    return photographs.images[0], notes


@pytest.mark.parametrize(
    ("name", "picture", "expected"),
    [
        ("rgb.png", RGB, card()),
        ("gray.png", RGB.convert("L"), np.asarray(RGB.convert("L"))),
        ("bits.png", RGB.convert("1"), np.asarray(RGB.convert("1").convert("L"))),
        ("palette.png", RGB.quantize(32), np.asarray(RGB.quantize(32).convert("RGB"))),
        ("cmyk.tif", RGB.convert("CMYK"), np.asarray(RGB.convert("CMYK").convert("RGB"))),
        ("hsv.tif", RGB.convert("YCbCr"), np.asarray(RGB.convert("YCbCr").convert("RGB"))),
        ("rgb.bmp", RGB, card()),
        ("rgb.webp", RGB, None),
        ("rgb.gif", RGB, None),
        ("rgb.jpg", RGB, None),
        ("lab.tif", None, None),
    ],
)
def test_modes(tmp_path, name, picture, expected):
    if picture is None:
        picture = Image.new("LAB", (80, 64), (200, 128, 128))
    loaded, notes = load(save(tmp_path / name, picture))
    assert loaded.dtype == np.uint8 and loaded.shape[:2] == (64, 80) and not notes
    if expected is not None:
        assert np.array_equal(loaded, expected)
    else:
        assert loaded.std() > 10 or name == "lab.tif"


def test_alpha_is_over_black(tmp_path):
    alpha = np.tile(np.arange(80, dtype=np.uint8) * 3, (64, 1))
    expected = np.rint(card() * (alpha[:, :, None] / 255))
    rgba = Image.fromarray(np.dstack([card(), alpha]))
    loaded, _ = load(save(tmp_path / "a.png", rgba))
    assert np.abs(loaded - expected).max() <= 1 and not loaded[:, 0].any()
    gray = Image.merge("LA", [RGB.convert("L"), Image.fromarray(alpha)])
    loaded, _ = load(save(tmp_path / "la.png", gray))
    assert loaded.ndim == 2 and np.abs(loaded - np.asarray(RGB.convert("L")) * (alpha / 255)).max() <= 1
    palette = RGB.quantize(32)
    index = palette.getpixel((40, 32))
    loaded, _ = load(save(tmp_path / "p.png", palette, transparency=index))
    where = np.asarray(palette) == index
    assert not loaded[where].any() and np.array_equal(loaded[~where], np.asarray(palette.convert("RGB"))[~where])
    loaded, _ = load(save(tmp_path / "key.png", RGB, transparency=(250, 230, 40)))
    assert not loaded[32, 40].any() and loaded[0, 79].any()


def test_more_than_8_bits_are_stretched(tmp_path):
    wide = (np.arange(64 * 80).reshape(64, 80) * 12 + 300).astype(np.uint16)
    expected = np.rint((wide - 300.0) / (wide.max() - 300.0) * 255)
    for name, levels in (("i16.png", wide), ("i16.tif", wide), ("i.tif", wide.astype(np.int32)), ("f.tif", wide / 7)):
        loaded, notes = load(save(tmp_path / name, Image.fromarray(levels.astype("f4") if name[0] == "f" else levels)))
        assert np.array_equal(loaded, expected), name
        assert len(notes) == 1 and "stretched to 0 to 255" in notes[0]
    odd = (wide / 7).astype(np.float32)
    odd[0, :3] = np.nan, np.inf, -np.inf
    loaded, _ = load(save(tmp_path / "odd.tif", Image.fromarray(odd)))
    assert loaded[0, :3].tolist() == [0, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientations(tmp_path, orientation, suffix):
    turn = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: np.rot90,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    plain, _ = load(save(tmp_path / f"plain.{suffix}", RGB, **options))
    loaded, _ = load(save(tmp_path / f"turned.{suffix}", RGB, exif=exif, **options))
    assert np.array_equal(loaded, turn[orientation](plain))


def test_a_transparent_level_of_16_bits_is_black(tmp_path):
    levels = np.tile(np.linspace(1000, 60_000, 80).astype(np.uint16), (64, 1))
    levels[10:20, 10:20] = 65_535
    loaded, notes = load(save(tmp_path / "key.png", Image.fromarray(levels), transparency=65_535))
    assert not loaded[10:20, 10:20].any() and loaded[0, 79] == 255 and "1000 to 60000" in notes[0]


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_broken_exif_is_no_broken_photograph(tmp_path, suffix):
    loaded, notes = load(save(tmp_path / f"a.{suffix}", RGB, exif=b"garbage", lossless=True))
    assert np.array_equal(loaded, card()) and len(notes) == 1 and "EXIF is broken" in notes[0]


def test_huge_ones_are_reduced_with_a_word(tmp_path):
    path = save(tmp_path / "wide.png", RGB.resize((5000, 500)))
    loaded, notes = load(path)
    assert loaded.shape == (205, 2048, 3) and len(notes) == 1 and "reduced to 2048 x 205" in notes[0]
    loaded, notes = load_photographs([path], max_side=100)[0].images[0], load_photographs([path], max_side=100)[1]
    assert loaded.shape == (10, 100, 3)
    assert all(load_photographs(alone)[0] == load_photographs([path])[0] for alone in (path, str(path)))
    loaded, _ = load(save(tmp_path / "big.jpg", RGB.resize((6000, 4500)), quality=80))
    assert loaded.shape == (1536, 2048, 3)
    with pytest.raises(UsageError, match="max-side 7"):
        load_photographs([path], max_side=7)


def bad_files(folder):
    """(path, message) of files that are no photographs."""
    good = io.BytesIO()
    RGB.save(good, "PNG")
    jpeg = io.BytesIO()
    RGB.save(jpeg, "JPEG")
    bomb = bytearray(good.getvalue())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    empty = bytearray(good.getvalue())
    empty[16:20] = bytes(4)
    empty[29:33] = zlib.crc32(empty[12:29]).to_bytes(4, "big")
    data = {
        "text.jpg": (b"not an image", "not an image that Pillow knows"),
        "nothing.png": (b"", "an empty file"),
        "cut.png": (good.getvalue()[:150], "cannot be decoded"),
        "cut.jpg": (jpeg.getvalue()[: len(jpeg.getvalue()) // 2], "cannot be decoded"),
        "bomb.png": (bytes(bomb), "decompression bomb"),
        "empty.png": (bytes(empty), "or one without pixels"),
    }
    for name, (content, message) in data.items():
        (folder / name).write_bytes(content)
        yield folder / name, message
    (folder / "folder").mkdir()
    yield folder / "folder", "a folder; name an image file"
    yield folder / "absent.png", "cannot be read"


def test_what_is_no_photograph_is_one_error(tmp_path):
    for path, message in bad_files(tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UsageError) as raised:
                load_photographs([path])
        assert str(path) in str(raised.value) and message in str(raised.value) and "\n" not in str(raised.value)


def test_the_file_of_a_data_set():
    value = Photographs((card(), card(30, 90, mode="L")))
    data = value.to_bytes()
    assert data == Photographs(value.images).to_bytes(), "no time is in it"
    again = Photographs.from_bytes(data)
    assert again == value and hash(again) == hash(value) and again.sha256 == value.sha256
    assert all(np.array_equal(a, b) for a, b in zip(again.images, value.images, strict=True))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["0.png", "1.png"]
        assert np.array_equal(np.asarray(Image.open(archive.open("0.png"))), card()), "any reader opens it"
    assert Photographs((card(),)) != value and Photographs((card(64, 80),)) != Photographs((card(80, 64),))
    for other in (b"", data[:-30], data.replace(b"0.png", b"9.png")):
        with pytest.raises(UsageError, match=r"photographs\.zip: damaged"):
            Photographs.from_bytes(other)
    for images in ((), (np.zeros((3, 3)),), (np.zeros((0, 3), np.uint8),), (np.zeros((3, 3, 4), np.uint8),)):
        with pytest.raises(UsageError, match="photograph"):
            Photographs(images)
