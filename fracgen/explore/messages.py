"""What the page asks, as checked settings, and the form of replies: JSON, and images as raw pixels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import numpy as np

from fracgen.explore.limits import MAX_IMAGES
from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Image
from fracgen.shards.settings import Setting, check_settings, from_plain


@dataclass(frozen=True, kw_only=True)
class Request:
    """What any request may say: whose it is, of which kind, and its number among those. Without a channel it counts."""

    client: str = ""
    channel: str = ""
    turn: Annotated[int, Setting("", at_least=0, at_most=2**53)] = 0

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_settings(self)
        if len(self.client) + len(self.channel) > 200:
            raise UsageError("client and channel: at most 200 letters together")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """A request from the JSON that a page sends. Raises UsageError where it is none, or a key is unknown."""
        try:
            values = json.loads(body or b"{}", parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not JSON ({error})") from None
        return from_plain(cls, values)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number here")


@dataclass(frozen=True, kw_only=True)
class ResolveRequest(Request):
    """Resolve a recipe; step: to the next base fractal (1) or the one before (-1), counted from number `base`.

    base without a step, and without an ifs in the recipe: the base of that number, as sigma changes.
    draft: that base, or the first that fills an image, without its perturbations, which a slider does not wait for; of
    several bases, those of the numbers `bases`.
    """

    recipe: Mapping[str, Any]
    step: Annotated[int, Setting("", at_least=-1, at_most=1)] = 0
    base: Annotated[int | None, Setting("", at_least=0, at_most=10**9)] = None
    draft: bool = False
    bases: Annotated[tuple[int, ...], Setting("", at_least=0, at_most=10**9)] = ()


@dataclass(frozen=True, kw_only=True)
class ImagesRequest(Request):
    """Draw images; index -1: the base, in the masks of class mask_index. with_base: it follows each image, likewise."""

    recipe: Mapping[str, Any]
    indices: Annotated[tuple[int, ...], Setting("", at_least=-1, at_most=2**53)]
    mask_index: Annotated[int, Setting("", at_least=0, at_most=2**53)] = 0
    with_base: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        check_count(len(self.indices))


@dataclass(frozen=True, kw_only=True)
class SweepRequest(Request):
    """Draw one image for each combination of the values of one field or two."""

    recipe: Mapping[str, Any]
    sweep: Mapping[str, Any]
    index: Annotated[int, Setting("", at_least=0, at_most=2**53)] = 0
    base: Annotated[int | None, Setting("", at_least=0, at_most=10**9)] = None


@dataclass(frozen=True, kw_only=True)
class AugmentRequest(Request):
    """Draw images as a network sees them: of a recipe, or, by number, of the folder where there is no recipe."""

    recipe: Mapping[str, Any] | None = None
    indices: Annotated[tuple[int, ...], Setting("", at_least=0, at_most=2**53)] = (0,)
    draws: Annotated[int, Setting("", at_least=1, at_most=16)] = 4
    seed: Annotated[int, Setting("", at_least=0, at_most=2**53)] = 0
    augment: Mapping[str, Any] = field(default_factory=dict)
    mix: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        check_count(len(self.indices))
        check_count(len(self.indices) * self.draws)


@dataclass(frozen=True, kw_only=True)
class RenderRequest(Request):
    """Render the set of a recipe."""

    recipe: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FolderRequest(Request):
    """List samples of the folder, all or those of a label, from `offset` on."""

    offset: Annotated[int, Setting("", at_least=0, at_most=2**53)] = 0
    count: Annotated[int, Setting("", at_least=0, at_most=256)] = 16
    label: Annotated[int | None, Setting("", at_least=0, at_most=2**53)] = None


@dataclass(frozen=True, kw_only=True)
class FolderImagesRequest(Request):
    """Read images of the folder by number; size: pixels of the longer side at most, 0: as they are."""

    numbers: Annotated[tuple[int, ...], Setting("", at_least=0, at_most=2**53)]
    size: Annotated[int, Setting("", at_least=0, at_most=2048)] = 256

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        check_count(len(self.numbers))


@dataclass(frozen=True, kw_only=True)
class InputRequest(Request):
    """The file of this name that a recipe needs beside it."""

    name: str


def check_count(images: int) -> None:
    """Raises UsageError where there are no images, or more than one reply holds."""
    if not 1 <= images <= MAX_IMAGES:
        raise UsageError(f"{images} images: must be 1 to {MAX_IMAGES} at a time")


@dataclass(frozen=True)
class Picture:
    """One image of a reply: its pixels, uint8 (H, W) or (H, W, 3), and what is said of it, JSON-able."""

    image: Image
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """A reply's body and its media type."""

    body: bytes
    media_type: str = "application/json"

    @classmethod
    def of_json(cls, values: Any) -> Self:
        """A reply of JSON."""
        return cls(json.dumps(values, allow_nan=False).encode())

    @classmethod
    def of_pictures(cls, pictures: Sequence[Picture]) -> Self:
        """A reply of images of one shape: length of the JSON in 4 bytes, little-endian, the JSON, the pixels."""
        height, width, *channels = pictures[0].image.shape
        head = {
            "width": width,
            "height": height,
            "channels": channels[0] if channels else 1,
            "images": [picture.values for picture in pictures],
        }
        text = json.dumps(head, allow_nan=False).encode()
        pixels = [np.ascontiguousarray(picture.image).data.cast("B") for picture in pictures]
        return cls(b"".join([len(text).to_bytes(4, "little"), text, *pixels]), "application/octet-stream")
