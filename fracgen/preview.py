"""Contact sheets: rows of captioned images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from shards.codec import encode_png
from shards.sample import Image

TILE = 192
_GAP, _CAPTION, _TEXT_SIZE = 6, 16, 11
_BACKGROUND, _INK = (245, 245, 245), (20, 20, 20)


def contact_sheet(rows: Sequence[Sequence[tuple[str, Image]]], tile: int = TILE) -> bytes:
    """PNG bytes of a sheet of rows of (caption, image), each image reduced to `tile` pixels and captioned below."""
    width = max(len(row) for row in rows) * (tile + _GAP) + _GAP
    height = len(rows) * (tile + _CAPTION + _GAP) + _GAP
    sheet = PillowImage.new("RGB", (width, height), _BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_SIZE)
    for row_number, row in enumerate(rows):
        for column, (caption, image) in enumerate(row):
            left, top = _GAP + column * (tile + _GAP), _GAP + row_number * (tile + _CAPTION + _GAP)
            picture = PillowImage.fromarray(image).convert("RGB")
            sheet.paste(picture.resize((tile, tile), PillowImage.Resampling.BOX), (left, top))
            pen.text((left, top + tile + 2), caption, fill=_INK, font=font)
    return encode_png(np.asarray(sheet))
