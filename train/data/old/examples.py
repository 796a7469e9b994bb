"""Labelled pictures at random access: folders of classes, and tars by the places of their members."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.png import decode_png
from fracgen.train.data.old.pictures import read_picture
from fracgen.train.data.old.samples import Skipped, SkippedDataWarning, label_of
from fracgen.train.data.old.source import EXTENSIONS, Progress, Source, open_source
from fracgen.train.data.old.tars import BadSampleError, RawSample, Span, index_samples

Indices = npt.NDArray[np.int64]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Of the image files that are read, in any case."""
_OTHERS = (".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".heic")
"""Of images that are not read, which is said."""


class Pictures(Protocol):
    """Where pictures lie. It is read by many threads at once, and pickled or forked to workers."""

    def open(self, place: int, about: int) -> Image.Image:
        """Picture number `place`, in mode L where it is gray, else RGB. about: as `read_picture` takes it."""

    def label(self, place: int) -> str:
        """Its name, for messages."""


@dataclass(frozen=True)
class Examples:
    """One split of a labelled set, at random access.

    name: for messages. class_names: by label. labels: (N,) int64, each 0 to len(class_names) - 1.
    fingerprint: sha256 (hex) of what tells content and order without reading any picture: names, sizes, labels.
    pictures: where they lie. places: (N,) int64, which of those these are.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Indices
    fingerprint: str
    pictures: Pictures
    places: Indices

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, number: int) -> Image.Image:
        """Picture `number`, decoded, RGB: gray repeated, alpha over black. Any thread or process may ask.

        Raises BadSampleError, naming the file, where it cannot be decoded.
        """
        return self.open(number).convert("RGB")

    def open(self, number: int, *, about: int = 0) -> Image.Image:
        """As `picture`, in mode L where it is gray. about: where above 0, it may be smaller, no less than this.

        A picture that cannot be decoded is the user's to mend, or to skip: exit code 2.
        """
        try:
            return self.pictures.open(int(self.places[number]), about)
        except BadSampleError as error:
            error.exit_code = UsageError.exit_code
            raise

    def where(self, number: int) -> str:
        """The name of picture `number`, for messages."""
        return self.pictures.label(int(self.places[number]))

    def take(self, numbers: npt.ArrayLike) -> "Examples":
        """These alone, in this order. numbers: (n,) of whole numbers, 0 to N - 1."""
        chosen = np.asarray(numbers, np.int64)
        told = hashlib.sha256(self.fingerprint.encode() + chosen.astype("<i8").tobytes()).hexdigest()
        return replace(self, labels=self.labels[chosen], places=self.places[chosen], fingerprint=told)


def make(name: str, class_names: Sequence[str], labels: Indices, fingerprint: str, pictures: Pictures) -> Examples:
    """Examples of all pictures."""
    return Examples(name, tuple(class_names), labels, fingerprint, pictures, np.arange(len(labels)))


@dataclass(frozen=True)
class _Files:
    """Image files of a folder. names: (N,) bytes, relative; as one array they cost forked workers no copy."""

    folder: str
    names: npt.NDArray[np.bytes_]

    def open(self, place: int, about: int) -> Image.Image:
        path = self.label(place)
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise BadSampleError(f"{path}: cannot be read ({error.strerror})", "file") from None
        return read_picture(data, path, about=about)

    def label(self, place: int) -> str:
        return str(Path(self.folder, os.fsdecode(bytes(self.names[place]))))


def open_folder(folder: Path) -> Examples:
    """The images of FOLDER/<class>/, those in folders within too; hidden files and folders are left out.

    Classes are numbered in the order of their names, and images stand in that of theirs.
    Raises UsageError for a folder without classes, or a class without images.
    """
    try:
        classes = sorted(entry.name for entry in os.scandir(folder) if _shown(entry) and entry.is_dir())
        if not classes:
            raise UsageError(f"{folder}: no class folders in it; its images are to lie in {folder}/<class>/")
        names, sizes, labels, others = list[bytes](), list[int](), list[int](), list[str]()
        for label, name in enumerate(classes):
            found = sorted(_files(str(folder / name), name))
            files = [file for file in found if file[0].lower().endswith(SUFFIXES)]
            others += [path for path, _ in found if path.lower().endswith(_OTHERS)]
            if not files:
                raise UsageError(f"{folder / name}: class without images ({', '.join(SUFFIXES)})")
            names += [os.fsencode(path) for path, _ in files]
            sizes += [size for _, size in files]
            labels += [label] * len(files)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: cannot be read ({error.strerror})") from error
    if others:
        message = f"{folder}: left out: {len(others)} images of formats that are not read, as {others[0]}; convert them"
        warnings.warn(message, SkippedDataWarning, stacklevel=2)
    hashed = hashlib.sha256(repr(classes).encode("utf-8", "surrogateescape"))
    hashed.update(b"\0".join(names))
    hashed.update(np.array(sizes, "<i8").tobytes())
    files_of = _Files(str(folder), np.array(names))
    return make(str(folder), classes, np.array(labels, np.int64), hashed.hexdigest(), files_of)


def _shown(entry: "os.DirEntry[str]") -> bool:
    return not entry.name.startswith(".")


def _files(folder: str, prefix: str, above: tuple[int, ...] = ()) -> Iterator[tuple[str, int]]:
    """(name from the folder of classes on, size) of each file that is an image by its name.

    A link to a folder above is not followed again.
    """
    above = (*above, Path(folder).stat().st_ino)
    for entry in os.scandir(folder):
        if not _shown(entry):
            continue
        if entry.is_dir():
            if entry.stat().st_ino not in above:
                yield from _files(entry.path, f"{prefix}/{entry.name}", above)
        elif entry.name.lower().endswith(SUFFIXES + _OTHERS):
            there = entry.is_file()  # else a link to nothing: an error when it is read, not an image less
            yield f"{prefix}/{entry.name}", entry.stat().st_size if there else -1


@dataclass(frozen=True)
class _Members:
    """Members of tars. tar: (N,) which one; start, size: (N,) of its image, in bytes; keys: (N,) bytes."""

    tars: tuple[str, ...]
    tar: npt.NDArray[np.int32]
    start: Indices
    size: Indices
    keys: npt.NDArray[np.bytes_]
    png_bits: int

    def open(self, place: int, about: int) -> Image.Image:
        where, size = self.label(place), int(self.size[place])
        try:
            file = os.open(self.tars[self.tar[place]], os.O_RDONLY)  # opened each time: 10 us, and nothing to share
            try:
                data = os.pread(file, size, int(self.start[place]))
            finally:
                os.close(file)
        except OSError as error:
            raise BadSampleError(f"{where}: cannot be read ({error.strerror})", "tar") from None
        if len(data) < size:
            raise BadSampleError(f"{where}: its tar ends within it", "tar")
        if self.png_bits == 8:
            return read_picture(data, where, about=about)
        try:
            return Image.fromarray(decode_png(data, self.png_bits))
        except DataError as error:
            raise BadSampleError(f"{where}: image {error}", "image") from error

    def label(self, place: int) -> str:
        return f"{Path(self.tars[self.tar[place]]).name}: sample {os.fsdecode(bytes(self.keys[place]))}"


def open_tars(
    shards: str, *, num_classes: int = 0, skip_bad: bool = False, skipped: Skipped, progress: Progress | None = None
) -> Examples:
    """A folder of ours or a pattern of tars, as `open_source` reads them; classes without names are numbered.

    The headers are walked once more, to note where the images lie, and the labels read. skipped: takes what has no
    image, no label or another than the classes have, and tars that are not whole, where `skip_bad` is given; which
    else are errors. Raises as `open_source` and `decode`.
    """
    source = open_source(shards, num_classes=num_classes or None, skip_bad=skip_bad, progress=progress)
    found = list[tuple[int, int, int, bytes, int]]()
    for tar in range(len(source.tars)):
        for row in _index(source, tar):
            if isinstance(row, BadSampleError):
                if not skip_bad:
                    raise row
                skipped.extend([(row.reason, str(row))])
            else:
                found.append((tar, *row))
        if progress is not None:
            progress(tar + 1, len(source.tars))
    tars, starts, sizes, keys, labels = zip(*found, strict=True) if found else ((),) * 5
    members = _Members(
        source.tars,
        np.array(tars, np.int32),
        np.array(starts, np.int64),
        np.array(sizes, np.int64),
        np.array(keys, np.bytes_),
        source.png_bits,
    )
    told = source.fingerprint
    if not source.ours or len(found) < source.num_samples:
        rest = np.array([labels, sizes], "<i8").tobytes()
        told = hashlib.sha256(told.encode() + rest).hexdigest()
    names = source.class_names or numbered(source.num_classes)
    return make(source.name, names, np.array(labels, np.int64), told, members)


def numbered(num_classes: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(map(str, range(num_classes)))


def _index(source: Source, tar: int) -> Iterator[tuple[int, int, bytes, int] | BadSampleError]:
    """(start, size, key, label) of each sample's image in one tar; what is wrong in the place of those that are bad."""
    path, count = source.tars[tar], source.counts[tar]
    name = Path(path).name
    try:
        samples, fault = index_samples(path)
        with Path(path).open("rb") as file:
            for key, members in samples[:count]:
                try:
                    yield _sample(source, file.fileno(), RawSample(name, key, {}), members)
                except BadSampleError as error:
                    yield error
    except OSError as error:
        samples, fault = [], f"{name}: missing" if isinstance(error, FileNotFoundError) else f"{name}: {error}"
    if fault or len(samples) != count:
        told = fault or f"{name}: holds {len(samples)} samples, not {count}: cut short or corrupt"
        for _ in range(max(1, count - len(samples))):
            yield BadSampleError(told, "tar")


def _sample(source: Source, file: int, raw: RawSample, members: dict[str, Span]) -> tuple[int, int, bytes, int]:
    if "cls" in members:
        raw.members["cls"] = os.pread(file, min(members["cls"].size, 64), members["cls"].start)
    label = label_of(source, raw)
    for extension in (*source.extensions, *EXTENSIONS, "bmp"):
        if extension in members:
            return members[extension].start, members[extension].size, os.fsencode(raw.key), label
    raise BadSampleError(f"{raw} has no .{' or .'.join(source.extensions)}", "members")
