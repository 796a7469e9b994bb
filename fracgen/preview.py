"""Contact sheets: columns of captioned pictures under a heading."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from fracgen.recipe import Column, Difference, Recipe
from fracgen.shards.images import decode_picture
from fracgen.shards.manifest import Manifest
from fracgen.shards.png import encode_png
from fracgen.shards.reader import EncodedSample, ShardFolder
from fracgen.shards.sample import Image

TILE = 192
_PACKED_CLASSES, _PACKED_IMAGES, _PACKED_READ = 6, 4, 20_000
_GAP, _CAPTION, _TEXT_SIZE, _HEADING = 6, 16, 11, 20
_PAPER, _INK = (245, 245, 245), (20, 20, 20)

_NEITHER, _IMAGE, _BASE, _BOTH = (38, 38, 38), (255, 150, 30), (70, 190, 255), (150, 150, 150)
"""Colours of a difference, by where a pixel is lit. Orange and sky blue: told apart with any colour vision."""


@dataclass(frozen=True)
class DifferenceStyle:
    """How a sheet shows differences: as pixels (H, W, 3), and with which caption."""

    pixels: Callable[[Difference], Image]
    caption: Callable[[Difference], str]


def recipe_sheet(recipe: Recipe, tile: int = TILE, *, fracgen_version: str = "") -> bytes:
    """PNG bytes of the sheet of a resolved recipe; as an older fracgen drew it, where its version is given."""
    if fracgen_version.startswith("0.2."):
        return contact_sheet(recipe.preview(), tile, style=STYLE_0_2)
    return contact_sheet(recipe.preview(), tile, heading=recipe.heading)


def packed_sheet(shards: ShardFolder, tile: int = TILE) -> bytes:
    """PNG bytes of the sheet of a packed folder."""
    return contact_sheet(packed_columns(shards), tile, heading=_packed_heading(shards.manifest))


def _pixels(difference: Difference) -> Image:
    lit, base_lit = _levels(difference)
    picture = PillowImage.fromarray((lit > 0) + 2 * (base_lit > 0).astype(np.uint8)).convert("P")
    picture.putpalette([*_NEITHER, *_IMAGE, *_BASE, *_BOTH])
    return np.asarray(picture.convert("RGB"))


def _caption(difference: Difference) -> str:
    return " against ".join(name for name in difference.names if name)


def _pixels_0_2(difference: Difference) -> Image:
    lit, base_lit = _levels(difference)
    both = np.minimum(lit, base_lit) // 2
    red, blue = np.where(lit > base_lit, 255, both), np.where(base_lit > lit, 255, both)
    return np.stack([red, both, blue], -1).astype(np.uint8)


def _caption_0_2(difference: Difference) -> str:
    colors = zip(("red", "blue"), difference.names, strict=True)
    return ", ".join(f"{color}: {name}" for color, name in colors if name)


def _levels(difference: Difference) -> list[Image]:
    pictures = (difference.image, difference.base)
    return [picture if picture.ndim == 2 else picture.max(axis=2) for picture in pictures]


STYLE = DifferenceStyle(_pixels, _caption)
STYLE_0_2 = DifferenceStyle(_pixels_0_2, _caption_0_2)
"""Folders that fracgen 0.2 began end as 0.2 ends them: the manifest has the sha256 of `preview.png`."""


def contact_sheet(
    columns: Iterable[Column], tile: int = TILE, *, heading: str = "", style: DifferenceStyle = STYLE
) -> bytes:
    """PNG bytes of a sheet of columns, each picture reduced to `tile` pixels and captioned below.

    heading: a line above them, followed by what the colours of differences mean. One column of full-size images is
    held at a time.
    """
    names: tuple[str, str] | None = None
    reduced: list[list[tuple[str, PillowImage.Image]]] = []
    for column in columns:
        reduced.append([])
        for caption, picture in column:
            if isinstance(picture, Difference):
                names = picture.names
                reduced[-1].append((caption or style.caption(picture), _reduce(style.pixels(picture), tile)))
            else:
                reduced[-1].append((caption, _reduce(picture, tile)))
    width, height = tile + _GAP, tile + _CAPTION + _GAP
    rows, top = max(map(len, reduced)), _HEADING if heading else 0
    sheet_width = max(len(reduced) * width + _GAP, _heading_width(heading, names) if heading else 0)
    sheet = PillowImage.new("RGB", (sheet_width, top + rows * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_SIZE)
    if heading:
        _write_heading(pen, heading, names)
    for column_number, tiles in enumerate(reduced):
        for row_number, (caption, reduced_picture) in enumerate(tiles):
            left, upper = _GAP + column_number * width, top + _GAP + row_number * height
            sheet.paste(reduced_picture, (left, upper))
            pen.text((left, upper + tile + 2), caption, fill=_INK, font=font)
    return encode_png(np.asarray(sheet))


def _write_heading(pen: ImageDraw.ImageDraw, heading: str, names: tuple[str, str] | None) -> None:
    """Write the heading and what the colours mean. names: of the two images of a difference, if the sheet has one."""
    font, x = ImageFont.load_default(_TEXT_SIZE + 2), float(_GAP)
    pen.text((x, 4), heading, fill=_INK, font=font)
    x += font.getlength(heading) + 5 * _GAP
    for text, color in _legend(*names) if names else []:
        pen.rectangle((x, 7, x + 10, 17), fill=color)
        pen.text((x + 15, 4), text, fill=_INK, font=font)
        x += 15 + font.getlength(text) + 3 * _GAP


def _heading_width(heading: str, names: tuple[str, str] | None) -> int:
    """Pixels that the heading takes, and what the colours mean."""
    font = ImageFont.load_default(_TEXT_SIZE + 2)
    legend = sum(15 + font.getlength(text) + 3 * _GAP for text, _ in _legend(*names)) if names else 0
    return math.ceil(_GAP + font.getlength(heading) + (5 * _GAP if names else _GAP) + legend)


def _legend(image_name: str, base_name: str) -> list[tuple[str, tuple[int, int, int]]]:
    kind = image_name.split()[0]  # "class 17" is one of the classes
    return [(f"only in the {kind}", _IMAGE), (f"only in the {base_name}", _BASE), ("in both", _BOTH)]


def packed_columns(shards: ShardFolder) -> Iterator[Column]:
    """Columns of a packed folder: some classes, and of each the first images in the shards, their central squares.

    Of so many classes that none of these is among the images that are looked at: the first images.
    """
    manifest = shards.manifest
    labels = np.unique(np.linspace(0, manifest.num_classes - 1, _PACKED_CLASSES, dtype=int)).tolist()
    samples: dict[int, list[EncodedSample]] = {label: [] for label in labels}
    tars, first = map(shards.read_encoded_shard, range(len(manifest.shards))), list[EncodedSample]()
    for raw in itertools.islice(itertools.chain.from_iterable(tars), _PACKED_READ):
        first += [raw] if len(first) < _PACKED_CLASSES else []
        if len(samples.get(raw.label, [None] * _PACKED_IMAGES)) < _PACKED_IMAGES:
            samples[raw.label].append(raw)
        if all(len(column) == _PACKED_IMAGES for column in samples.values()):
            break
    for column in list(filter(None, samples.values())) or [[raw] for raw in first]:
        pictures = [decode_picture(raw.image_bytes).convert(manifest.image.mode) for raw in column]
        images, label = [_square(np.asarray(picture)) for picture in pictures], column[0].label
        yield [(f"{label} {manifest.class_names[label]}", image) for image in images]


def _packed_heading(manifest: Manifest) -> str:
    return (
        f"{manifest.layout.name} {manifest.layout.split}, {manifest.num_samples} images, {manifest.num_classes} classes"
    )


def _square(image: Image) -> Image:
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def _reduce(image: Image, tile: int) -> PillowImage.Image:
    return PillowImage.fromarray(image).resize((tile, tile), PillowImage.Resampling.BOX).convert("RGB")
