"""Measures what rendering on the fly costs a training loop: images/s of a DataLoader over a recipe and over its shards.

    python examples/reading_rates.py
    python examples/reading_rates.py --recipe examples/1p-frac.yaml size=256

Sources are measured in turn, round by round; medians, ranges, and the median of the rounds' ratios are printed. Images
come as uint8 (H, W) or (H, W, 3), decoded, without augmentation: by the process itself (workers 0), whose CPU time is
measured too, as it depends less on what else the machine does; then by 1 and by 2 workers.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from torch.utils.data import DataLoader

import fracgen
from fracgen.recipe import Recipe
from fracgen.shards.commandline import command_app
from fracgen.shards.commandline import main as run_command
from fracgen.shards.files import num_cores
from fracgen.shards.strict_yaml import parse_override

HERE = Path(__file__).parent
RECIPE = typer.Option(help="A recipe, or a rendered folder: its recipe.", show_default="examples/1p-frac.yaml")


def main(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Values of the recipe, as classes=100.")
    ] = None,
    *,
    recipe: Annotated[Path, RECIPE] = HERE / "1p-frac.yaml",
    batch_size: Annotated[int, typer.Option(help="Images a batch.", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="Passes over all images of each source.", min=1)] = 7,
) -> None:
    """Measure images/s of a DataLoader over a recipe, rendered on the fly, and over its shards."""
    samples, _ = fracgen.load_recipe(recipe, dict(map(parse_override, settings or ()))).resolve()
    with TemporaryDirectory() as folder:
        fracgen.write_shards(samples, folder)
        measure(samples, folder, batch_size, rounds)


def measure(samples: Recipe, folder: str, batch_size: int, rounds: int) -> None:
    """Print a table of both sources, by workers. A round before starts the workers, and does not count."""
    print(f"{samples.title}, {len(samples)} images, {'x'.join(map(str, samples.image_shape))}, batches of {batch_size}")
    print(f"{num_cores()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{'workers':>7}  {'source':<19} {'images/s':>8}  {'lowest':>8} {'highest':>8}  of shards  CPU ms")
    torch.set_num_threads(1)  # as in workers: threads that wait for each other take CPU time too
    mode = "RGB" if len(samples.image_shape) == 3 else "L"
    dataset = partial(fracgen.TorchDataset, transform=np.array, mode=mode)
    sources = {"shards": dataset(fracgen.open_shards(folder)), "on the fly": dataset(samples)}
    if getattr(samples, "random_masks", False):
        sources["on the fly, redrawn"] = dataset(samples, masks="redrawn")
    for workers in (0, 1, 2):
        passes = {name: timed_passes(source, batch_size, workers) for name, source in sources.items()}
        times = [{name: timed(number) for name, timed in passes.items()} for number in range(rounds + 1)][1:]
        for name in sources:
            rates = [1 / each[name][0] for each in times]
            ratio = statistics.median(each["shards"][0] / each[name][0] for each in times)
            columns = f"{statistics.median(rates):8.0f}  {min(rates):8.0f} {max(rates):8.0f}  {ratio:9.2f}"
            cpu = "" if workers else f"  {1e3 * statistics.median(each[name][1] for each in times):6.3f}"
            print(f"{workers:7d}  {name:<19} {columns}{cpu}", flush=True)


def timed_passes(
    dataset: "fracgen.TorchDataset", batch_size: int, workers: int
) -> Callable[[int], tuple[float, float]]:
    """A function of the number of a pass, from 0, that runs it in random order.

    It gives the seconds an image, and the CPU seconds an image of this process.
    """
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def seconds(number: int) -> tuple[float, float]:
        dataset.set_epoch(number + 1)  # pass 0 of redrawn masks is the data set itself
        start, cpu_start = time.perf_counter(), time.process_time()
        count = sum(len(images) for images, _ in loader)
        return (time.perf_counter() - start) / count, (time.process_time() - cpu_start) / count

    return seconds


if __name__ == "__main__":
    sys.exit(run_command(command_app(main), "reading_rates.py", sys.argv[1:]))
