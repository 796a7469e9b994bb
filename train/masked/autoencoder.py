"""The masked autoencoder of He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.

Patches of an image are hidden at random. A ViT, the encoder, sees the others; a small transformer, the decoder, gets
its tokens, a learned token in each hidden place, and predicts the pixels there (section 3). Only the encoder is kept.

Sizes: B images of 3 channels, in N = rows x columns patches of P = 3 x height x width values.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import LayerNorm, build_sincos2d_pos_embed  # type: ignore[attr-defined]
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fracgen.shards.errors import UsageError
from fracgen.train.engine.build import Loaded, build
from fracgen.train.engine.closed_form import initialize
from fracgen.train.engine.init_weights import InitWeights
from fracgen.train.engine.settings import DEFAULT_MODEL
from fracgen.train.masked.settings import Decoder, Masking
from fracgen.train.seeding import key

_NORM_EPSILON = 1e-6
"""Added to the variance of a patch, as published: a patch of one level becomes zeros."""
_TOKEN_STD = 0.02
_ROUNDING = 1e-9
"""So that 1 - 0.9 of 10 patches is 1, and not the 0 below 0.9999."""


class MaskedAutoencoder(nn.Module):
    """An encoder, a plain ViT of timm's without a head, and the decoder that it is trained with.

    num_visible: number of patches that the encoder sees of each image.
    """

    decoder_positions: Tensor
    """(N, width), not trained."""

    def __init__(self, encoder: Any, decoder: Decoder, masking: Masking) -> None:
        """Raises UsageError where the ratio leaves no patch to see."""
        super().__init__()
        self.encoder: Any = encoder
        patches = encoder.patch_embed
        self.grid, self.patch_size, self.norm_pix = patches.grid_size, patches.patch_size, masking.norm_pix
        self.grad_checkpointing = False
        self.num_visible = count_visible(patches.num_patches, masking.ratio)
        self.decoder_embed = nn.Linear(encoder.embed_dim, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        positions = build_sincos2d_pos_embed(list(self.grid), decoder.width)
        self.register_buffer("decoder_positions", positions, persistent=False)
        self.decoder_blocks = nn.Sequential(
            *(Block(decoder.width, decoder.heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(decoder.depth))
        )
        self.decoder_norm = LayerNorm(decoder.width)
        self.decoder_head = nn.Linear(decoder.width, 3 * self.patch_size[0] * self.patch_size[1])

    def describe(self) -> str:
        """One line for the screen."""
        num_patches, blocks = self.grid[0] * self.grid[1], len(self.decoder_blocks)
        millions = sum(parameter.numel() for name, parameter in self.named_parameters() if "encoder." not in name) / 1e6
        return (
            f"{num_patches - self.num_visible} of {num_patches} patches hidden; decoder of {blocks} blocks, "
            f"{self.decoder_norm.weight.shape[0]} wide, {millions:.1f} M of the parameters"
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass, or keep them: as timm's models have it."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm's optimisers leave without weight decay: tokens, position embeddings."""
        return {"mask_token", *(f"encoder.{name}" for name in self.encoder.no_weight_decay())}

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Predict the hidden patches.

        images: (B, 3, H, W), normalised. noise: (B, N), of which the patches with the smallest values are visible; by
        default uniform, from torch's generator, which a training step seeds.
        Returns predictions, (B, N, P), and which patches are hidden, (B, N) bool.
        """
        if noise is None:
            noise = torch.rand(len(images), self.grid[0] * self.grid[1], device=images.device)
        visible = noise.argsort(stable=True, dim=1)[:, : self.num_visible]
        hidden = torch.ones_like(noise, dtype=torch.bool).scatter(
            1, visible, torch.zeros_like(visible, dtype=torch.bool)
        )
        return self._decode(self._encode(images, visible), visible), hidden

    def _encode(self, images: Tensor, visible: Tensor) -> Tensor:
        """Tokens of class and visible patches, (B, prefix + visible, width of the encoder). visible: (B, V) int64."""
        encoder = self.encoder
        tokens = encoder._pos_embed(encoder.patch_embed(images))
        prefix, patches = tokens[:, : encoder.num_prefix_tokens], tokens[:, encoder.num_prefix_tokens :]
        patches = patches.gather(1, visible[:, :, None].expand(-1, -1, patches.shape[2]))
        tokens = self._pass(encoder.blocks, encoder.norm_pre(torch.cat([prefix, patches], 1)))
        return encoder.fc_norm(encoder.norm(tokens))  # type: ignore[no-any-return]  # one of both is an identity

    def _decode(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Predictions for all patches, (B, N, P)."""
        tokens = self.decoder_embed(tokens)
        num_prefix, width = self.encoder.num_prefix_tokens, tokens.shape[2]
        places = visible[:, :, None].expand(-1, -1, width)
        masked = self.mask_token.to(tokens.dtype).expand(len(tokens), self.grid[0] * self.grid[1], -1)
        patches = masked.scatter(1, places, tokens[:, num_prefix:]) + self.decoder_positions
        tokens = self._pass(self.decoder_blocks, torch.cat([tokens[:, :num_prefix], patches], 1))
        predictions: Tensor = self.decoder_head(self.decoder_norm(tokens)[:, num_prefix:])
        return predictions

    def _pass(self, blocks: nn.Sequential, tokens: Tensor) -> Tensor:
        passed: Tensor = checkpoint_seq(blocks, tokens) if self.grad_checkpointing else blocks(tokens)
        return passed

    def loss(self, output: tuple[Tensor, Tensor], images: Tensor) -> Tensor:
        """Mean squared error over the pixels of the hidden patches (section 3), a float32 scalar.

        output: predictions and hidden, of `forward`. images: (B, 3, H, W), those that it saw.
        """
        predictions, hidden = output
        targets = self.patchify(images.float())
        if self.norm_pix:
            mean, std = self.patch_stats(targets)
            targets = (targets - mean) / std
        errors = (predictions.float() - targets).square().mean(2)
        return (errors * hidden).sum() / hidden.sum()

    @staticmethod
    def patch_stats(patches: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each patch, (B, N, 1) both. patches: (B, N, P)."""
        variance, mean = torch.var_mean(patches, 2, keepdim=True)
        return mean, (variance + _NORM_EPSILON).sqrt()

    def patchify(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) as patches (B, N, P), row by row; in a patch row, column, channel."""
        (rows, columns), (height, width) = self.grid, self.patch_size
        cut = images.reshape(len(images), 3, rows, height, columns, width)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(len(images), rows * columns, -1)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Patches (B, N, P) as images (B, 3, H, W): the inverse of `patchify`."""
        (rows, columns), (height, width) = self.grid, self.patch_size
        cut = patches.reshape(len(patches), rows, columns, height, width, 3)
        return cut.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, rows * height, columns * width)


def count_visible(num_patches: int, ratio: float) -> int:
    """Number of patches that stay visible; one at least is hidden. Raises UsageError where none is visible."""
    visible = min(int(num_patches * (1 - ratio) + _ROUNDING), num_patches - 1)  # of none there would be no loss
    if visible < 1:
        most = math.floor(1000 * (1 - 1 / num_patches)) / 1000
        mend = f"give at most {most:g}" if most else "give smaller patches"
        raise UsageError(f"--mask-ratio {ratio}: leaves no visible patch of {num_patches}; {mend}")
    return visible


def create(
    init: InitWeights, decoder: Decoder, masking: Masking, *, size: int, seed: int
) -> tuple[MaskedAutoencoder, Loaded]:
    """The autoencoder for images of `size` pixels, on the CPU, and what became of the encoder's initial weights.

    From scratch, weights are a function of settings and seed. As published, linear layers have Xavier's uniform ones,
    tokens normal ones, and the encoder's position embeddings are sines and cosines that are not trained. A closed-form
    init takes their place in the encoder, and what a checkpoint has stays: all of the encoder, or a warm-up's blocks.
    Raises UsageError for a model that is no plain ViT, and what `build` raises.
    """
    torch.manual_seed(key(seed, "init"))
    encoder, loaded = build(init, num_classes=0, size=size)
    _check_encoder(encoder, init.model.name)
    model = MaskedAutoencoder(encoder, decoder, masking)

    def is_new(name: str) -> bool:
        """Whether the encoder's module or parameter of this name is not the checkpoint's."""
        return loaded.fresh or not init.holds(name)

    _draw_weights(model, is_new)
    if is_new("pos_embed") and init.model.init == "default":
        _fix_positions(model.encoder)
    initialize(encoder, init.model.init, seed=seed)
    return model, loaded


@torch.no_grad()
def _draw_weights(model: MaskedAutoencoder, is_new: Callable[[str], bool]) -> None:
    vit = model.encoder
    for name, module in model.named_modules():
        if name.startswith("encoder.") and not is_new(name.removeprefix("encoder.")):
            continue
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if is_new("patch_embed"):
        nn.init.xavier_uniform_(vit.patch_embed.proj.weight.view(vit.embed_dim, -1))  # a linear layer by convolution
    tokens = {"cls_token": vit.cls_token, "reg_token": vit.reg_token}
    for token in (model.mask_token, *(token for name, token in tokens.items() if is_new(name))):
        if token is not None:
            nn.init.normal_(token, std=_TOKEN_STD)


@torch.no_grad()
def _fix_positions(vit: Any) -> None:
    """Give a ViT position embeddings of sines and cosines, zeros for its prefix tokens, and train them no more."""
    positions = build_sincos2d_pos_embed(list(vit.patch_embed.grid_size), vit.embed_dim)
    vit.pos_embed.zero_()
    vit.pos_embed[0, -len(positions) :] = positions
    vit.pos_embed.requires_grad_(False)


def _check_encoder(encoder: Any, name: str) -> None:
    """Raises UsageError, with the reason, for an encoder that cannot leave out patches, or has what is not trained."""
    reason = ""
    if type(encoder) is not VisionTransformer:
        reason = "is no plain ViT of timm's, whose patches can be left out"
    elif encoder.pos_embed is None or encoder.dynamic_img_size:
        reason = "has no position embeddings, or resizes them for each image"
    elif getattr(encoder, "attn_pool", None) is not None:
        reason = "pools by attention, which masked autoencoding does not train"
    elif not isinstance(encoder.patch_drop, nn.Identity):
        reason = "drops patches by itself; leave patch_drop_rate out"
    elif encoder.embed_dim % 4:
        reason = f"is {encoder.embed_dim} wide, no multiple of 4, which sinusoidal position embeddings need"
    if reason:
        raise UsageError(f"model {name}: {reason}; use a plain ViT such as {DEFAULT_MODEL}")
