"""Examples that cannot be used: the error, the loop that leaves them out, and their count."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from fracgen.shards.errors import DataError, UsageError
from fracgen.train.ranks import Ranks

T = TypeVar("T")
MAX_WARNINGS = 5
"""Skipped examples that are shown one by one; the others are only counted."""


class SkippedExample(NamedTuple):
    """One example that was left out. name: tells it from all others. reason: one word."""

    name: str
    reason: str
    message: str


class BadSampleError(DataError):
    """An example or tar that cannot be used. reason: one word, by which those that are skipped are counted.

    Exit code 2 where it is the user's to mend: a label that the classes do not have, or `usage`; else 1.
    """

    def __init__(self, message: str, reason: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = UsageError.exit_code if usage or reason == "label" else DataError.exit_code

    def skipped(self, name: str) -> SkippedExample:
        """The record of this example, where it is left out."""
        return SkippedExample(name, self.reason, str(self))


def read_good(
    read: Callable[[int], T], numbers: Iterable[int], describe: Callable[[int], str], *, skip_bad: bool
) -> tuple[list[int], list[T], list[SkippedExample]]:
    """(which of these examples can be read, what `read` gives for each, the others).

    describe: the name of an example. Raises the BadSampleError of the first that cannot be read, unless `skip_bad`.
    """
    good, values, skipped = list[int](), list[T](), list[SkippedExample]()
    for number in numbers:
        try:
            value = read(number)
        except BadSampleError as error:
            if not skip_bad:
                raise
            skipped.append(error.skipped(describe(number)))
        else:
            good.append(number)
            values.append(value)
    return good, values, skipped


class SkippedDataWarning(UserWarning):
    """Data that cannot be used was left out, as was asked for."""


class Skipped:
    """Examples that were left out, each counted once, however many workers, epochs and ranks meet it.

    The first messages are shown as warnings.
    """

    def __init__(self) -> None:
        self._reasons = dict[str, str]()
        self._shown = set[str]()

    def extend(self, examples: Iterable[SkippedExample]) -> None:
        """Take in those that are new."""
        for name, reason, message in examples:
            if name in self._reasons:
                continue
            self._reasons[name] = reason
            if message not in self._shown and len(self._shown) < MAX_WARNINGS:
                self._shown.add(message)
                warnings.warn(f"skipped: {message}", SkippedDataWarning, stacklevel=2)

    @property
    def counts(self) -> Counter[str]:
        """Examples left out in this process, by reason."""
        return Counter(self._reasons.values())

    def over_ranks(self, ranks: Ranks) -> Counter[str]:
        """Examples left out by any rank, by reason. Every rank must call it."""
        return Counter(ranks.union(self._reasons).values())
