"""Examples over folders of classes: FOLDER/<class>/*.jpg, as `fracgen.shards.imagefolder` lists them."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fracgen.shards.errors import BadImageError
from fracgen.shards.imagefolder import ImageFolder, list_images
from fracgen.shards.images import decode_picture
from fracgen.train.data.examples import Examples, Indices, Pixels
from fracgen.train.data.skipped import BadSampleError, SkippedDataWarning


@dataclass(frozen=True)
class FolderStore:
    """Image files in class folders."""

    folder: ImageFolder

    def load(self, number: int, min_size: int) -> tuple[Image.Image | Pixels, int]:
        """(picture, label). Raises BadSampleError with exit code 2: the file is the user's to mend, or to skip."""
        path = self.describe(number)
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise BadSampleError(f"{path}: cannot be read ({error.strerror})", "file", usage=True) from None
        try:
            return decode_picture(data, min_size=min_size), self.folder.label(number)
        except BadImageError as error:
            raise BadSampleError(f"{path}: {error}", "image", usage=True) from error

    def labels(self) -> Indices:
        """The position of each image's class, int64."""
        return self.folder.labels

    def describe(self, number: int) -> str:
        """The path of an image."""
        return str(self.folder.root / self.folder.name(number))


def open_folder(folder: Path) -> Examples:
    """The images of a folder of classes, class by class in the order of their names.

    Raises UsageError for a folder without classes, a class without images, and what else `list_images` refuses.
    """
    images = list_images(folder)
    for line in images.passed_over():
        warnings.warn(f"{folder}: {line}", SkippedDataWarning, stacklevel=2)
    return Examples(str(folder), images.class_names, images.sha256, FolderStore(images), np.arange(len(images)))
