"""Measures training on a GPU, in pieces of minutes, into one JSON file.

    fracgen render --sigma 3.5 --delta 0.1 --out 1p-frac
    python examples/gpu/measure.py --piece speed --shards 1p-frac --out gpu.json
    python examples/gpu/measure.py --piece augmentation --out gpu.json
    python examples/gpu/measure.py --piece resume --shards 1p-frac --out gpu.json

speed: images/s of `fracgen pretrain --benchmark`, and peak memory. augmentation: each operation beside the CPU's.
resume: a run that is paused and goes on beside one that is not, and beside the same run again, each in a process of its
own. Each piece takes its place in the file, in which the other pieces stay; a piece that is ended early leaves the rows
that it has.
"""

import contextlib
import io
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from torch import Tensor

from fracgen.shards.commandline import command_app, one_line
from fracgen.shards.commandline import main as run_command
from fracgen.shards.errors import UsageError
from fracgen.shards.files import num_cores, read_json, write_atomically
from fracgen.train import pretrain
from fracgen.train.augment.apply import apply
from fracgen.train.augment.draws import CODES, OPERATIONS, Layer, arguments
from fracgen.train.augment.evaluation import EvalTransform
from fracgen.train.augment.inputs import TrainInputs
from fracgen.train.augment.settings import Augmentation, Mix
from fracgen.train.engine import checkpoint

Row = dict[str, Any]
CPU = torch.device("cpu")
PRETRAIN = """
import sys, torch
torch.use_deterministic_algorithms(sys.argv[1] == "deterministic", warn_only=True)
from fracgen.train import pretrain
sys.exit(pretrain.run(sys.argv[2:]))
"""
"""`fracgen pretrain` in a process of its own, by Python's -c."""


class Mode(StrEnum):
    """How the model runs: by torch.compile or not, its kernels launched one by one or as a CUDA graph."""

    EAGER = "eager"
    COMPILED = "compiled"
    GRAPH = "graph"
    COMPILED_GRAPH = "compiled-graph"

    @property
    def words(self) -> list[str]:
        """Settings of pre-training."""
        compiled, graph = self.startswith("compiled"), self.endswith("graph")
        return [f"run.compile={str(compiled).lower()}", f"run.cuda_graph={str(graph).lower()}"]


class Loader(StrEnum):
    """Where the images are."""

    MEMORY = "memory"
    STREAM = "stream"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What the pieces are asked for. settings: NAME=VALUE of pre-training."""

    shards: str
    device: torch.device
    batch_sizes: tuple[int, ...]
    modes: tuple[Mode, ...]
    loaders: tuple[Loader, ...]
    workers: int
    images: int
    steps: int
    settings: tuple[str, ...]

    def pretrain(self, mode: Mode, *options: object) -> Row:
        """The result of `fracgen pretrain`, in this process. Raises RuntimeError with its last line where it fails."""
        torch.compiler.reset()  # else the model of another batch size is compiled for any
        printed, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            code = pretrain.run(self._words(mode, *options))
        if code >= 128:
            raise KeyboardInterrupt
        if code:
            raise RuntimeError(said.getvalue().strip().splitlines()[-1])
        result: Row = json.loads(printed.getvalue())
        return result

    def pretrain_apart(self, mode: Mode, *options: object, deterministic: bool) -> None:
        """The same in a process of its own, which may be told to use torch's deterministic algorithms."""
        argv = [sys.executable, "-c", PRETRAIN, "deterministic" if deterministic else "fast"]
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # without it cuBLAS promises nothing
        ended = subprocess.run(
            [*argv, *self._words(mode, *options)], capture_output=True, text=True, env=environment, check=False
        )
        if ended.returncode:
            raise RuntimeError((ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1])

    def _words(self, mode: Mode, *options: object) -> list[str]:
        words = [f"--shards={self.shards}", f"--device={self.device.type}", f"--workers={self.workers}", "--json"]
        return [str(word) for word in (*words, *mode.words, *options, *self.settings)]


def speed(measurement: Measurement) -> Iterator[Row]:
    """Images/s of the model, of the data and of both, and peak memory of the device, by loader, mode and batch size."""
    device = measurement.device
    for loader, mode, batch_size in itertools.product(measurement.loaders, measurement.modes, measurement.batch_sizes):
        row: Row = {"loader": loader, "mode": mode, "batch_size": batch_size}
        began = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        try:
            row |= measurement.pretrain(mode, "--benchmark", "--loader", loader, "--batch-size", batch_size)
        except Exception as error:  # of a compiler, or of memory: the next row may do
            row["error"] = _describe(error)
        if device.type == "cuda":
            row["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
        yield {**row, "seconds": round(time.perf_counter() - began, 1)}


def augmentation(measurement: Measurement) -> Iterator[Row]:
    """How far the device's images are from the CPU's, in levels, by operation, for gray and colour images."""
    for channels in (1, 3):
        for name, make in _cases(*(_pictures(measurement.images, channels, size) for size in (512, 224))).items():
            yield _compare(name, make, measurement.device)


def _cases(images: Tensor, small: Tensor) -> dict[str, Callable[[torch.device], Tensor]]:
    """What is compared, by name: a function from the device to images on it."""
    cases: dict[str, Callable[[torch.device], Tensor]] = {name: partial(_operate, name, small) for name in OPERATIONS}
    settings, no_mix = Augmentation(), Mix(mixup=0, cutmix=0)
    crops = replace(settings, rand_augment="", color_jitter=0.0, erase=0.0)
    return cases | {
        "crop and flip": partial(_augment, crops, no_mix, images),
        "erase": partial(_augment, replace(crops, erase=1.0), no_mix, images),
        "colour jitter": partial(_augment, replace(settings, rand_augment=""), no_mix, images),
        "all, mixup": partial(_augment, settings, Mix(cutmix=0), images),
        "all, cutmix": partial(_augment, settings, Mix(mixup=0), images),
        "evaluation": partial(_evaluate, settings, images),
    }


def _pictures(num: int, channels: int, size: int) -> Tensor:
    """Images, uint8 (num, channels, size, size): two of one level, half of the others flat squares, half noise."""
    rng, side = np.random.default_rng(0), -(-size // 16)
    squares = rng.integers(0, 256, (num, channels, side, side), dtype=np.uint8).repeat(16, 2).repeat(16, 3)
    images = np.ascontiguousarray(squares[..., :size, :size])
    images[1::2] = rng.integers(0, 256, images[1::2].shape, dtype=np.uint8)
    images[0], images[1] = 0, 127
    return torch.from_numpy(images)


def _operate(name: str, images: Tensor, device: torch.device) -> Tensor:
    """The images after one operation, at as many strengths as there are images."""
    levels = np.linspace(0, 1, len(images))
    signed = np.where(np.arange(len(images)) % 4 < 2, levels, -levels)
    layer = Layer(np.full(len(images), CODES[name]), arguments(levels, signed, increasing=True)[CODES[name]])
    fill = torch.full((images.shape[1], 1, 1), 128, dtype=torch.uint8, device=device)
    canvas = images.to(device, copy=True)
    apply(canvas, layer, fill)
    return canvas


def _augment(augment: Augmentation, mix: Mix, images: Tensor, device: torch.device) -> Tensor:
    """The images as the model sees them in training."""
    inputs = TrainInputs(augment, mix, num_classes=10, seed=0, rank=0, device=device)
    labels = torch.arange(len(images), device=device) % 10
    return inputs(0, images.to(device), labels, np.arange(len(images)), transformed=False)[0]


def _evaluate(augment: Augmentation, images: Tensor, device: torch.device) -> Tensor:
    """The images as the model sees them in evaluation."""
    transform = EvalTransform(size=augment.size, crop=0.875, mean=augment.mean, std=augment.std)
    return transform.on_device(images.to(device))


def _compare(name: str, make: Callable[[torch.device], Tensor], device: torch.device) -> Row:
    """Both devices' images of one function; those in float are (levels / 255 - 0.5) / 0.5."""
    ours, theirs = make(device).cpu(), make(CPU)
    scale = 1.0 if ours.dtype == torch.uint8 else 127.5
    off = (ours.double() - theirs.double()).abs() * scale
    return {
        "operation": name,
        "channels": ours.shape[1],
        "equal": torch.equal(ours, theirs),
        "largest_difference": float(f"{off.max().item():.3g}"),
        "share_off_by_half_a_level": float(f"{(off > 0.5).double().mean().item():.3g}"),
    }


def resume(measurement: Measurement) -> Iterator[Row]:
    """Whether a paused run ends at the weights of a straight one, and whether the straight one repeats itself.

    Each with torch's deterministic algorithms too. All at the same time on a GPU, one after the other on a CPU.
    """
    kinds = [("fp32", Mode.EAGER), *(("bf16", mode) for mode in Mode)]
    cases = [
        (precision, mode, deterministic)
        for precision, mode in kinds
        if mode in measurement.modes
        for deterministic in (False, True)
    ]
    with ThreadPoolExecutor(len(cases) if measurement.device.type == "cuda" else 1) as threads:
        yield from threads.map(lambda case: _resume(measurement, *case), cases)


def _resume(measurement: Measurement, precision: str, mode: Mode, deterministic: bool) -> Row:
    steps, batch_size, began = measurement.steps, measurement.batch_sizes[0], time.perf_counter()
    row: Row = {"precision": precision, "mode": mode, "deterministic_algorithms": deterministic}
    options = [f"--precision={precision}", f"--steps={steps}", f"--batch-size={batch_size}", "run.clean_images=0"]
    try:
        with TemporaryDirectory() as folder, ThreadPoolExecutor() as threads:

            def weights(name: str, *stops: int) -> Mapping[str, Tensor]:
                out = Path(folder, name)
                for stop in (*stops, 0):
                    words = [*options, "--out", out, "--stop-after", stop]
                    measurement.pretrain_apart(mode, *words, deterministic=deterministic)
                model: Mapping[str, Tensor] = checkpoint.load(out / checkpoint.LAST).model
                return model

            runs = [threads.submit(weights, name) for name in ("straight", "repeated")]
            runs.append(threads.submit(weights, "resumed", steps // 2))
            straight, *others = (run.result() for run in runs)
        for name, other in zip(("repeated", "resumed"), others, strict=True):
            off = [(straight[key].double() - other[key].double()).abs().max().item() for key in straight]
            row[f"{name}_equal"], row[f"{name}_largest_difference"] = max(off) == 0, max(off)
    except Exception as error:  # as in `speed`
        row["error"] = _describe(error)
    return {**row, "steps": steps, "batch_size": batch_size, "seconds": round(time.perf_counter() - began, 1)}


def _describe(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")[:300]


def machine(device: torch.device) -> Row:
    """Device, processor and versions."""
    names = ("torch", "timm", "numpy", "pillow")
    row: Row = {"cores": num_cores(), "python": platform.python_version()} | {name: version(name) for name in names}
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        row["processor"] = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        row |= {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return row


PIECES: dict[str, Callable[[Measurement], Iterator[Row]]] = {
    "speed": speed,
    "augmentation": augmentation,
    "resume": resume,
}


def main(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings of pre-training.")
    ] = None,
    *,
    piece: Annotated[Literal["speed", "augmentation", "resume"], typer.Option(help="What is measured.")],
    out: Annotated[Path, typer.Option(help="JSON file that the piece is added to.")],
    shards: Annotated[str, typer.Option(help="Set to pre-train on, as `fracgen render` writes it.")] = "1p-frac",
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="cpu: to try the script.")] = "cuda",
    batch_size: Annotated[
        list[int] | None, typer.Option(help="May come more than once. [default: 512 256 1024]")
    ] = None,
    mode: Annotated[
        list[Mode] | None, typer.Option(help="How the model runs; all by default, without graphs on a CPU.")
    ] = None,
    loader: Annotated[list[Loader] | None, typer.Option(help="memory or stream; both by default.")] = None,
    workers: Annotated[int | None, typer.Option(help="That stream. [default: one a core, less two]", min=0)] = None,
    images: Annotated[int, typer.Option(help="Of the piece augmentation: an even number.", min=2)] = 64,
    steps: Annotated[int, typer.Option(help="Of a run of the piece resume.", min=3)] = 12,
) -> None:
    """Measure training on a GPU, one piece a call, into a JSON file."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this torch sees no GPU; --device cpu tries the script")
    if images % 2:
        raise UsageError(f"--images {images}: mixup and cutmix pair images; make it even")
    measurement = Measurement(
        shards=shards,
        device=torch.device(device),
        batch_sizes=tuple(batch_size or (512, 256, 1024)),
        modes=tuple(mode or (each for each in Mode if device == "cuda" or "graph" not in each)),
        loaders=tuple(loader or Loader),
        workers=max(1, num_cores() - 2) if workers is None else workers,
        images=images,
        steps=steps,
        settings=tuple(settings or ()),
    )
    results: Row = read_json(out) if out.exists() else {}
    rows: list[Row] = []
    results[piece] = {"machine": machine(measurement.device), "rows": rows}
    for row in PIECES[piece](measurement):
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        write_atomically(out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(command_app(main), "measure.py", sys.argv[1:]))
