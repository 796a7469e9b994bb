"""A model that timm loads as ONNX, with how images are prepared for it; checked by onnxruntime against torch."""

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import read_json
from fracgen.shards.publish.release import CARD, CONFIG

FILE = "model.onnx"
ABSOLUTE, RELATIVE = 1e-4, 1e-3
"""How far onnxruntime's logits may be from torch's, both in float32 on a CPU: their sums run in another order."""
_CHECKED = (1, 3)
"""Sizes of the batches that are compared."""


@dataclass(frozen=True, kw_only=True)
class OnnxExport:
    """What was written. difference: the greatest one between logits of onnxruntime and of torch. images: compared."""

    num_bytes: int
    opset: int
    difference: float
    images: int


def export_onnx(folder: Path, out: Path) -> OnnxExport:
    """Write FOLDER's model as `out`/model.onnx, with its config.json and card beside it; `out` is an empty folder.

    Input "images": float32 (B, 3, H, W), normalised by mean and std of the file's metadata; output "logits": (B, C).
    The same images, drawn from a fixed seed, go through torch and onnxruntime, on a CPU.
    Raises UsageError where a library is missing or timm cannot load the model, DataError where it cannot be exported,
    or the two differ by more than 1e-4 + 1e-3 of torch's.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _require(name)
    model, config = _load(folder)
    size = config["pretrained_cfg"].get("input_size") or [3, 224, 224]
    path = out / FILE
    _write(model, path, size)
    opset = _add_metadata(path, config)
    difference = _compare(model, path, size)
    for name in (CONFIG, CARD):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    return OnnxExport(num_bytes=path.stat().st_size, opset=opset, difference=difference, images=sum(_CHECKED))


def _require(name: str) -> None:
    import importlib.util

    if importlib.util.find_spec(name) is None:
        raise UsageError(f"{name} is not installed: pip install 'fracgen[onnx]'")


def _load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    config = read_json(folder / CONFIG)
    try:
        if not isinstance(config["pretrained_cfg"], dict):
            raise ValueError("no pretrained_cfg")
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # of any model, with any options
        raise UsageError(f"{folder}: timm cannot load it ({error!r})") from error
    return model.eval(), config


def _write(model: nn.Module, path: Path, size: list[int]) -> None:
    """Export with a batch of any size."""
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quietly():
            torch.onnx.export(
                model,
                (torch.zeros(2, *size),),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # of torch's exporter: each operation has errors of its own
        raise DataError(f"torch cannot export this model to ONNX ({error!r:.300})") from error


@contextlib.contextmanager
def _quietly() -> Any:
    """Without the exporter's words on its own progress."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _add_metadata(path: Path, config: Mapping[str, Any]) -> int:
    """Store in the file how images are prepared, the class names and where the weights come from; returns the opset."""
    import onnx

    pretrained = config["pretrained_cfg"]
    names = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "license")
    values = {name: pretrained[name] for name in names if name in pretrained}
    labels = config.get("label_names") or pretrained.get("label_names")
    values |= {"label_names": labels} if labels else {}
    values |= {"architecture": config["architecture"], "num_classes": config.get("num_classes")}
    values |= {"fracgen": config["fracgen"]} if "fracgen" in config else {}
    stored = onnx.load(path)
    del stored.metadata_props[:]
    for name, value in values.items():
        entry = stored.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
    onnx.checker.check_model(stored)
    onnx.save(stored, path)
    return max(int(each.version) for each in stored.opset_import if each.domain in ("", "ai.onnx"))


def _compare(model: nn.Module, path: Path, size: list[int]) -> float:
    """The greatest difference between logits of onnxruntime and of torch. Raises DataError where it is too great."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator, greatest = torch.Generator().manual_seed(0), 0.0
    for count in _CHECKED:
        images = torch.randn(count, *size, generator=generator)
        with torch.no_grad():
            expected = model(images)
        actual = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        difference = float((actual - expected).abs().max())
        greatest = max(greatest, difference)
        if not torch.allclose(actual, expected, rtol=RELATIVE, atol=ABSOLUTE):
            raise DataError(
                f"onnxruntime's logits differ from torch's by up to {difference:.2g}, more than {ABSOLUTE:g} + "
                f"{RELATIVE:g} of them; nothing was written"
            )
    return greatest
