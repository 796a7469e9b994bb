"""Samples as a Python sequence: one by its number, slices as views, iteration."""

import operator
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Sample

Numbers = npt.NDArray[np.int64]


class SampleSequence(ABC):
    """Labelled images as a sequence: `len(x)`, `x[3]`, `x[-1]`, `x[10:20]` (a view, nothing is read), iteration.

    What is read one by one, by a slice or by iteration is the same. A number is a place in the sequence, which need not
    be the sample's `index` in the data set.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def read(self, numbers: Iterable[int]) -> Iterator[Sample]:
        """The samples of these numbers, each 0 to len - 1, in their order. Neighbours may share work."""

    @property
    @abstractmethod
    def labels(self) -> Numbers:
        """The label of each sample, (N,) int64; no image is read or rendered for it."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """One name a label."""

    @property
    def multi_label(self) -> bool:
        """Whether a sample has several labels: `Sample.labels`, of which `labels` has one."""
        return False

    def redrawn(self, number: int) -> "SampleSequence":
        """The same samples in pass `number`, from 0, each with random patch masks of that pass's own.

        Raises UsageError where they are not drawn with such masks while they are read.
        """
        raise UsageError("masks can be redrawn only of a recipe that draws random patches; these images have no such")

    @overload
    def __getitem__(self, number: SupportsIndex, /) -> Sample: ...
    @overload
    def __getitem__(self, number: slice, /) -> "SampleView": ...
    def __getitem__(self, number: SupportsIndex | slice, /) -> "Sample | SampleView":
        if isinstance(number, slice):
            return SampleView(self, range(len(self))[number])
        (sample,) = self.read([position(number, len(self))])
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return self.read(range(len(self)))

    def subset(self, numbers: npt.ArrayLike) -> "SampleView":
        """A view of these samples, in this order; nothing is read.

        numbers: (n,) of whole numbers; negative ones count from the end. Raises IndexError for one that is out of
        range, TypeError for what are no whole numbers.
        """
        chosen = np.asarray(numbers)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise TypeError("a subset's numbers must be whole numbers in one row")
        chosen = chosen.astype(np.int64)
        outside = (chosen < -len(self)) | (chosen >= len(self))
        if outside.any():
            position(int(chosen[outside.argmax()]), len(self))
        return SampleView(self, np.where(chosen < 0, chosen + len(self), chosen))


class SampleView(SampleSequence):
    """Some samples of another sequence, which it reads when they are asked for.

    source: the sequence. numbers: of each sample here, its number there.
    """

    def __init__(self, source: SampleSequence, numbers: "range | Numbers") -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, numbers: Iterable[int]) -> Iterator[Sample]:
        """The samples of these numbers, each 0 to len - 1, in their order. Neighbours may share work."""
        return self.source.read(int(self.numbers[number]) for number in numbers)

    @property
    def labels(self) -> Numbers:
        """The label of each sample, (N,) int64."""
        labels: Numbers = self.source.labels[np.asarray(self.numbers, np.int64)]
        return labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a label: of all labels of the source, whether they are in this view or not."""
        return self.source.class_names

    @property
    def multi_label(self) -> bool:
        """Whether a sample has several labels."""
        return self.source.multi_label

    def redrawn(self, number: int) -> "SampleView":
        """These samples in pass `number`: see `SampleSequence.redrawn`."""
        return SampleView(self.source.redrawn(number), self.numbers)

    def __getitem__(self, number: SupportsIndex | slice, /) -> "Sample | SampleView":  # type: ignore[override]
        if isinstance(number, slice):
            return SampleView(self.source, self.numbers[number])
        return super().__getitem__(number)

    def __repr__(self) -> str:
        return f"<{len(self)} of the {len(self.source)} samples of {reprlib.repr(self.source)}>"


Sequence.register(SampleSequence)  # type: ignore[type-abstract]  # without its index(), count() and `in`: arrays do not compare as a whole


def position(number: SupportsIndex, length: int) -> int:
    """A number of a sequence's as 0 to length - 1; a negative one counts from the end.

    Raises IndexError where it is out of range, TypeError where it is no whole number.
    """
    try:
        place = operator.index(number)
    except TypeError:
        kind = type(number).__name__
        raise TypeError(f"samples are numbered by integers or slices, not {kind}; several: subset([...])") from None
    if not -length <= place < length:
        raise IndexError(f"sample {place}: there are {length}")
    return place % length
