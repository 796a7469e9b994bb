"""Times of rendering on this machine: each step of an image, whole data sets, the published loop in plain Python."""

import math
import os
import platform
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fracgen.categories import Categories
from fracgen.exfractaldb import ExFractalDB
from fracgen.fractaldb import FLIPS, OFDB, FractalDB, weight_vectors
from fracgen.multifractal import MultiFractal
from fracgen.noise import Noise, NoiseKind
from fracgen.onepfrac import OnePFrac
from fracgen.plain import draw_plain
from fracgen.plain_contours import plain_images
from fracgen.plain_multifractal import plain_scene
from fracgen.plain_space import plain_candidates, plain_cloud, plain_view
from fracgen.rcdb import RCDB
from fracgen.recipe import Recipe
from fracgen.render_shards import plan, versions, write_shards
from fracgen.renderer import LANES, Renderer
from fracgen.search import Search, SpatialSearch, find_categories
from fracgen.search_settings import CategorySearch
from fracgen.shards.manifest import PixelHash
from fracgen.shards.png import encode_png
from fracgen.shards.writer import write_tar
from fracgen.style import fill_rate
from fracgen.visualatom import VisualAtom

_SHARD_SAMPLES = 16
_RUNS = 5
_MULTI_FRACTALS = MultiFractal(), MultiFractal(composition="single")
_SEARCHES: dict[str, CategorySearch[Any]] = {"fractaldb": Search(), "exfractaldb": SpatialSearch()}


@dataclass(frozen=True)
class Row:
    """One step: milliseconds per unit, and how many times faster than plain Python where that applies."""

    step: str
    milliseconds: float
    speedup: float | None = None


@dataclass(frozen=True)
class Table:
    """The rows of a measurement, under a title; the caption names machine and versions. unit: image, request."""

    title: str
    caption: str
    rows: tuple[Row, ...]
    unit: str = "image"


def measure(*, images: int, repeats: int, cores: int, plain: bool) -> Table:
    """Time every step of 1p-frac at its published settings; kernels are compiled before.

    Steps are CPU time of one core, medians of `repeats`; "fsync" and "end to end" are wall time, medians of 5. "one
    image" is the sum of its steps; "end to end" is whole folders with all that goes with them: rejected draws, fsync,
    contact sheet.
    """
    recipe, _ = OnePFrac().resolve()
    renderer, maps, key = Renderer(recipe.style), recipe.base.maps, recipe.mask_key(0)
    systems = [maps] * LANES
    renderer.trace(recipe.base.p, *systems)
    lanes = cycle(range(LANES))  # the same lane again would keep its places
    image, sample = renderer.draw(mask_key=key), next(recipe.render([0]))

    def timed(step: Callable[[], object]) -> float:
        step()
        return statistics.median(_seconds(step, time.thread_time) for _ in range(repeats)) * 1e3

    steps = {
        "orbit": timed(lambda: renderer.trace(recipe.base.p, *systems)) / LANES,
        "rasterise": timed(lambda: renderer.draw(next(lanes), key)),
        "fill test": timed(lambda: fill_rate(image)),
        "encode, 8 bits": timed(lambda: encode_png(image)),
        "encode, 1 bit": timed(lambda: encode_png(image, 1)),
        "pixel hash": timed(lambda: PixelHash.digest(image, 0)),
    }
    drawing = steps["orbit"] + steps["rasterise"] + steps["fill test"]
    with tempfile.TemporaryDirectory() as scratch:
        tar = Path(scratch) / "bench.tar"
        writing = {
            bits: timed(partial(write_tar, tar, "", [sample] * _SHARD_SAMPLES, plan(recipe, png_bits=bits)))
            / _SHARD_SAMPLES
            for bits in (8, 1)
        }
        steps["write (tar, metadata, file hash)"] = writing[8] - steps["encode, 8 bits"] - steps["pixel hash"]
        steps["one image, 8 bits"] = drawing + writing[8]
        steps["one image, 1 bit"] = drawing + writing[1]
        steps["fsync (wall)"] = statistics.median(_fsync_seconds(tar) for _ in range(_RUNS)) / _SHARD_SAMPLES * 1e3
        reduced = replace(recipe, classes=images)
        for workers in sorted({1, cores}):
            folders = [Path(scratch, f"{workers}-{run}") for run in range(_RUNS)]
            seconds = statistics.median(write_shards(reduced, folder, workers=workers).seconds for folder in folders)
            steps[f"end to end, {workers} worker{'' if workers == 1 else 's'} (wall)"] = seconds / images * 1e3
    speedup = None
    if plain:
        plain_milliseconds = (
            _seconds(lambda: draw_plain(maps, recipe.base.p, recipe.style, key), time.thread_time) * 1e3
        )
        steps["orbit, rasterise, fill test"] = drawing
        steps["the same in plain Python"] = plain_milliseconds
        speedup = plain_milliseconds / drawing
    rows = [Row(name, value, speedup if name.startswith("orbit,") else None) for name, value in steps.items()]
    return Table(
        title=f"1p-frac, {recipe.size} px, {recipe.points:,} points, {recipe.patch} patches; CPU time of one core",
        caption=machine_caption(cores),
        rows=tuple(rows),
    )


def measure_baselines(*, images: int, cores: int, plain: bool) -> Table:
    """Time the category searches, and each data set end to end, beside 1p-frac: wall time, medians of 5.

    Each is a folder of about `images` images at its published settings, with all that goes with it. FractalDB's are of
    2 categories; OFDB's are 2 categories again and again; ExFractalDB's are the 1740 of one; VisualAtom's, RCDB's and
    MultiFractal's are 10 of a class. plain: time published programs too, one image after the other on one core, without
    writing them.
    """
    categories, _ = find_categories(2, workers=cores)
    weights = len(weight_vectors(0.4)) * len(FLIPS)
    systems = Categories(categories.systems * -(-images // 2))
    recipes: dict[str, Recipe] = {
        "1p-frac": OnePFrac(classes=images).resolve()[0],
        "fractaldb": FractalDB(categories=2, instances=-(-images // (2 * weights)), systems=categories),
        "ofdb": OFDB(categories=images, systems=systems),
        "exfractaldb": ExFractalDB(categories=1).resolve()[0],
        "visualatom": VisualAtom(classes=-(-images // 10), instances=10),
        "rcdb": RCDB(classes=-(-images // 10), instances=10),
        **{
            f"multifractal, {each.composition}": replace(each, classes=-(-images // 10), instances=10)
            for each in _MULTI_FRACTALS
        },
        **{f"noise, {kind}": Noise(kind=kind, classes=images) for kind in get_args(NoiseKind)},
    }
    steps = {f"search, {name}, a candidate": _search_time(search, cores) for name, search in _SEARCHES.items()}
    for name, recipe in recipes.items():
        with tempfile.TemporaryDirectory() as scratch:
            write_shards(recipe, Path(scratch, "warm-up"), workers=cores)
            runs = [write_shards(recipe, Path(scratch, str(run)), workers=cores) for run in range(_RUNS)]
        steps[name] = statistics.median(run.seconds / run.num_samples for run in runs) * 1e3
    if plain:
        steps |= {f"{name}, the published loop in plain Python, 1 core": time for name, time in _plain_times().items()}
    return Table(
        title=f"data sets end to end, at published settings, {cores} threads; wall time",
        caption=machine_caption(cores),
        rows=tuple(Row(name, value) for name, value in steps.items()),
    )


def _search_time(search: CategorySearch[Any], cores: int) -> float:
    """Milliseconds a candidate of a search for 20 categories, as it is done."""
    _, provenance = find_categories(20, search, workers=cores)
    seconds = (_seconds(lambda: find_categories(20, search, workers=cores), time.perf_counter) for _ in range(_RUNS))
    return statistics.median(seconds) / int(provenance["candidates"]) * 1e3


def _plain_times() -> dict[str, float]:
    """Milliseconds a candidate or an image of published programs, CPU time of one core."""
    systems, _ = find_categories(1, SpatialSearch())
    recipe = ExFractalDB(categories=1, weights="first", views="fixed", systems=systems)
    points, system = recipe.cloud(0)[0], systems[0]

    def draw_views() -> None:
        plain_cloud(system.maps, system.p, np.random.RandomState(0).random_sample(recipe.points))
        for view in range(recipe.num_views):
            angle = 2 * math.pi * view / recipe.num_views
            plain_view(points, (-4 * math.cos(angle), 0, 4 * math.sin(angle)), (0, 1, 0), recipe.size)

    steps: dict[str, tuple[Callable[[], object], int]] = {
        "search, exfractaldb, a candidate": (lambda: deque(plain_candidates(1, 10), 0), 10),
        "exfractaldb": (draw_views, recipe.num_views),
        "rcdb": (lambda: deque(plain_images(0, classes=8, images=4), 0), 32),
        **{f"multifractal, {each.composition}": (partial(_draw_plain_scenes, each, 4), 4) for each in _MULTI_FRACTALS},
    }
    return {name: _seconds(step, time.thread_time) / count * 1e3 for name, (step, count) in steps.items()}


def _draw_plain_scenes(recipe: MultiFractal, count: int) -> None:
    for sample in recipe.render(range(count)):
        plain_scene(sample.metadata, size=recipe.size, points=recipe.points)


def machine_caption(cores: int) -> str:
    """The machine and the versions, in a line."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, {packages}"


def _seconds(step: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    step()
    return clock() - start


def _fsync_seconds(path: Path) -> float:
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        return _seconds(lambda: os.fsync(file.fileno()), time.perf_counter)
