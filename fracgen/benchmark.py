"""What an image costs, step by step, on this machine: medians, beside the published loop in plain Python."""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fracgen.draw import Renderer, fill_rate
from fracgen.generate import plan, versions, write_shards
from fracgen.onepfrac import OnePFrac
from fracgen.plain import draw_plain
from shards.codec import encode_png
from shards.manifest import PixelHash
from shards.writer import write_tar

_PLAIN_REPEATS = 3


@dataclass(frozen=True)
class Row:
    """One step: wall milliseconds per image, and how many times faster than plain Python where that applies."""

    step: str
    milliseconds: float
    speedup: float | None = None


@dataclass(frozen=True)
class Table:
    """All rows, and where they were measured."""

    title: str
    caption: str
    rows: tuple[Row, ...]


def measure(*, images: int, repeats: int, cores: int, plain: bool) -> Table:
    """Time every step of 1p-frac at its published settings: medians of `repeats`, one core, kernels compiled before.

    "one accepted draw" is the sum of the steps for one image; "end to end" is wall time per image of whole folders,
    rejected draws and fsync included, with 1 worker and with all.
    """
    recipe, _ = OnePFrac().resolve()
    renderer, maps = Renderer(recipe.base.p, recipe.style), recipe.base.maps
    renderer.trace(maps)
    image, key = renderer.draw(mask_key=recipe.mask_key(0)), recipe.mask_key(0)
    sample = next(recipe.render([0]))

    def timed(step: Callable[[], object]) -> float:
        step()
        return statistics.median(_seconds(step) for _ in range(repeats)) * 1e3

    steps = {
        "orbit": timed(lambda: renderer.trace(maps, maps)) / 2,
        "rasterise": timed(lambda: renderer.draw(mask_key=key)),
        "fill test": timed(lambda: fill_rate(image)),
        "encode, 8 bits": timed(lambda: encode_png(image)),
        "encode, 1 bit": timed(lambda: encode_png(image, 1)),
        "pixel hash": timed(lambda: PixelHash().update(image, 0)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        tar = Path(scratch) / "bench.tar"

        def write(bits: int) -> float:
            layout = plan(recipe, png_bits=bits)
            return timed(lambda: write_tar(tar, tar.name, [sample] * 16, layout)) / 16

        writing = {bits: write(bits) for bits in (8, 1)}
        steps["write (tar, metadata, sha256, fsync)"] = writing[8] - steps["encode, 8 bits"] - steps["pixel hash"]
        drawing = steps["draw: orbit, rasterise, fill test"] = steps["orbit"] + steps["rasterise"] + steps["fill test"]
        steps["one accepted draw, 8 bits"] = drawing + writing[8]
        steps["one accepted draw, 1 bit"] = drawing + writing[1]
        few = replace(recipe, classes=images)
        for workers in sorted({1, cores}):
            seconds = [
                write_shards(few, Path(scratch, f"{workers}-{run}"), workers=workers).seconds for run in range(3)
            ]
            steps[f"end to end, {workers} worker{'' if workers == 1 else 's'}"] = (
                statistics.median(seconds) / images * 1e3
            )
    speedup = None
    if plain:
        published = statistics.median(
            _seconds(lambda: draw_plain(maps, recipe.base.p, recipe.style, key)) for _ in range(_PLAIN_REPEATS)
        )
        steps["the same draw in plain Python"] = published * 1e3
        speedup = published * 1e3 / drawing
    rows = [Row(name, value, speedup if name.startswith("draw:") else None) for name, value in steps.items()]
    stated = ", ".join(f"{name} {version}" for name, version in versions().items())
    return Table(
        title=f"1p-frac, {recipe.size} px, {recipe.points:,} points, {recipe.patch} patches; medians of {repeats}",
        caption=f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, {stated}",
        rows=tuple(rows),
    )


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
