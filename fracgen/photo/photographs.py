"""Photographs: any image file that Pillow opens, as 8-bit gray or RGB; and the file in which a data set keeps them."""

import io
import math
import stat
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageCms, ImageOps

from fracgen.assets import Stored
from fracgen.shards.errors import BadImageError, DataError, UsageError
from fracgen.shards.images import is_gray, open_picture, to_gray_or_rgb
from fracgen.shards.manifest import PixelHash
from fracgen.shards.png import decode_png, encode_png
from fracgen.shards.sample import Image

MAX_PHOTOGRAPHS = 1000
MAX_SIDE = 2048
"""Longer side, in pixels, to which greater photographs are reduced."""
MAX_PIXELS = 178_956_970
"""Of a file, before it is reduced: where Pillow itself speaks of a decompression bomb."""
MAX_BYTES = 1 << 31
"""Of the pixels of all photographs together, a byte each, or three in colour."""
_MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Photographs(Stored):
    """The pixels of photographs: uint8 (H, W) gray or (H, W, 3) RGB each, as they are seen.

    As content of a data set they lie in one file, `photographs.zip`, a PNG each. Not the files that were given are
    kept but their pixels, decoded, turned upright and reduced: decoders of JPEG differ in the last bit, and neither a
    name, nor a place, nor a camera's number that EXIF may hold, belongs into a data set. The hash is of the pixels,
    not of the PNGs, whose bytes follow the version of the deflate library.
    """

    FILE: ClassVar[str] = "photographs.zip"
    CONTENT: ClassVar[str] = "the photographs themselves, without names or EXIF; whoever gets this folder gets them"
    OPTION: ClassVar[str] = "`fracgen photo IMAGE` takes photographs"

    images: tuple[Image, ...]

    def __post_init__(self) -> None:
        """Raises UsageError where there are none or too many, or an array is no image."""
        if not 1 <= len(self.images) <= MAX_PHOTOGRAPHS:
            raise UsageError(f"{len(self.images)} photographs; there must be 1 to {MAX_PHOTOGRAPHS}")
        arrays = []
        for number, image in enumerate(self.images):
            pixels = np.array(image)
            if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2 or not pixels.size:
                raise UsageError(f"photograph {number}: {pixels.dtype} {pixels.shape}; uint8 (H, W) or (H, W, 3)")
            pixels.flags.writeable = False
            arrays.append(pixels)
        object.__setattr__(self, "images", tuple(arrays))
        _check_total(sum(pixels.size for pixels in arrays))

    def __len__(self) -> int:
        return len(self.images)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Photographs) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the pixels and shapes (hex), as `PixelHash` takes them."""
        pixels = PixelHash()
        for number, image in enumerate(self.images):
            pixels.update(PixelHash.digest(image, number))
        return pixels.hexdigest()

    def to_bytes(self) -> bytes:
        """The file: PNGs 0.png, 1.png ... in a zip, stored as they are; nothing in it tells a time or a machine."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for number, image in enumerate(self.images):
                member = zipfile.ZipInfo(f"{number}.png")  # its time is 1980, the first that zip knows
                member.create_system = 3
                archive.writestr(member, encode_png(image))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises UsageError where it is something else."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = archive.infolist()
                if [member.filename for member in members] != [f"{number}.png" for number in range(len(members))]:
                    raise ValueError("other members than 0.png, 1.png ...")
                if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                    raise ValueError("members that are compressed")
                if len(members) > MAX_PHOTOGRAPHS:
                    raise ValueError(f"{len(members)} photographs")
                if sum(member.file_size for member in members) > len(data):
                    raise ValueError("members that lie over each other")
                files = [archive.read(member) for member in members]
                _check_total(sum(map(_num_bytes, files)))
                return cls(tuple(decode_png(file) for file in files))
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, DataError) as error:
            raise UsageError(f"{cls.FILE}: damaged ({error})") from None


def _check_total(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise UsageError(
            f"{num_bytes / 2**30:.1f} GiB of pixels in all photographs together; must be at most "
            f"{MAX_BYTES / 2**30:g}: give fewer, or lower --max-side"
        )


def _num_bytes(png: bytes) -> int:
    """Of the pixels in a PNG, decoded, by its header."""
    with open_picture(png, ("PNG",)) as picture:
        return picture.width * picture.height * (1 if is_gray(picture.mode) else 3)


def load_photographs(
    paths: Path | str | Sequence[Path | str], *, max_side: int = MAX_SIDE
) -> tuple[Photographs, list[str]]:
    """The photographs in one file or several, and what a user should know of how they were read, a line each.

    max_side: pixels of the longer side; greater ones are reduced to it (Lanczos).
    Raises UsageError with the file: no image, truncated, empty, or greater than MAX_PIXELS.
    """
    if max_side < 8:
        raise UsageError(f"max-side {max_side}: must be at least 8 pixels")
    loaded, num_bytes = [], 0
    for path in [paths] if isinstance(paths, Path | str) else paths:
        loaded.append(_load(Path(path), max_side))
        _check_total(num_bytes := num_bytes + loaded[-1][0].size)
    return Photographs(tuple(image for image, _ in loaded)), [note for _, notes in loaded for note in notes]


def _load(path: Path, max_side: int) -> tuple[Image, list[str]]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'no plain file'}; name an image file")
        if not status.st_size:
            raise UsageError(f"{path}: an empty file; name an image file")
        if status.st_size > _MAX_FILE_BYTES:
            raise UsageError(f"{path}: {status.st_size} bytes; must be at most {_MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on large or odd files: what matters is said here
            picture, notes = _decode(data, max_side)
    except (BadImageError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from error
    return np.asarray(picture), [f"{path}: {note}" for note in notes]


def _decode(data: bytes, max_side: int) -> tuple[PillowImage.Image, list[str]]:
    """The picture in a file, of mode L or RGB, upright; and what was done to it that is worth a word."""
    notes = []
    with open_picture(data, formats=None) as picture:
        width, height = picture.size
        if not width or not height:
            raise UsageError(f"{width} x {height} pixels; there is nothing in it")
        if width * height > MAX_PIXELS:
            raise UsageError(f"{width} x {height} pixels; must be at most {MAX_PIXELS} (a decompression bomb?)")
        if getattr(picture, "n_frames", 1) > 1:
            notes.append("holds several pictures; the first is taken")
        picture.draft(None, (max_side, max_side))  # JPEG unpacks to half or a quarter for less, where that is enough
        picture.load()
        try:
            upright = ImageOps.exif_transpose(picture)
        except Exception:  # of the pixels nothing is wrong; which errors there are depends on what is broken
            upright = picture
            notes.append("its EXIF is broken, so it is taken as it lies, not turned upright")
        if upright.mode.startswith("I") or upright.mode == "F":
            upright, stretched = _stretch(np.asarray(upright), picture.info.get("transparency"))
            notes.append(stretched)
        else:
            upright = _lab_to_rgb(upright) if upright.mode == "LAB" else to_gray_or_rgb(upright)
    if max(width, height) > max_side:
        scale = max_side / max(upright.size)
        size = [max(1, round(side * scale)) for side in upright.size]
        upright = upright.resize((size[0], size[1]), PillowImage.Resampling.LANCZOS)
        notes.append(f"{width} x {height} pixels, reduced to {size[0]} x {size[1]}; --max-side keeps more")
    return upright, notes


def _stretch(levels: np.ndarray, transparent: object) -> tuple[PillowImage.Image, str]:
    """Levels of more than 8 bits, or of floats, as 256: whatever is white in them is not known, so the brightest is.

    transparent: a level that is black and has no say, if it is a number.
    """
    values = levels.astype(np.float64)
    if isinstance(transparent, int):
        values[levels == transparent] = np.nan
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    span = high - low
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    gray = (values / 2 - low / 2) / (span / 2) * 255 if 0 < span < math.inf else np.zeros_like(values)
    picture = PillowImage.fromarray(np.rint(gray).astype(np.uint8))
    return picture, f"its levels {low:g} to {high:g} are stretched to 0 to 255"


def _lab_to_rgb(picture: PillowImage.Image) -> PillowImage.Image:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, lab, rgb, outputMode="RGB")
    assert converted is not None
    return converted
