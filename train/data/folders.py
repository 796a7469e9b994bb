"""Examples over image files: folders of classes, tables, data sets that Hugging Face datasets saved."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fracgen.shards.errors import BadImageError
from fracgen.shards.images import decode_picture
from fracgen.shards.labels.labelled_images import LabelledImages
from fracgen.train.data.examples import Examples, Indices, Pixels
from fracgen.train.data.skipped import BadSampleError, SkippedDataWarning


@dataclass(frozen=True)
class FilesStore:
    """Encoded image files."""

    images: LabelledImages

    def load(self, number: int, min_size: int) -> tuple[Image.Image | Pixels, int]:
        """(picture, label). Raises BadSampleError with exit code 2: the file is the user's to mend, or to skip."""
        name = self.describe(number)
        try:
            data = self.images.read(number)
        except OSError as error:
            raise BadSampleError(f"{name}: cannot be read ({error.strerror})", "file", usage=True) from None
        try:
            return decode_picture(data, min_size=min_size), self.images.label(number)
        except BadImageError as error:
            raise BadSampleError(f"{name}: {error}", "image", usage=True) from error

    def labels(self) -> Indices:
        """The position of each image's class, int64."""
        return self.images.labels

    def describe(self, number: int) -> str:
        """The path of an image, or the row that holds it."""
        return self.images.describe(number)

    def name(self, number: int) -> str:
        """The path of an image below the folder, or the row."""
        return self.images.name(number)


def examples_of(images: LabelledImages, name: str) -> Examples:
    """The images of a folder of classes, a table or a saved set, in their order. name: for messages.

    What was passed over is a warning.
    """
    for line in images.passed_over():
        warnings.warn(f"{images.root}: {line}", SkippedDataWarning, stacklevel=2)
    return Examples(name, images.class_names, images.sha256, FilesStore(images), np.arange(len(images)))


def open_folder(folder: Path) -> Examples:
    """The images of a folder of classes, class by class in the order of their names.

    Raises UsageError for a folder without classes, a class without images, and what else `list_images` refuses.
    """
    from fracgen.shards.labels.imagefolder import list_images

    return examples_of(list_images(folder), str(folder))
