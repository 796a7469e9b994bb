"""Photographs: reading any file, looks, recipes, folders. No photograph is committed: scikit-image brings one."""

import hashlib
import io
import json
import pickle
import tracemalloc
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from fracgen.photo.edges import Canny, derive_canny, square, to_gray
from fracgen.photo.photographs import Photographs, load_photographs
from fracgen.photo.recipe import Photo
from fracgen.registry import RECIPES, from_dict, inputs, load_recipe, recipe_hash, save_recipe, to_dict
from fracgen.render_shards import merge, plan, write_shards
from fracgen.shards.errors import DataError, UsageError
from fracgen.sweep import sweep_cells

WARPS = ("affine", "perspective", "polynomial", "elastic", "crops")
LOOKS = ("canny", "gray", "rgb")


def card(width=80, height=64, *, mode="RGB") -> np.ndarray:
    """A drawn test card: disks and bars on a slope of colour."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack([x * 120 // width, y * 120 // height, np.full_like(x, 60)], -1).astype(np.uint8)
    levels[np.hypot(x - width / 2, y - height / 2) < height / 4] = (250, 230, 40)
    levels[height // 8 : height // 4, width // 8 : width // 3] = (20, 200, 240)
    return levels if mode == "RGB" else levels[:, :, 0]


def photo(**changes) -> Photo:
    values = {"classes": 6, "size": 48, "seed": 3, "photographs": Photographs((card(),)), **changes}
    return Photo(**values).resolve()[0]


def pixels(sample) -> str:
    return hashlib.sha256(sample.image).hexdigest()


@pytest.mark.parametrize("size", [64, 223, 224, 225, 512])
@pytest.mark.parametrize("kind", ["board", "step", "slant", "weak", "bars"])
def test_edges_are_found_where_gradients_tie(size, kind):
    y, x = np.indices((512, 512))
    on = {"board": (x // 64 + y // 64) % 2, "bars": x // 32 % 2, "slant": x > y}.get(kind, y > 255)
    picture = square(np.where(on, 255 if kind != "weak" else 9, 0).astype(np.uint8), size)
    canny = derive_canny(picture, blur=None, low=None, high=None)
    lines = np.count_nonzero(canny.edges(picture)) / size
    assert {"board": 9, "bars": 13}.get(kind, 0.9) < lines < {"board": 15, "bars": 16}.get(kind, 2.1)


@pytest.mark.parametrize(("name", "value"), [("blur", 3.0), ("high", 40.0), ("low", 9.0), ("strength", 0.1)])
def test_a_swept_image_is_one_of_the_set_with_that_value(name, value):
    """What was derived from the old value is derived from the new one, as where the set is rendered."""
    clouds = cv2.GaussianBlur(np.random.RandomState(0).randint(0, 256, (80, 80)).astype(np.uint8), (0, 0), 2)
    photographs = Photographs((clouds,))
    (cell,) = sweep_cells(photo(photographs=photographs), {name: [value]})
    expected = photo(photographs=photographs, **{name: value if name == "strength" else (value,)})[0]
    assert not cell.error and np.array_equal(cell.image, expected.image)


def zipped(images) -> bytes:
    """`photographs.zip` of PNGs of these bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, image in enumerate(images):
            archive.writestr(f"{number}.png", image)
    return file.getvalue()


def test_photographs_of_more_pixels_than_allowed_are_refused_by_their_headers():
    from fracgen.shards.png import encode_png

    png = encode_png(np.zeros((6000, 6000, 3), np.uint8))
    data = zipped([png] * 20)
    assert len(data) < 10_000_000
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"2\.0 GiB of pixels in all photographs together"):
        Photographs.from_bytes(data)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    with pytest.raises(UsageError, match="1001 photographs"):
        Photographs.from_bytes(zipped([b""] * 1001))


def save(path, picture, **options):
    picture.save(path, **options)
    return path


RGB = Image.fromarray(card())


# looks


def test_looks():
    sheet = card()
    base = square(sheet, 48)
    assert base.shape == (48, 48, 3) and np.array_equal(square(sheet, 64), sheet[:, 8:72]), "the centre square"
    gray = to_gray(sheet)
    assert np.abs(gray - sheet @ [0.299, 0.587, 0.114]).max() <= 1
    rgb, gray = photo(look="rgb", strength=0.0), photo(look="gray", strength=0.0)
    assert np.array_equal(rgb.base(), base) and np.array_equal(gray.base(), to_gray(base))
    gray.base()[:] = 0
    assert np.array_equal(gray.base(), to_gray(base)), "what is written into a base is in no image"
    canny = photo(strength=0.0)
    edges = canny.base()
    assert set(np.unique(edges)) == {0, 255} and 0.01 < (edges > 0).mean() < 0.5
    plain = cv2.Canny(
        cv2.GaussianBlur(to_gray(base), (0, 0), canny.blur[0]), canny.low[0], canny.high[0], L2gradient=True
    )
    assert np.array_equal(edges, plain)
    assert np.array_equal(square(card(20, 20, mode="L"), 48).shape, (48, 48))


def test_thresholds_follow_the_rule():
    gray = to_gray(card(512, 512))
    canny = derive_canny(gray, blur=None, low=None, high=None)
    assert canny.blur == round(2**0.5, 3)
    blurred = cv2.GaussianBlur(gray, (0, 0), canny.blur)
    gradient = np.hypot(cv2.Sobel(blurred, cv2.CV_64F, 1, 0), cv2.Sobel(blurred, cv2.CV_64F, 0, 1))
    assert canny.high == pytest.approx(
        np.quantile(gradient[gradient > 0], 0.8), abs=1e-2
    ) and canny.low == pytest.approx(0.4 * canny.high, abs=1e-2)
    canny = derive_canny(gray, blur=3.0, low=None, high=50.0)
    assert canny == Canny(blur=3.0, low=20.0, high=50.0)
    assert derive_canny(gray, blur=0.0, low=5000.0, high=None).high == 5000.0
    assert derive_canny(gray[:48, :48], blur=None, low=None, high=None).blur == 1.0


def test_each_photograph_has_its_own_thresholds():
    dim = (card() // 3).astype(np.uint8)
    recipe = photo(photographs=Photographs((card(), dim, card(50, 50, mode="L"))), classes=2)
    assert len(recipe.high) == len(recipe.low) == len(recipe.blur) == 3 and recipe.high[1] < recipe.high[0]
    assert len(recipe) == recipe.num_classes == 6 and recipe.class_names == tuple("012345")
    assert [sample.metadata["photograph"] for sample in recipe.render(range(6))] == [0, 0, 1, 1, 2, 2]
    assert replace(recipe, high=(300.0,)).high == (300.0,) * 3
    with pytest.raises(UsageError, match="2 numbers for 3 photographs"):
        replace(recipe, high=(300.0, 200.0))
    assert photo(look="gray", high=(3.0,)).high is None


# recipes


def test_it_is_a_recipe():
    assert RECIPES["photo"] is Photo
    default = Photo()
    assert (default.look, default.warp, default.classes, default.size) == ("canny", "affine", 1000, 512)
    assert default.two_level is False and default.image_shape == (512, 512)
    assert replace(default, look="rgb").image_shape == (512, 512, 3)
    with pytest.raises(UsageError, match="fracgen photo IMAGE"):
        default.resolve()
    with pytest.raises(UsageError, match="--png-bits 1"):
        plan(photo(), png_bits=1)


@pytest.mark.parametrize("warp", WARPS[:4])
@pytest.mark.parametrize("look", LOOKS)
def test_strength_0_is_exactly_the_look(look, warp):
    recipe = photo(look=look, warp=warp, strength=0.0)
    for sample in recipe.render(range(6)):
        assert np.array_equal(sample.image, recipe.base()) and not any(sample.rejected.values())
    assert "same image" in recipe.warnings({})[0]


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("look", LOOKS)
def test_a_sample_and_its_metadata(look, warp):
    recipe = photo(look=look, warp=warp, classes=8)
    schema = {
        "affine": ["eps", "matrix"], "perspective": ["eps", "matrix"], "polynomial": ["coefficients"],
        "elastic": ["nodes"], "crops": ["matrix", "color", "level"],
    }[warp]  # fmt: skip
    samples = list(recipe.render(range(8)))
    assert len({pixels(sample) for sample in samples}) == 8
    for index, sample in enumerate(samples):
        assert (sample.index, sample.label) == (index, index) and type(sample.label) is int
        assert sample.image.shape == recipe.image_shape and sample.image.dtype == np.uint8
        keys = ["formula", "look", "warp", "photograph", *schema, "fineness", "covered", "visible", "tries"]
        assert list(sample.metadata) == keys
        assert json.loads(json.dumps(sample.metadata)) == sample.metadata
        assert sample.metadata["tries"] == sum(sample.rejected.values()) + 1
        assert set(sample.rejected) == {"fill", "flat", "fold"}


@pytest.mark.parametrize("warp", ["affine", "perspective"])
@pytest.mark.parametrize("look", LOOKS)
def test_matrices_in_the_metadata_reproduce_the_pixels(look, warp):
    """With nothing but OpenCV and the JSON."""
    recipe = photo(look=look, warp=warp, strength=0.8)
    for sample in recipe.render(range(6)):
        matrix, (x, y) = np.array(sample.metadata["matrix"]), sample.metadata["fineness"]
        finer = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
        image = cv2.warpPerspective(recipe.base(), finer @ matrix, (48 * x, 48 * y))
        assert np.array_equal(cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA), sample.image)


@pytest.mark.parametrize("warp", ["polynomial", "elastic"])
def test_control_points_in_the_metadata_reproduce_the_pixels(warp):
    from test_warps import frame

    recipe = photo(look="gray", warp=warp)
    for sample in recipe.render(range(6)):
        fine = sample.metadata["fineness"]
        (x, y), here = frame(48, fine), frame(48, fine)
        if warp == "polynomial":
            terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
            sources = here + np.tensordot(np.array(sample.metadata["coefficients"]), terms, 1)
        else:
            nodes = np.array(sample.metadata["nodes"])
            cells = len(nodes) - 3
            assert nodes.shape == (7, 7, 2)

            def basis(distance):
                d = np.abs(distance)
                return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.clip(2 - d, 0, None) ** 3 / 6)

            across, down = (
                np.stack([basis((axis + 1) / 2 * cells - (k - 1)) for k in range(cells + 3)]) for axis in (x, y)
            )
            sources = here + np.einsum("jik,jyx,iyx->kyx", nodes, down, across)
        place = ((sources + 1) * 24 - 0.5).astype(np.float32)
        image = cv2.remap(recipe.base(), *place, cv2.INTER_LINEAR)
        image = cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - sample.image).max() <= 1


@pytest.mark.parametrize("warp", WARPS)
def test_an_image_depends_on_its_index_only(warp):
    recipe = photo(warp=warp, look="gray", strength=1.2, classes=20)
    alone = {index: next(recipe.render([index])) for index in range(20)}
    again = photo(warp=warp, look="gray", strength=1.2, classes=20)
    for order in (range(20), range(19, -1, -1), [5, 5, 0, 19]):
        for index, sample in zip(order, again.render(order), strict=True):
            assert sample.index == index and pixels(sample) == pixels(alone[index])
            assert sample.metadata == alone[index].metadata and sample.rejected == alone[index].rejected
    assert pixels(next(replace(recipe, seed=4).render([7]))) != pixels(alone[7])
    assert pixels(next(replace(recipe, classes=8).render([7]))) == pixels(alone[7])
    copy = pickle.loads(pickle.dumps(recipe))
    assert pixels(next(copy.render([7]))) == pixels(alone[7])
    for index in (-1, 20):
        with pytest.raises(UsageError, match="0 to 19"):
            next(recipe.render([index]))


def test_numbers_are_uniform_about_nothing():
    recipe = photo(warp="perspective", strength=0.6, classes=500)
    eps = np.array([recipe.draw_warp(index).eps for index in range(500)])
    assert np.abs(eps).max() <= 0.3 and np.abs(eps).max() > 0.299 and abs(eps.mean()) < 0.01
    assert np.std(eps) == pytest.approx(0.6 / 12**0.5, rel=0.03)


def test_rejected_warps_are_counted():
    recipe = photo(strength=2.5, min_fill=0.3, classes=40)
    samples = list(recipe.render(range(40)))
    rejected = {reason: sum(sample.rejected[reason] for sample in samples) for reason in ("fill", "flat", "fold")}
    assert rejected["fill"] > 10 and rejected["fold"] > 3
    assert all(min(sample.metadata["covered"], sample.metadata["visible"]) >= 0.3 for sample in samples)
    for sample in samples:
        warp = recipe.draw_warp(sample.index, sample.metadata["tries"] - 1)
        assert warp.eps.tolist() == sample.metadata["eps"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warp": "elastic", "strength": 60.0}, "fold"),
        ({"warp": "polynomial", "strength": 30.0, "max_tries": 5}, "none of 5 warps could be kept"),
        ({"strength": 0.5, "min_fill": 1.0}, "fill"),
        ({"strength": 1e6}, "lower --strength or --min-fill"),
        ({"photographs": Photographs((np.full((60, 60), 9, np.uint8),))}, "low 0 and high 0"),
        ({"low": (9000.0,), "high": (9999.0,)}, "low 9000 and high 9999"),
    ],
)
def test_what_cannot_be_made_is_told_before_anything_is_written(changes, message):
    with pytest.raises(UsageError, match=message):
        photo(**changes)


def test_a_class_that_fails_among_untried_ones_is_no_silent_hole(tmp_path, monkeypatch):
    """Of many classes only some are tried before; here, the first and the last."""
    hard = {"strength": 2.5, "min_fill": 0.3, "classes": 36, "max_tries": 4}
    with pytest.raises(UsageError, match="none of 4 warps"):
        photo(**hard)
    monkeypatch.setattr("fracgen.photo.recipe.PROBES", 2)
    recipe = photo(**hard)
    with pytest.raises(UsageError, match=r"class \d+: none of 4 warps could be kept .* is removed again"):
        write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=8))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()  # an older folder stays
    with pytest.raises(DataError, match=r"class \d+: none of 4 warps could be kept"):
        write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=8))
    assert (tmp_path / "set" / ".partial").is_dir() and not (tmp_path / "set" / "dataset.json").exists()
    with pytest.raises(DataError, match="shards are missing"):
        merge(tmp_path / "set")


def dot(x, y, radius, side=1000) -> Photographs:
    """A dark disc on white."""
    down, across = np.mgrid[:side, :side]
    return Photographs((np.where(np.hypot(across - x, down - y) < radius, 20, 240).astype(np.uint8),))


def test_classes_without_an_edge_are_found_before():
    with pytest.raises(UsageError, match=r"none of 100 crops could be kept .* flat") as raised:
        photo(photographs=dot(500, 500, 60), warp="crops", max_scale=0.03, size=64, classes=1000)
    assert "--strength" not in str(raised.value) and "--max-scale" in str(raised.value)
    with pytest.raises(UsageError, match=r"none of 5 warps could be kept .*[1-9] flat"):
        photo(photographs=dot(20, 20, 12), max_tries=5, size=64, classes=1000)


@pytest.mark.parametrize("warp", WARPS[:4])
def test_warps_that_are_said_to_show_something_do(warp):
    recipe = photo(photographs=dot(40, 40, 25, side=300), warp=warp, classes=60, strength=0.9)
    drawn = [recipe.draw_warp(index) for index in range(60)]
    said, shown = ([test(warp) for warp in drawn] for test in (
        lambda warp: warp.meets(recipe.base()), lambda warp: bool(warp.apply(recipe.base()).any())
    ))  # fmt: skip
    assert not any(first and not second for first, second in zip(said, shown, strict=True))
    assert sum(said) > 0.7 * sum(shown)


def test_what_a_user_should_know():
    same = photo(photographs=Photographs((card(), card(90, 90), card())))
    assert same.warnings({}) == ["photographs 0 and 2 are the same; only warps tell their classes apart"]
    assert photo(strength=0.0).warnings({}) == ["strength 0: all classes of a photograph are the same image"]
    assert "has only 64 pixels along a side" in photo(size=65).warnings({})[0] and photo().warnings({}) == []


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"warp": "crops", "strength": 2.0, "cells": 9}, ["cells 9", "strength 2.0"]),
        ({"look": "gray", "high": (300.0,), "rotation": 90.0}, ["high", "rotation 90.0"]),
        ({"look": "gray", "warp": "crops", "hue": 0.2}, ["hue 0.2"]),
        ({"warp": "elastic", "cells": 5}, []),
        ({"warp": "crops", "look": "rgb", "rotation": 10.0, "hue": 0.2, "min_scale": 0.1}, []),
    ],
)
def test_values_without_effect_are_told(changes, names):
    warnings = photo(**changes).warnings({})
    assert [warning.split(":")[0] for warning in warnings] == names
    assert all("changes nothing" in warning for warning in warnings)
    gray = replace(photo(), look="gray")
    assert gray.warnings({}) == [] and gray.high is None, "what was derived is not missed"


def test_crops_without_edges_are_drawn_again_within_bounds():
    lonely = np.zeros((200, 200), np.uint8)
    lonely[:20, :20] = 255
    recipe = photo(photographs=Photographs((lonely,)), warp="crops", high=(100.0,), min_scale=0.2, max_scale=0.5)
    samples = list(recipe.render(range(6)))
    assert sum(sample.rejected["flat"] for sample in samples) > 3 and all(sample.image.any() for sample in samples)
    with pytest.raises(DataError, match="flat"):
        list(replace(recipe, max_scale=0.2005, max_tries=1, seed=1).render(range(6)))


def test_no_edge_is_drawn_where_a_crop_ends():
    """What is beyond the photograph is black, and its border is no edge."""
    sheet = np.full((100, 100), 200, np.uint8)
    sheet[45:55, 45:55] = 20
    recipe = photo(
        photographs=Photographs((sheet,)), warp="crops", min_scale=1.0, max_scale=1.0, rotation=45.0, size=96, classes=9
    )
    for sample in recipe.render(range(9)):
        y, x = np.nonzero(sample.image)
        assert np.hypot(y - 47.5, x - 47.5).max() < 25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"look": "sepia"}, "look 'sepia'"), ({"warp": "spiral"}, "warp 'spiral'"), ({"strength": -1.0}, "strength -1"),
        ({"strength": float("nan")}, "strength nan"), ({"classes": 0}, "classes 0"), ({"classes": 10**7}, "classes 1"),
        ({"size": 7}, "size 7"), ({"seed": -1}, "seed -1"), ({"blur": (-1.0,)}, "blur -1"), ({"cells": 0}, "cells 0"),
        ({"low": (9.0,), "high": (8.0,)}, "low 9.0: must be 0 to 8.0"), ({"min_fill": 2.0}, "min_fill 2"),
        ({"max_tries": 0}, "max_tries 0"), ({"min_scale": 0.0}, "min_scale 0"), ({"max_scale": 0.001}, "max_scale"),
        ({"max_ratio": 0.5}, "max_ratio"), ({"rotation": 181.0}, "rotation"), ({"shear": 90.0}, "shear"),
        ({"flip": 1.5}, "flip"), ({"brightness": 1.5}, "brightness"), ({"contrast": -0.1}, "contrast"),
        ({"saturation": 2.0}, "saturation"), ({"hue": 0.6}, "hue"), ({"low": ()}, "low: 0 numbers"),
    ],
)  # fmt: skip
def test_impossible_values(changes, message):
    with pytest.raises(UsageError, match=message):
        Photo(**changes)


def test_to_a_file_and_back(tmp_path):
    recipe = photo(photographs=Photographs((card(), card(60, 50, mode="L"))))
    values = to_dict(recipe)
    assert values["photographs"] == {"file": "photographs.zip", "sha256": recipe.photographs.sha256}
    assert values["low"] == list(recipe.low)
    ((name, data),) = inputs(recipe).items()
    (tmp_path / name).write_bytes(data)
    assert from_dict(json.loads(json.dumps(values)), tmp_path) == recipe
    save_recipe(recipe, tmp_path / "photo.yaml")
    loaded = load_recipe(tmp_path / "photo.yaml")
    assert loaded == recipe and recipe_hash(loaded) == recipe_hash(recipe)
    (tmp_path / name).write_bytes(photo().photographs.to_bytes())
    with pytest.raises(UsageError, match="is not the file that the recipe names"):
        from_dict(values, tmp_path)
    with pytest.raises(UsageError, match="must be left out"):
        from_dict({"recipe": "photo", "photographs": "cat.jpg"})
    assert from_dict({"recipe": "photo", "high": 3}).high == (3.0,)
    for value in ("3", [1, "2"], True):
        with pytest.raises(UsageError, match="high"):
            from_dict({"recipe": "photo", "high": value})


def test_the_hash_names_pixels(tmp_path):
    recipe = photo()
    assert recipe_hash(replace(recipe, max_tries=7)) == recipe_hash(recipe)
    others = {"photographs": Photographs((card(80, 65),)), "seed": 4, "strength": 0.4, "warp": "elastic", "low": (1.0,)}
    hashes = {recipe_hash(replace(recipe, **{key: value})) for key, value in others.items()} | {recipe_hash(recipe)}
    assert len(hashes) == 6
    a, b = save(tmp_path / "a.png", RGB), save(tmp_path / "other-name.bmp", RGB)
    assert load_photographs([a])[0] == load_photographs([b])[0], "neither path nor format is in it"


def test_the_astronaut_is_pinned():
    """The rule for the thresholds, and the draws."""
    from skimage.data import astronaut

    recipe, provenance = Photo(photographs=Photographs((astronaut(),)), classes=20).resolve()
    assert recipe.blur == (1.414,) and 60 < recipe.high[0] < 90 and 0.05 < provenance["edge_share"][0] < 0.1
    assert recipe.draw_warp(3).eps.tolist()[0] == -0.2017284747528827, "the stream is the format"
