"""Settings of masked autoencoding, with the defaults of He et al., CVPR 2022."""

from dataclasses import dataclass
from typing import Annotated

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting, check_settings
from fracgen.train.engine.settings import Run


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What is hidden, and what is to be predicted."""

    ratio: Annotated[
        float,
        Setting(
            "Share of the patches that are hidden from the encoder.",
            above=0,
            below=1,
            option="--mask-ratio",
            panel="Training",
        ),
    ] = 0.75
    norm_pix: Annotated[
        bool,
        Setting(
            "Predict the pixels of a patch less their mean, by their standard deviation.",
            option="--norm-pix",
            panel="Training",
        ),
    ] = True

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The transformer that predicts the hidden patches, and is thrown away in the end."""

    width: Annotated[
        int, Setting("Width of the decoder; a multiple of 4 and of decoder.heads.", at_least=4, at_most=1 << 16)
    ] = 512
    depth: Annotated[int, Setting("Number of blocks of the decoder.", at_least=1, at_most=1000)] = 8
    heads: Annotated[int, Setting("Number of attention heads of the decoder.", at_least=1, at_most=1 << 16)] = 16

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range, and for a width that does not go with the heads."""
        check_settings(self)
        if self.width % 4 or self.width % self.heads:
            raise UsageError(
                f"decoder.width {self.width}: must be a multiple of 4, for its position embeddings, and of "
                f"decoder.heads, {self.heads}"
            )


@dataclass(frozen=True, kw_only=True)
class MaskedRun(Run):
    """A run that also draws what the model makes of some images."""

    draw_every: Annotated[
        int, Setting("Steps between two pictures of reconstructions; 0: at the end.", at_least=0, identity=False)
    ] = 5000
    draw_images: Annotated[
        int, Setting("Images in that picture; 0: no picture.", at_least=0, at_most=64, identity=False)
    ] = 8
