"""Closed-form initial weights of timm's plain ViTs, from formulas and a seed alone: mimetic and impulse.

Mimetic: Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", ICML 2023. Impulse: Zheng et al.,
"Structured Initialization for Vision Transformers", NeurIPS 2025, arXiv 2505.19985. Both set position embeddings, and
queries, keys, values and projection of every block, by draws of its own; all else stays as timm draws it.

Matrices act on row vectors, as in the papers: q = x W_Q, and attention adds x W_V W_proj. torch's Linear holds the
transposes. d: embedding width; k = d / heads: width of a head; N: number of patches. All is computed in float64.
"""

import math
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer  # type: ignore[attr-defined]
from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.train.engine.settings import DEFAULT_MODEL, Init
from fracgen.train.seeding import generator

_OFFSETS = (4, 1, 5, 3, 7, 0, 2, 6, 8)
"""Places of a 3 x 3 neighbourhood, row by row (4 is its centre), in the order in which heads take them."""
_POSITION_STD = 18 * 0.02
"""Standard deviation of impulse's position embeddings: 18 times timm's."""
_TARGET, _NOISE, _NOISE_STD, _NOISE_LIMIT = 1000.0, 3.0, 0.6, 2.0
"""Impulse's aim for the key at a head's offset; factor, std and bound of the normal draws that it is for the others."""
_NORM = 7.0
"""Frobenius norm of a head's queries, and of its keys, in impulse."""
_TEMPERATURE = 10_000.0
_RANK_TOLERANCE = 1e-8

Factors = tuple[Tensor, Tensor]
"""Left and right factor of a matrix, (d, r) float64 each, which is left @ right.T."""


def check(model: nn.Module, init: Init, name: str) -> None:
    """Raise UsageError, with the reason, where the formulas of `init` do not fit a model. name: timm's."""
    reason = "" if init == "default" else _find_obstacle(model, init)
    if reason:
        raise UsageError(f"init {init}: {name} {reason}; use init default, or a plain ViT such as {DEFAULT_MODEL}")


def _find_obstacle(model: Any, init: Init) -> str:
    """Why the formulas do not fit a model, in words that follow its name; "" where they do."""
    if type(model) is not VisionTransformer:
        return "is not a plain ViT of timm's"
    if model.pos_embed is None or model.dynamic_img_size:
        return "has no position embeddings, or resizes them for each image"
    for block in model.blocks:
        attention: Any = getattr(block, "attn", None)
        if type(block) is not Block or type(attention) is not Attention or not isinstance(block.norm1, nn.LayerNorm):
            return "has blocks that are not layer norm, attention and MLP"
        if any(not isinstance(getattr(attention, each, None), nn.Identity | None) for each in _INNER_LAYERS):
            return "normalises or gates within its attention"
    if init == "mimetic" and model.embed_dim % 4:
        return f"is {model.embed_dim} wide, no multiple of 4, which sinusoidal position embeddings need"
    return ""


_INNER_LAYERS = ("q_norm", "k_norm", "norm", "gate")
"""Of timm's attention; Identity or None in a plain ViT."""


@torch.no_grad()
def initialize(model: nn.Module, init: Init, *, seed: int) -> None:
    """Give a model on the CPU, for which `check` passes, the weights of `init`; "default" leaves all as it is.

    They are a function of seed and shapes: the draws are `train/seeding.py`'s, the signs of singular vectors are fixed,
    and one thread computes, so that no bit depends on the number of threads. Another type of CPU may round otherwise.
    """
    if init == "default":
        return
    vit: Any = model
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        grid, width = vit.patch_embed.grid_size, vit.embed_dim
        num_prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        if init == "mimetic":
            positions = sinusoidal_positions(grid, width, num_prefix)
        else:
            positions = random_positions(num_prefix + grid[0] * grid[1], width, seed)
        vit.pos_embed.copy_(positions)
        for number, block in enumerate(vit.blocks):
            attention, draws = block.attn, generator(seed, "closed_form", number)
            if init == "mimetic":
                heads = [mimetic_head(draws, width, attention.head_dim) for _ in range(attention.num_heads)]
            else:
                heads = impulse_heads(draws, positions[num_prefix:], grid, attention.num_heads)
            _set_attention(attention, heads, values_and_projection(draws, width))
    finally:
        torch.set_num_threads(threads)


def _set_attention(attention: Any, heads: list[Factors], values_projection: Factors) -> None:
    """Write W_Q and W_K of each head, W_V and W_proj into timm's attention, whose biases become 0.

    A head whose factors have fewer than k columns keeps timm's draws in the others.
    """
    width, head_width = attention.proj.in_features, attention.head_dim
    for head, factors in enumerate(heads):
        for part, matrix in enumerate(factors):
            first = part * width + head * head_width
            attention.qkv.weight[first : first + matrix.shape[1]] = matrix.T
    values, projection = values_projection
    attention.qkv.weight[2 * width :] = values.T
    attention.proj.weight.copy_(projection)
    for layer in (attention.qkv, attention.proj):
        if layer.bias is not None:
            layer.bias.zero_()


def sinusoidal_positions(grid: tuple[int, int], width: int, num_prefix: int) -> Tensor:
    """Position embeddings, (num_prefix + N, d) float64: sine and cosine of column and row, at d / 4 frequencies each.

    They are those of MAE (He et al., CVPR 2022): class token and registers have zeros. grid: rows, columns of patches.
    """
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in grid)
    frequencies = _TEMPERATURE ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    angles = [coordinate.flatten()[:, None] * frequencies for coordinate in (column, row)]
    patches = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(num_prefix, width, dtype=torch.float64), patches])


def random_positions(num_rows: int, width: int, seed: int) -> Tensor:
    """Position embeddings of impulse, (num_rows, d) float64: normal, of standard deviation 18 x 0.02. Zheng et al."""
    return torch.from_numpy(generator(seed, "closed_form").normal(0.0, _POSITION_STD, (num_rows, width)))


def mimetic_head(draws: np.random.Generator, width: int, head_width: int) -> Factors:
    """W_Q and W_K of a head: W_Q W_K' is the part of rank k of 0.7 Z + 0.7 I. Trockman and Kolter, section 3."""
    queries, keys = factorize(0.7 * _uniform(draws, width) + 0.7 * torch.eye(width, dtype=torch.float64))
    return queries[:, :head_width], keys[:, :head_width]


def values_and_projection(draws: np.random.Generator, width: int) -> Factors:
    """W_V and the transpose of W_proj, of all heads: W_V W_proj = 0.4 Z - 0.4 I. Trockman and Kolter, section 3."""
    return factorize(0.4 * _uniform(draws, width) - 0.4 * torch.eye(width, dtype=torch.float64))


def impulse_heads(
    draws: np.random.Generator, positions: Tensor, grid: tuple[int, int], num_heads: int
) -> list[Factors]:
    """W_Q and W_K of each head of a block, whose attention begins as a shift by the head's offset. Zheng et al.

    With P the layer norm of the position embeddings of the patches, (N, d), W_Q W_K' is the part of rank k of
    A = pinv_k(P) W pinv_k(P)', each factor brought to a Frobenius norm of 7. W, (N, N), is 1000 for a query and the key
    at the offset (none beyond the border), and 3 times a truncated normal draw of std 0.6 elsewhere.
    """
    left, values, right = torch.linalg.svd(
        nn.functional.layer_norm(positions, positions.shape[1:]), full_matrices=False
    )
    rank = min(positions.shape[1] // num_heads, int((values > _RANK_TOLERANCE * values[0]).sum()))
    signs = _signs(left[:, :rank])
    left, right, values = left[:, :rank] * signs, right[:rank].T * signs, values[:rank]
    heads = []
    for head in range(num_heads):
        shift = shift_matrix(grid, head_offset(head))
        target = torch.where(shift, _TARGET, _NOISE * _truncated_normal(draws, len(positions)))
        core = left.T @ target @ left / (values[:, None] * values)  # A in the basis `right`: its SVD is A's, (k, k)
        queries, keys = (right @ factor for factor in factorize(core))
        heads.append((queries * (_NORM / queries.norm()), keys * (_NORM / keys.norm())))
    return heads


def head_offset(head: int) -> tuple[int, int]:
    """Rows and columns, -1 to 1 each, from a query to the key that a head of impulse looks at."""
    offset = _OFFSETS[head % len(_OFFSETS)]
    return offset // 3 - 1, offset % 3 - 1


def shift_matrix(grid: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """Whether a key lies at the offset of a query, (N, N) bool; a query whose key lies beyond the border has none."""
    by_axis = [torch.diag(torch.ones(length - abs(step)), step) for length, step in zip(grid, offset, strict=True)]
    return torch.kron(*by_axis) > 0


def factorize(matrix: Tensor) -> Factors:
    """U sqrt(S) and V sqrt(S) of a square matrix U S V', columns by falling singular value, of signs fixed by U."""
    left, values, right = torch.linalg.svd(matrix)
    scale = values.sqrt() * _signs(left)
    return left * scale, right.T * scale


def _signs(vectors: Tensor) -> Tensor:
    """-1 or 1 for each column: times it, the entry of largest magnitude is positive. An SVD leaves the signs open."""
    return vectors.gather(0, vectors.abs().argmax(0, keepdim=True))[0].sign()


def _uniform(draws: np.random.Generator, width: int) -> Tensor:
    """Z: (d, d) float64, uniform, of variance 1 / d."""
    bound = math.sqrt(3 / width)
    return torch.from_numpy(draws.uniform(-bound, bound, (width, width)))


def _truncated_normal(draws: np.random.Generator, size: int) -> Tensor:
    """Normal draws of std 0.6 within -2 to 2, (size, size) float64: what lies outside is drawn again, as by timm."""
    values = draws.normal(0.0, _NOISE_STD, (size, size))
    while (outside := np.abs(values) > _NOISE_LIMIT).any():
        values[outside] = draws.normal(0.0, _NOISE_STD, int(outside.sum()))
    return torch.from_numpy(values)
