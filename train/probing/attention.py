"""What a frozen transformer looks at: attention maps, how far its heads look, and what its positions are alike.

Maps are what timm's own attention multiplies the values by: `timm.utils.AttentionExtract` takes them where dropout
would act on them, from a copy of the network that computes attention as products (`fused_attn` False), in float32.

Mean attention distance: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, figure 7, and Raghu et al., "Do
Vision Transformers See Like Convolutional Neural Networks?", NeurIPS 2021: the distance between the centres of a
query's and a key's patch, in pixels, weighed by the attention between them, over all queries and images. Attention to
the class token and its like is left out, and the rest of a query's attention brought to a sum of 1.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils import AttentionExtract  # type: ignore[attr-defined]
from torch import Tensor

from fracgen.shards.errors import UsageError
from fracgen.train.probing.backbones import Backbone

_BATCH = 8
"""Images at once: a ViT-B's maps of one image at 224 pixels take 22 MB."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention of one network.

    maps: of each block, float32 (images, heads, H, W): how much of its attention the query gives to each patch, times
    the number of tokens, so that 1 is what even attention gives. query: "class token", or "mean over patches".
    distances: of each block, of each head, in pixels. even_distance: that of even attention.
    """

    blocks: Sequence[str]
    maps: Sequence[Tensor]
    query: str
    distances: Sequence[Sequence[float]]
    even_distance: float

    def describe(self) -> dict[str, Any]:
        """The network's entry in probe.json."""
        blocks = [
            {"block": name, "distances": list(distances)}
            for name, distances in zip(self.blocks, self.distances, strict=True)
        ]
        return {"query": self.query, "even_distance": self.even_distance, "blocks": blocks}


@torch.no_grad()
def measure_attention(backbone: Backbone, images: Tensor, *, num_maps: int) -> Attention:
    """The attention of every block over images, float32 (B, 3, size, size), normalised; maps of the first `num_maps`.

    Of a network for which `check_attention` passes.
    """
    extract, (rows, columns), num_prefix = _open(backbone)
    distance = _patch_distances(rows, columns, backbone.size).to(backbone.device)
    by_class_token = backbone.feature == "cls"
    maps: dict[str, list[Tensor]] = {}
    sums: dict[str, Tensor] = {}
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH].to(backbone.device)
        for name, attention in _global_maps(extract(batch), len(batch), num_prefix + rows * columns).items():
            patches = attention[:, :, num_prefix:, num_prefix:]  # (B, heads, queries, keys)
            weights = patches / patches.sum(-1, keepdim=True).clamp(min=1e-12)
            sums[name] = sums.get(name, 0) + (weights * distance).sum(-1).mean(-1).sum(0)
            seen = attention[:, :, 0, num_prefix:] if by_class_token else patches.mean(2)
            kept = seen[: max(0, num_maps - start)] * attention.shape[-1]
            maps.setdefault(name, []).append(kept.reshape(*kept.shape[:2], rows, columns).cpu())
    return Attention(
        blocks=[name.partition(".attn")[0] for name in sums],
        maps=[torch.cat(each) for each in maps.values()],
        query="class token" if by_class_token else "mean over patches",
        distances=[[float(each) for each in total / len(images)] for total in sums.values()],
        even_distance=float(distance.mean()),
    )


def check_attention(backbone: Backbone, heads: Sequence[int] = ()) -> None:
    """Raise UsageError for a network without attention between all patches, or without one of the heads (from 1 on)."""
    extract, (rows, columns), num_prefix = _open(backbone)
    blank = torch.zeros(1, 3, backbone.size, backbone.size, device=backbone.device)
    with torch.no_grad():
        maps = _global_maps(extract(blank), 1, num_prefix + rows * columns)
    if not maps:
        raise UsageError(_refusal(backbone))
    fewest = min(attention.shape[1] for attention in maps.values())
    if heads and max(heads) > fewest:
        raise UsageError(f"--head {max(heads)}: {backbone.name} has {fewest} heads, from 1 on")


def position_similarity(backbone: Backbone) -> Tensor | None:
    """Cosine similarity of the position embeddings of all patches, float32 (H, W, H, W); None where there are none."""
    network: Any = backbone.network
    positions, grid = getattr(network, "pos_embed", None), _grid(network)
    if not isinstance(positions, Tensor) or grid is None or positions.ndim != 3:
        return None
    rows, columns = grid
    num_prefix = positions.shape[1] - rows * columns
    if num_prefix not in (0, getattr(network, "num_prefix_tokens", 0)):
        return None
    patches = torch.nn.functional.normalize(positions[0, num_prefix:].detach().float().cpu(), dim=-1)
    return (patches @ patches.mT).reshape(rows, columns, rows, columns)


def _open(backbone: Backbone) -> tuple[AttentionExtract, tuple[int, int], int]:
    """(timm's extractor over a copy of the network, rows and columns of patches, number of tokens before them)."""
    network: Any = copy.deepcopy(backbone.network)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010  (typed as a submodule otherwise)
    grid = _grid(network)
    try:
        extract = AttentionExtract(network, method="hook")
    except RuntimeError as error:  # no module of the name that attention has
        raise UsageError(_refusal(backbone)) from error
    if grid is None:
        raise UsageError(_refusal(backbone))
    return extract, grid, int(getattr(network, "num_prefix_tokens", 0))


def _grid(network: Any) -> tuple[int, int] | None:
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    return (int(grid[0]), int(grid[1])) if grid else None


def _global_maps(outputs: dict[str, Tensor], num_images: int, num_tokens: int) -> dict[str, Tensor]:
    """Those of the extracted tensors that are maps between all tokens, not windows: (images, heads, tokens, tokens)."""
    return {
        name: attention.float()
        for name, attention in outputs.items()
        if attention.ndim == 4
        and len(attention) == num_images
        and tuple(attention.shape[2:]) == (num_tokens, num_tokens)
    }


def _patch_distances(rows: int, columns: int, size: int) -> Tensor:
    """Distances between the centres of patches, in pixels, float32 (N, N), for square images of `size` pixels."""
    y, x = torch.meshgrid(torch.arange(rows) * (size / rows), torch.arange(columns) * (size / columns), indexing="ij")
    centres = torch.stack([y.flatten(), x.flatten()], 1).float()
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")  # exact: 0 to itself


def _refusal(backbone: Backbone) -> str:
    model = backbone.architecture.name
    return f"--attention: {backbone.name} ({model}) has no attention between all patches, as a plain ViT has"
