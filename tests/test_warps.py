"""Each warp against plain numpy, written from its formula and not from our code."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracgen.photo import warp_kernels, warps
from fracgen.photo.crops import CropRanges, levels_of
from fracgen.photo.extent import fineness

SIZE = 40
KINDS = {
    "affine": warps.Affine,
    "perspective": warps.Perspective,
    "polynomial": warps.Polynomial,
    "elastic": warps.Elastic,
}
SEEDS = range(6)


def picture(shape=(SIZE, SIZE), seed=0):
    """Smooth levels and hard edges."""
    levels = np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)
    levels[shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 255
    return levels


def draw(name, strength, seed, size=SIZE):
    kind = KINDS[name]
    eps = strength * (np.random.RandomState(seed).random_sample(kind.count(3)) - 0.5)
    return kind(eps=eps, size=size)


def frame(size, fineness):
    """(x, y) of all samples, in the frame, (2, m, n)."""
    xs, ys = (((np.arange(size * samples) + 0.5) / samples) * 2 / size - 1 for samples in fineness)
    return np.stack(np.meshgrid(xs, ys))


def linear(levels, x, y):
    """Levels at pixel coordinates, linear between pixels, black outside: float64."""
    height, width = levels.shape[:2]
    padded = np.pad(levels.astype(float), 1)
    x, y = np.clip(x, -1, width), np.clip(y, -1, height)
    left, top = np.minimum(np.floor(x), width - 1).astype(int), np.minimum(np.floor(y), height - 1).astype(int)
    u, v = x - left, y - top
    corner = lambda dy, dx: padded[top + dy + 1, left + dx + 1]  # noqa: E731
    above = corner(0, 0) * (1 - u) + corner(0, 1) * u
    return above * (1 - v) + (corner(1, 0) * (1 - u) + corner(1, 1) * u) * v


def mean(samples, size, fineness):
    x, y = fineness
    return samples.reshape(size, y, size, x).mean(axis=(1, 3))


def plain(levels, sources, fineness):
    """A picture through a map in the frame, (2, m, n)."""
    x, y = (sources + 1) * SIZE / 2 - 0.5
    return mean(linear(levels, x, y), SIZE, fineness)


def plain_sources(name, eps, fineness):
    """Where the samples come from, in the frame."""
    here = frame(SIZE, fineness)
    x, y = here
    if name == "affine":
        matrix = np.eye(3)
        matrix[:2] += eps.reshape(2, 3)
        return (np.linalg.inv(matrix) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1))[:2].reshape(here.shape)
    if name == "perspective":
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
        rows, values = [], []
        for (u, v), (to_u, to_v) in zip(corners, corners + eps.reshape(4, 2), strict=True):
            rows += [[u, v, 1, 0, 0, 0, -to_u * u, -to_u * v], [0, 0, 0, u, v, 1, -to_v * u, -to_v * v]]
            values += [to_u, to_v]
        matrix = np.append(np.linalg.solve(rows, values), 1).reshape(3, 3)
        back = (np.linalg.inv(matrix) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)).reshape(3, *x.shape)
        return back[:2] / back[2]
    if name == "polynomial":
        terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
        return here + np.tensordot(eps.reshape(2, 6), terms, 1)
    cells = math.isqrt(len(eps) // 2) - 3
    nodes = eps.reshape(cells + 3, cells + 3, 2) * 2 / cells

    def basis(distance):  # the uniform cubic B-spline, by its distance from a control point
        near, d = np.abs(distance) < 1, np.abs(distance)
        return np.where(near, 2 / 3 - d**2 + d**3 / 2, np.clip(2 - d, 0, None) ** 3 / 6)

    across = np.stack([basis((x + 1) / 2 * cells - (k - 1)) for k in range(cells + 3)])
    down = np.stack([basis((y + 1) / 2 * cells - (k - 1)) for k in range(cells + 3)])
    return here + np.einsum("jik,jyx,iyx->kyx", nodes, down, across)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_every_pixel_is_the_plain_warps(name, strength):
    levels = picture()
    for seed in SEEDS:
        warp = draw(name, strength, seed)
        expected = plain(levels, plain_sources(name, warp.eps, warp.extent.fineness), warp.extent.fineness)
        difference = np.abs(warp.apply(levels) - expected)
        # OpenCV 5 is exact to a level (two roundings); OpenCV 4 knows places to 1/32 of a pixel
        assert difference.max() < 12 and difference.mean() < 2, (name, seed)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [40, 33, 8, 100])
def test_strength_0_is_the_identity(name, size):
    for levels in (picture((size, size)), picture((size, size, 3))):
        warp = draw(name, 0.0, 0, size)
        assert np.array_equal(warp.apply(levels), levels)
        assert warp.extent.fineness == (1, 1) and warp.extent.covered == 1 and not warp.extent.folded
        assert warp.extent.visible == pytest.approx(1) and warp.fill == pytest.approx(1)


@pytest.mark.parametrize("name", ["affine", "perspective"])
def test_matrices_at_strength_0_are_exactly_the_identity(name):
    for size in range(8, 200):
        assert np.array_equal(draw(name, 0.0, 0, size).matrix, np.eye(3))


def test_the_perspective_moves_the_corners():
    for seed in range(50):
        warp = draw("perspective", 0.9, seed)
        corners = (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + 1) * SIZE / 2 - 0.5
        moved = warp.matrix @ np.column_stack([corners, np.ones(4)]).T
        assert np.allclose((moved[:2] / moved[2]).T, corners + warp.eps.reshape(4, 2) * SIZE / 2, atol=1e-9)


def test_lengths_are_halves_of_the_width():
    """An e of 1/2 moves a picture by a quarter of its width, to the right."""
    levels = picture()
    moved = warps.Affine(eps=np.array([0, 0, 0.5, 0, 0, 0]), size=SIZE).apply(levels)
    assert np.array_equal(moved[:, SIZE // 4 :], levels[:, : -SIZE // 4]) and not moved[:, : SIZE // 4].any()
    moved = warps.Affine(eps=np.array([0, 0, 0, 0, 0, -0.5]), size=SIZE).apply(levels)
    assert np.array_equal(moved[: -SIZE // 4], levels[SIZE // 4 :]) and not moved[-SIZE // 4 :].any()


@pytest.mark.parametrize(
    ("eps", "covered", "visible", "folded"),
    [
        ([0, 0, 1, 0, 0, 0], 0.5, 0.5, False),  # half of it is outside
        ([-0.5, 0, 0, 0, -0.5, 0], 0.25, 1.0, False),  # half as wide and high
        ([1, 0, 0, 0, 1, 0], 1.0, 0.25, False),
        ([0, 0, 4, 0, 0, 0], 0.0, 0.0, True),  # nothing is left
        ([-2, 0, 0, 0, 0, 0], 1.0, -1.0, True),  # mirrored
        ([-1, 0, 0, 0, 0, 0], 0.0, 0.0, True),  # flat
    ],
)
def test_what_an_affine_warp_leaves(eps, covered, visible, folded):
    extent = warps.Affine(eps=np.array(eps, float), size=64).extent
    assert extent.covered == pytest.approx(covered, abs=0.02) and extent.visible == pytest.approx(visible, abs=0.02)
    assert extent.folded == folded or extent.covered == 0
    assert extent.fill <= min(covered, visible) + 0.02


def test_folds_are_found():
    crossed = np.array([2.2, 0, -2.2, 0, 0, 0, 0, 0.0])  # the upper corners change places
    assert warps.Perspective(eps=crossed, size=SIZE).extent.folded
    assert warps.Perspective(eps=np.array([1.2, 1.2, 0, 0, 0, 0, 0, 0]), size=SIZE).extent.folded  # not convex
    line = np.array([0, 0, 0, 0, -2, -2.0, 0, -2.0])
    assert warps.Perspective(eps=line, size=SIZE).extent.folded
    bent = np.zeros(12)
    bent[3] = 0.6  # x + 0.6 x x turns back at x = -5/6
    assert warps.Polynomial(eps=bent, size=SIZE).extent.folded
    bent[3] = 0.45
    assert not warps.Polynomial(eps=bent, size=SIZE).extent.folded
    assert any(draw("elastic", 6.0, seed).extent.folded for seed in SEEDS)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(KINDS)), st.floats(0, 50), st.integers(0, 1000))
def test_any_strength_has_an_extent(name, strength, seed):
    extent = draw(name, strength, seed).extent
    assert 0 <= extent.covered <= 1 and math.isfinite(extent.visible)
    assert all(1 <= samples <= 4 for samples in extent.fineness)


def test_a_polynomial_that_is_kept_folds_nowhere_within():
    """Its Jacobian in plain numpy, on another lattice; at this strength, many bend over by a little."""
    kept, (x, y) = 0, np.meshgrid(*[np.linspace(-1, 1, 201)] * 2)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    for seed in range(400):
        warp = draw("polynomial", 0.8, seed)
        if warp.extent.folded:
            continue
        kept += 1
        u, v = np.tensordot(warp.numbers, terms, 1)
        inside = (abs(x + u) < 1) & (abs(y + v) < 1)
        (ux, uy), (vx, vy) = ((c[1] + 2 * c[3] * x + c[4] * y, c[2] + c[4] * x + 2 * c[5] * y) for c in warp.numbers)
        assert ((1 + ux) * (1 + vy) - uy * vx)[inside].min() > -1e-3
    assert 100 < kept < 390


def test_a_fold_finer_than_the_cells_that_are_measured():
    eps = np.zeros(12)
    eps[3] = -0.505  # x' = x - 0.505 x x turns at x = 0.990, within the last cell of 64
    warp = warps.Polynomial(eps=eps, size=SIZE)
    assert warp.extent.folded
    eps[3] = -0.499
    assert not warps.Polynomial(eps=eps, size=SIZE).extent.folded


def test_an_elastic_warp_of_little_strength_cannot_fold():
    for seed in range(20):
        warp = draw("elastic", 0.5, seed)
        corners = np.tile(np.linspace(-1, 1, 301), (2, 1))
        sources = np.empty((2, 301, 301))
        warp_kernels.stretch(warp.numbers, corners, corners, 1.0, sources)
        (ux, vx), (uy, vy) = (np.gradient(sources, corners[0], axis=axis) for axis in (2, 1))
        assert (ux * vy - uy * vx).min() > 0 and not warp.extent.folded
    assert any(draw("elastic", 2.0, seed).extent.folded for seed in range(20))


def test_thin_lines_survive_a_reduction():
    """Lines a pixel wide keep their light when a picture shrinks to a third; single samples would lose most of them."""
    lines = np.zeros((90, 90), np.uint8)
    lines[:, ::9] = 255
    warp = warps.Affine(eps=np.array([-2 / 3, 0, 0, 0, -2 / 3, 0]), size=90)
    assert warp.extent.fineness == (3, 3)
    small = warp.apply(lines)[30:60, 30:60]
    assert small.mean() == pytest.approx(lines.mean(), rel=0.05) and small.max() < 120


def test_fineness():
    assert [fineness(distance) for distance in (0.1, 1, 1.25, 1.26, 2.5, 2.6, 3.9, 9)] == [1, 1, 1, 2, 2, 3, 4, 4]


RANGES = {
    "min_scale": 0.02, "max_scale": 0.5, "max_ratio": 1.5, "rotation": 30.0, "shear": 20.0, "flip": 0.5,
    "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1,
}  # fmt: skip


def crops(count, photograph, **changes):
    ranges, levels = CropRanges(**{**RANGES, **changes}), levels_of(photograph)
    return [ranges.draw(np.random.RandomState(seed).random_sample, levels, SIZE) for seed in range(count)], levels


STILL = {"rotation": 0.0, "shear": 0.0, "flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def test_a_crop_without_anything_is_the_photograph():
    photograph = picture((SIZE, SIZE, 3))
    (crop,), levels = crops(1, photograph, min_scale=1.0, max_scale=1.0, max_ratio=1.0, **STILL)
    image, covered = crop.apply(levels)
    assert np.array_equal(image, photograph) and covered is None


def test_crops_lie_in_their_ranges():
    photograph = picture((90, 160, 3))
    drawn, _ = crops(300, photograph, **STILL)
    width, height = (np.array([1 / crop.matrix[axis, axis] * SIZE for crop in drawn]) for axis in range(2))
    area, ratio = width * height / (90 * 160), width / height
    assert 0.019 < area.min() < 0.05 and 0.4 < area.max() <= 0.5 + 1e-9
    assert 1 / 1.5 - 1e-9 < ratio.min() < 0.7 and 1.4 < ratio.max() < 1.5 + 1e-9
    assert all(crop.inside and crop.extent.covered == 1 for crop in drawn)
    lefts = np.array([-crop.matrix[0, 2] / crop.matrix[0, 0] for crop in drawn])
    assert lefts.min() < 10 and (lefts + width).max() > 150


def test_large_crops_keep_their_ranges():
    photograph = picture((100, 100, 3))
    drawn, _ = crops(400, photograph, min_scale=0.8, max_scale=1.0, max_ratio=4 / 3, **STILL)
    width, height = (np.array([1 / crop.matrix[axis, axis] * SIZE for crop in drawn]) for axis in range(2))
    area, ratio = width * height / 1e4, width / height
    assert 0.8 - 1e-9 <= area.min() < 0.82 and 0.97 < area.max() <= 1 + 1e-9
    assert 0.75 - 1e-9 <= ratio.min() < 0.85 and 1.18 < ratio.max() <= 4 / 3 + 1e-9
    assert all(crop.inside for crop in drawn)


def test_a_crop_that_never_fits_is_the_largest_with_such_a_ratio():
    drawn, _ = crops(5, picture((40, 160, 3)), min_scale=0.9, max_scale=1.0, max_ratio=1.5, **STILL)
    for crop in drawn:
        width, height = (1 / crop.matrix[axis, axis] * SIZE for axis in range(2))
        assert (width, height) == (pytest.approx(60), pytest.approx(40)) and crop.inside
    drawn, _ = crops(200, picture((100, 100)), min_scale=0.95, max_scale=0.95, max_ratio=4 / 3, **STILL)
    areas = [SIZE**2 / (crop.matrix[0, 0] * crop.matrix[1, 1]) / 1e4 for crop in drawn]
    assert areas == pytest.approx([0.95] * 200)


def test_turned_sheared_and_mirrored_crops():
    photograph = picture((90, 160))
    drawn, _ = crops(300, photograph)
    assert 100 < sum(np.linalg.det(crop.matrix) < 0 for crop in drawn) < 200
    assert not any(crop.extent.folded for crop in drawn)
    still = {**STILL, "max_ratio": 1.0}
    turned, _ = crops(200, photograph, **{**still, "rotation": 30.0})
    angles = [math.degrees(math.atan2(crop.matrix[0, 1], crop.matrix[0, 0])) for crop in turned]
    assert -30.1 < min(angles) < -25 and 25 < max(angles) < 30.1
    sheared, _ = crops(200, photograph, **{**still, "shear": 20.0})
    slopes = [math.degrees(math.atan(crop.matrix[0, 1] / crop.matrix[1, 1])) for crop in sheared]
    assert -20.1 < min(slopes) < -17 and 17 < max(slopes) < 20.1
    assert all(crop.matrix[1, 0] == pytest.approx(0) for crop in sheared)


def test_colours_are_jittered_in_order():
    photograph = picture((30, 30, 3))
    mean_level = photograph.mean()

    def one(**changes):
        (crop,), _ = crops(1, photograph, **{**STILL, **changes})
        return crop.color

    assert np.allclose(one(), np.eye(3, 4))
    brighter = one(brightness=0.4)
    assert np.allclose(brighter, brighter[0, 0] * np.eye(3, 4)) and 0.6 <= brighter[0, 0] <= 1.4
    contrast = one(contrast=0.4)
    assert np.allclose(contrast[:, :3] @ np.full(3, mean_level) + contrast[:, 3], mean_level)
    luma = np.array([0.299, 0.587, 0.114])
    for changes in ({"saturation": 0.4}, {"hue": 0.3}):
        color = one(**changes)
        assert np.allclose(luma @ color[:, :3], luma, atol=1e-5) and not np.allclose(color, np.eye(3, 4))
        assert np.allclose(color[:, :3] @ np.ones(3), 1, atol=1e-5), "gray stays gray"


def test_crops_of_every_size_are_the_plain_warps():
    """Reduced crops are sampled from a reduced photograph; the rest pixel by pixel."""
    photograph = np.repeat(np.repeat(picture((50, 60)), 4, axis=0), 4, axis=1)
    drawn, levels = crops(40, photograph, brightness=0.0, contrast=0.0)
    assert {crop.level for crop in drawn} >= {0, 1}
    for crop in drawn:
        image, covered = crop.apply(levels)
        image = image if covered is None else crop.on_black(image, covered)
        back = np.linalg.inv(crop.matrix)
        xs, ys = np.meshgrid(*[(np.arange(SIZE * 8) + 0.5) / 8 - 0.5] * 2)
        x, y, _ = (back @ np.stack([xs, ys, np.ones_like(xs)]).reshape(3, -1)).reshape(3, *xs.shape)
        dense = mean(linear(photograph, x, y), SIZE, (8, 8))
        assert np.abs(dense - image).mean() < 12, "a mean over the pixel's own area"
        if not crop.level:
            (fx, fy), grid = crop.fineness, frame(SIZE, crop.fineness)
            x, y, _ = (
                back @ np.stack([*((grid + 1) * SIZE / 2 - 0.5), np.ones(grid.shape[1:])]).reshape(3, -1)
            ).reshape(3, SIZE * fy, SIZE * fx)
            height, width = photograph.shape
            inside = (x > 0) & (y > 0) & (x < width - 1) & (y < height - 1)
            inside = inside.reshape(SIZE, fy, SIZE, fx).all(axis=(1, 3))
            expected = mean(linear(photograph, x, y), SIZE, crop.fineness)
            assert np.abs(expected - image)[inside].max() < 12
            outside = (x < -1) | (y < -1) | (x > width) | (y > height)
            assert not image[outside.reshape(SIZE, fy, SIZE, fx).all(axis=(1, 3))].any(), "black outside"
