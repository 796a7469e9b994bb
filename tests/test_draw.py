"""The kernels against the plain renderer, the published images, and cases kept here."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fracgen import chaos
from fracgen.categories import Categories
from fracgen.fractaldb import OFDB
from fracgen.ifs import IFS, load_ifs, maps_from_rows, sample_maps
from fracgen.plain import draw_plain
from fracgen.renderer import Renderer, draw_ifs, parse_weights
from fracgen.rng import generator
from fracgen.shards.errors import DataError, UsageError
from fracgen.style import Style, fill_rate

CASES = json.loads(Path(__file__).with_name("cases.json").read_text())
STYLES = [
    Style(size=64, pad=pad, points=3001, draw=draw, color=color, patch=patch)
    for pad, draw, color, patch in itertools.product(
        [0, 3, 6], ["point", "patch"], ["gray", "color", "map"], ["fill", "random"]
    )
]


def golden_cases(golden: Path):
    for case in json.loads((golden / "cases.json").read_text()):
        draw, color = case["draw"].split("_")
        style = Style(
            size=case["size"], pad=case["pad"], points=case["iterations"], draw=draw, color=color, patch="fill"
        )
        expected = np.asarray(Image.open(golden / case["png"]).convert("RGB"))
        yield load_ifs(golden / case["csv"]), style, np.array(case["weights"]), expected


def test_published_images(golden):
    cases = list(golden_cases(golden))
    assert len(cases) >= 10
    for ifs, style, weights, expected in cases:
        image = draw_ifs(ifs, style, weights=weights)
        assert np.array_equal(image if image.ndim == 3 else np.repeat(image[:, :, None], 3, 2), expected)


def test_plain_renderer_is_the_published_one(golden):
    """The oracle itself, on the smallest published image of each kind."""
    done = set()
    for ifs, style, weights, expected in sorted(golden_cases(golden), key=lambda case: case[1].points):
        if (style.draw, style.color) in done:
            continue
        done.add((style.draw, style.color))
        factors = maps_from_rows(np.broadcast_to(weights, (len(ifs), 6)))
        image = draw_plain(ifs.maps * factors, ifs.p, style)
        assert np.array_equal(image if image.ndim == 3 else np.repeat(image[:, :, None], 3, 2), expected)
    assert len(done) == 4


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_kept_cases(case):
    ifs, style = IFS.from_plain(case["ifs"]), Style(**case["style"])
    image = draw_ifs(ifs, style, weights=np.array(case["weights"]), mask_key=case["mask_key"])
    assert hashlib.sha256(image.tobytes()).hexdigest() == case["sha256"]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.pad}-{style.draw}-{style.color}-{style.patch}")
def test_equals_the_plain_renderer(style):
    for number in range(3):
        ifs = IFS.from_maps(sample_maps(3.5, 2 + number, generator(5, number, "ifs")))
        assert np.array_equal(draw_ifs(ifs, style, mask_key=number), draw_plain(ifs.maps, ifs.p, style, number))


def test_an_interrupt_leaves_no_choices_of_another_system(monkeypatch):
    """Python raises it as soon as a kernel returns; a notebook then goes on with the same renderer."""
    recipe = OFDB(systems=Categories(tuple(IFS.from_maps(sample_maps(3.5, 3, generator(7, n, "ifs"))) for n in (0, 1))),
                  categories=2, size=32, points=1000)  # fmt: skip
    before, choose = recipe[0].image, chaos.choose_maps

    def interrupted(*arguments):
        choose(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(chaos, "choose_maps", interrupted)
        recipe[1]
    assert np.array_equal(recipe[0].image, before)


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-2, 2) | st.sampled_from([0.0, 1.0, -1.0, 1e308])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.lists(numbers, min_size=6, max_size=6), min_size=1, max_size=3),
    st.sampled_from(["point", "patch"]),
    st.integers(8, 70),
    st.integers(0, 6),
    st.integers(2, 400),
    st.floats(0, 0.9),
)
def test_equals_the_plain_renderer_on_anything(rows, draw, size, pad, points, share):
    """Divergent orbits, infinite extents, one-pixel attractors, steps that take no map."""
    style = Style(size=size, pad=min(pad, (size - 1) // 2), points=points, draw=draw, patch="random")
    p = np.full(len(rows), (1 - share * 1e-6) / len(rows))
    maps = maps_from_rows(np.array(rows))
    expected = draw_plain(maps, p, style, 9)
    if expected is None:
        with pytest.raises(DataError, match="overflow"):
            draw_ifs(IFS(maps, p), style, mask_key=9)
    else:
        assert np.array_equal(draw_ifs(IFS(maps, p), style, mask_key=9), expected)


@pytest.mark.parametrize("color", ["color", "map"])
def test_a_step_beyond_the_last_probability_stays(color):
    """Far more of them than the tolerance of p allows: the renderer takes p as it is given."""
    p, style = np.array([0.3, 0.2]), Style(size=64, points=2000, color=color, draw="point")
    maps = sample_maps(3.5, 2, generator(0, 1, "ifs"))
    renderer = Renderer(style)
    renderer.trace(p, maps)
    assert np.array_equal(renderer.draw(), draw_plain(maps, p, style))


def test_divergent_orbit_is_trimmed():
    ifs = IFS(np.array([[[1.9, 0.0, 0.3], [0.0, 1.8, 0.2]]]), np.array([1.0]))
    style = Style(size=64, points=4000, patch="fill")
    renderer = Renderer(style)
    renderer.trace(ifs.p, ifs.maps)
    assert renderer.diverged()
    assert np.array_equal(renderer.draw(), draw_plain(ifs.maps, ifs.p, style))


def test_two_orbits_at_a_time_are_those_alone():
    style = Style(size=64, points=5000)
    first, second = (sample_maps(3.5, 3, generator(2, number, "ifs")) for number in range(2))
    p = IFS.from_maps(first).p
    pair, alone = Renderer(style), Renderer(style)
    pair.trace(p, first, second)
    for lane, maps in enumerate((first, second)):
        alone.trace(p, maps)
        assert np.array_equal(pair.draw(lane, 4), alone.draw(0, 4))
        assert np.array_equal(pair.draw(lane, 4), draw_plain(maps, p, style, 4))


def test_random_masks_are_uniform_over_511():
    """One-pixel attractors show one mask each: that of the last point."""
    ifs, style = IFS(np.zeros((1, 2, 3)), np.array([1.0])), Style(size=8, pad=0, points=2)
    seen = np.zeros(512, int)
    for key in range(20_000):
        block = draw_ifs(ifs, style, mask_key=key * 0x9E3779B97F4A7C15 % 2**64)[::-1][1:4, 1:4]
        seen[int("".join("1" if pixel else "0" for pixel in block.ravel()), 2)] += 1
    assert seen[0] == 0 and (seen[1:] > 0).all()
    expected = seen.sum() / 511
    assert ((seen[1:] - expected) ** 2 / expected).sum() < 511 + 5 * np.sqrt(2 * 511)


def test_fill_rate_counts_pixels_that_are_not_black():
    image = np.zeros((10, 20), np.uint8)
    image[0, :7] = 127
    assert fill_rate(image) == 7 / 200
    assert fill_rate(np.repeat(image[:, :, None], 3, 2)) == 7 / 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 7}, "size 7: must be 8 to"),
        ({"size": 10**6}, "size 1000000"),
        ({"pad": -1}, "pad -1"),
        ({"size": 64, "pad": 32}, "less than half"),
        ({"points": 1}, "points 1"),
        ({"points": 10**12}, "points"),
        ({"draw": "dots"}, "one of patch, point"),
        ({"color": "red"}, "one of gray, color, map"),
        ({"patch": "x"}, "one of random, fill"),
    ],
)
def test_impossible_styles(changes, message):
    with pytest.raises(UsageError, match=message):
        Style(**changes)


def test_weights():
    assert parse_weights("1,2,3,4,5,6").tolist() == [[1, 2, 3, 4, 5, 6]]
    assert parse_weights("1,2,3,4,5,6;6,5,4,3,2,1").shape == (2, 6)
    for text in ("", "1,2", "1,2,3,4,5,x", "1,2,3,4,5,6;1", "1,1,1,1,1,nan"):
        with pytest.raises(UsageError, match="weights"):
            parse_weights(text)
    ifs = IFS.from_maps(sample_maps(3.5, 2, generator(0, 0, "ifs")))
    with pytest.raises(UsageError, match="2 \\(one per map\\)"):
        draw_ifs(ifs, Style(size=64, points=10), weights=np.ones((3, 6)))
    style, weights = Style(size=64, points=100), [1, 1, 1.4, 1, 1, 1]
    assert np.array_equal(draw_ifs(ifs, style, weights=weights), draw_ifs(ifs, style, weights=np.array(weights)))


@pytest.mark.parametrize("key", [-1, 2**64])
def test_a_key_of_masks_has_64_bits(key):
    ifs = IFS.from_maps(sample_maps(3.5, 2, generator(0, 0, "ifs")))
    with pytest.raises(UsageError, match=f"mask_key {key}: must be 0 to 18446744073709551615"):
        draw_ifs(ifs, Style(size=64, points=10), mask_key=key)


@pytest.mark.parametrize("style", [*STYLES, Style(size=130, pad=0, points=3000)], ids=str)
def test_fill_rate_without_an_image_is_that_of_the_image(style):
    """Patches that stick out at the border do not count."""
    ifs, renderer = IFS.from_maps(sample_maps(3.5, 2, generator(0, 3, "ifs"))), Renderer(style)
    renderer.trace(ifs.p, ifs.maps)
    image = renderer.draw(mask_key=5)
    assert renderer.fill_rate() == fill_rate(image) > 0
