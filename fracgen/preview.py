"""Contact sheets: columns of captioned images."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from fracgen.shards.codec import decode_original, encode_png
from fracgen.shards.reader import RawSample, ShardFolder, read_tar
from fracgen.shards.sample import Image

TILE = 192
_PACKED_CLASSES, _PACKED_IMAGES, _PACKED_READ = 6, 4, 20_000
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


def packed_columns(shards: ShardFolder) -> Iterator[list[tuple[str, Image]]]:
    """Columns of a packed folder: some classes, and of each the first images in the shards, their central squares."""
    manifest = shards.manifest
    wanted = np.unique(np.linspace(0, manifest.num_classes - 1, _PACKED_CLASSES, dtype=int)).tolist()
    found: dict[int, list[RawSample]] = {label: [] for label in wanted}
    tars = (read_tar(shards.folder / shard.name, manifest.image.extension) for shard in manifest.shards)
    for raw in itertools.islice(itertools.chain.from_iterable(tars), _PACKED_READ):
        if len(found.get(raw.label, [None] * _PACKED_IMAGES)) < _PACKED_IMAGES:
            found[raw.label].append(raw)
        if all(len(column) == _PACKED_IMAGES for column in found.values()):
            break
    for label, column in found.items():
        if column:
            images = [_square(decode_original(raw.image_bytes, manifest.image.mode)) for raw in column]
            yield [(f"{label} {manifest.class_names[label]}", image) for image in images]


def _square(image: Image) -> Image:
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def _reduce(image: Image, tile: int) -> PillowImage.Image:
    return PillowImage.fromarray(image).convert("RGB").resize((tile, tile), PillowImage.Resampling.BOX)
