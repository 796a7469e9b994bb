"""A timm ViT as a model of tokens, and its blocks back in a ViT for images.

The embeddings are those of public code for Shinnick et al. (arXiv 2511.13945), as read and never run: frozen, since
what is to be learned belongs into the blocks. The paper's text is said to name sinusoidal positions instead.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.train.engine.settings import DEFAULT_MODEL
from fracgen.train.procedural.brackets import NO_TARGET
from fracgen.train.ranks import Ranks
from fracgen.train.seeding import generator

_SCALE = 0.02
"""Norm of each token's embedding, and of each position's."""
_MODULES = ("blocks", "norm", "fc_norm")
"""What a ViT keeps: its blocks and its final norm, which is fc_norm where it averages over the patches."""


class TokenEmbedding(nn.Module):
    """Frozen embeddings of tokens and positions, from tokens int64 (B, N) to float32 (B, N, width).

    Token i is 0.02 times the i-th unit vector; a position is a random direction, of length 0.02.
    """

    tokens: Tensor
    positions: Tensor

    def __init__(self, vocabulary: int, length: int, width: int, *, seed: int) -> None:
        super().__init__()
        directions = generator(seed, "init", 1).normal(size=(length, width))  # "init" alone is the seed of the weights
        positions = _SCALE * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self.register_buffer("tokens", _SCALE * torch.eye(vocabulary, width))
        self.register_buffer("positions", torch.from_numpy(positions).float())

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens at their positions."""
        return self.tokens[tokens] + self.positions


def check(model: nn.Module, name: str, vocabulary: int) -> None:
    """Raise UsageError for a model that has no plain transformer blocks, or too few dimensions for the tokens."""
    if type(model) is not VisionTransformer:
        raise UsageError(
            f"model {name}: is not a plain ViT of timm's, whose blocks take tokens; give one such as {DEFAULT_MODEL}"
        )
    if model.embed_dim < vocabulary:
        raise UsageError(
            f"model {name}: is {model.embed_dim} wide, and {vocabulary} tokens need a dimension each; give "
            f"brackets.types={max((model.embed_dim - 2) // 2, 1)} or less, or a wider model"
        )
    if model.patch_embed.num_patches < 2:
        raise UsageError(f"model {name}: has 1 patch, and a sequence needs 2 tokens; give a larger augment.size")


def to_token_model(model: Any, vocabulary: int, *, seed: int) -> None:
    """Make a ViT for which `check` passes a model of tokens, in place: embeddings and head are other ones.

    It takes tokens int64 (B, N), N the number of its patches, and gives scores (B, prefix tokens + N, vocabulary). The
    class token stands in front, without a position.
    """
    model.patch_embed = TokenEmbedding(vocabulary, model.patch_embed.num_patches, model.embed_dim, seed=seed)
    model.pos_embed = None
    model.reset_classifier(vocabulary, global_pool="")


def trained_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that images are to begin with."""
    return tuple(name for name in _MODULES if any(True for _ in getattr(model, name).parameters()))


def copy_trained(source: nn.Module, target: nn.Module) -> None:
    """Copy blocks and final norm from a model of tokens to the ViT for images of the same architecture."""
    for name in trained_modules(source):
        target.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())


def masked_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """The mean cross entropy over hidden tokens, float32; 0 where a batch hides none.

    scores: (B, prefix tokens + N, vocabulary). targets: (B, N) int64, NO_TARGET where nothing is hidden.
    """
    scores = scores[:, -targets.shape[1] :]
    total = nn.functional.cross_entropy(
        scores.flatten(0, 1).float(), targets.flatten(), ignore_index=NO_TARGET, reduction="sum"
    )
    return total / (targets != NO_TARGET).sum().clamp(min=1)


@torch.no_grad()
def masked_accuracy(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, amp: torch.dtype | None, ranks: Ranks
) -> float:
    """Share of the hidden tokens that are guessed, over the batches of all ranks; every rank calls it.

    batches: tokens and targets, int64 (B, N) each, on the device.
    """
    counts = torch.zeros(2, dtype=torch.int64, device=ranks.device)
    training = model.training
    model.eval()
    for tokens, targets in batches:
        with torch.autocast(tokens.device.type, dtype=amp, enabled=amp is not None):
            guesses = model(tokens)[:, -targets.shape[1] :].argmax(-1)
        counts[0] += (guesses == targets).sum()
        counts[1] += (targets != NO_TARGET).sum()
    model.train(training)
    right, hidden = map(int, ranks.sum(counts))
    return right / max(hidden, 1)
