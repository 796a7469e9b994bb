"""Trains timm's ViT straight from a formula: each image is rendered when it is needed, and none is written.

    python examples/train_on_the_fly.py
    python examples/train_on_the_fly.py --steps 1000 --workers 2 classes=100 sigma=4

In each epoch, the patch masks are drawn anew (`--masks fixed`: never).
"""

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import timm
import torch
import typer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import fracgen
from fracgen.shards.commandline import command_app
from fracgen.shards.commandline import main as run_command
from fracgen.shards.errors import UsageError
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
    masks: Annotated[Literal["redrawn", "fixed"], typer.Option(help="Patch masks: drawn anew in each epoch.")] = (
        "redrawn"
    ),
    model: Annotated[str, typer.Option(help="A model of timm's.")] = "vit_tiny_patch16_224",
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 20,
    batch_size: Annotated[int, typer.Option(help="Images a step.", min=1)] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.", min=0)] = 1e-3,
    workers: Annotated[int | None, typer.Option(help="Processes that render. [default: one a core]", min=0)] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.", min=0)] = 0,
) -> None:
    """Train a ViT straight from a formula."""
    samples, _ = fracgen.load_recipe(recipe, dict(map(parse_override, settings or ()))).resolve()
    if not timm.is_model(model):
        raise UsageError(f"--model {model}: timm {timm.__version__} has no such model")
    torch.manual_seed(seed)
    dataset = fracgen.TorchDataset(samples, masks=masks)
    if len(dataset) < batch_size:
        raise UsageError(f"--batch-size {batch_size}: the recipe has only {len(dataset)} images")
    net = timm.create_model(model, num_classes=len(dataset.classes))
    loader = timm.data.create_loader(  # sets dataset.transform, and brings batches to the device
        dataset,
        net.default_cfg["input_size"],
        batch_size,
        is_training=True,
        num_workers=num_cores() if workers is None else workers,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    train(net, loader, steps, lr)


def train(net: torch.nn.Module, loader: DataLoader, steps: int, lr: float) -> None:
    """Run steps of AdamW over the loader's batches; print the loss of each tenth and of the last."""
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    start = time.perf_counter()
    for step, (images, labels) in enumerate(itertools.islice(passes(loader), steps), start=1):
        loss = cross_entropy(net.to(images.device)(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps:
            rate = step * len(images) / (time.perf_counter() - start)
            print(f"step {step:5d}  loss {loss.item():.4f}  {rate:6.1f} images/s", flush=True)


def passes(loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch after the other, each with masks of its own."""
    for epoch in itertools.count():
        loader.dataset.set_epoch(epoch)
        yield from loader


if __name__ == "__main__":
    sys.exit(run_command(command_app(main), "train_on_the_fly.py", sys.argv[1:]))
