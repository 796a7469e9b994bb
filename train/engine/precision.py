"""What a device computes in: float32, or bf16 or fp16 by autocast."""

import platform

import torch
from torch import nn

from fracgen.shards.errors import UsageError
from fracgen.train.engine.settings import Precision

EMULATED = "bf16 is emulated by this CPU, which takes many times as long as float32; give --precision fp32"


def resolve(precision: Precision, device: torch.device) -> Precision:
    """What `auto` means here, a function of the device alone: bf16 where it has instructions for it, else fp16 on a GPU
    and fp32 on a CPU.

    Raises UsageError for what the device cannot do.
    """
    if device.type == "cuda":
        if precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise UsageError("precision bf16: this GPU has none; use fp16 or fp32")
        if precision != "auto":
            return precision
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16":
        raise UsageError("precision fp16: is for GPUs; use bf16 or fp32 on a CPU")
    return ("bf16" if cpu_has_bf16() else "fp32") if precision == "auto" else precision


def cpu_has_bf16() -> bool | None:
    """Whether this CPU multiplies in bf16 (avx512_bf16, amx); None where torch does not tell, as of all but x86."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    answers = [
        getattr(torch.cpu, name)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if hasattr(torch.cpu, name)
    ]
    return any(answers) if answers else None


def is_emulated(precision: Precision, device: torch.device) -> bool:
    """Whether a processor without bf16 computes in it."""
    return precision == "bf16" and device.type == "cpu" and cpu_has_bf16() is False


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The dtype of autocast; None for float32."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def choose_attention(model: nn.Module, dtype: torch.dtype | None, device: torch.device) -> None:
    """Make a timm model compute attention as two products and a softmax where that is faster: in bf16 on a CPU.

    A training step through torch's fused kernel took six times as long there (65 tokens, 6 heads of 32; backward most
    of it), and longer than in float32. What the products store, a bf16 number for each pair of tokens, is little beside
    the other activations.
    """
    if dtype is torch.bfloat16 and device.type == "cpu":
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                setattr(module, "fused_attn", False)  # noqa: B010  (typed as a submodule otherwise)
