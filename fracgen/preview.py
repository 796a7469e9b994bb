"""Contact sheets: columns of captioned images."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from shards.codec import encode_png
from shards.sample import Image

TILE = 192
_GAP, _CAPTION, _TEXT_SIZE = 6, 16, 11
_BACKGROUND, _INK = (245, 245, 245), (20, 20, 20)


def contact_sheet(columns: Iterable[Sequence[tuple[str, Image]]], tile: int = TILE) -> bytes:
    """PNG bytes of a sheet of columns of (caption, image), each image reduced to `tile` pixels and captioned below.

    One column of full-size images is held at a time.
    """
    reduced = [[(caption, _reduce(image, tile)) for caption, image in column] for column in columns]
    width, height = tile + _GAP, tile + _CAPTION + _GAP
    rows = max(len(column) for column in reduced)
    sheet = PillowImage.new("RGB", (len(reduced) * width + _GAP, rows * height + _GAP), _BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_SIZE)
    for column_number, column in enumerate(reduced):
        for row_number, (caption, picture) in enumerate(column):
            left, top = _GAP + column_number * width, _GAP + row_number * height
            sheet.paste(picture, (left, top))
            pen.text((left, top + tile + 2), caption, fill=_INK, font=font)
    return encode_png(np.asarray(sheet))


def _reduce(image: Image, tile: int) -> PillowImage.Image:
    return PillowImage.fromarray(image).convert("RGB").resize((tile, tile), PillowImage.Resampling.BOX)
