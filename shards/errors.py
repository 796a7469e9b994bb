"""The errors that a user can cause or mend, each shown by the command line as one line with its exit code."""

from fracgen.shards.urls import redact


class FracgenError(Exception):
    """Base of all errors with a message for the user: the value, what is allowed, and the mend. No secret of a URL."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class DataError(FracgenError):
    """The data is there but bad or incomplete, or could not be made (exit code 1)."""


class BadImageError(DataError):
    """Bytes that are no image which can be used. reason: a word or two, by which such are counted."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class UsageError(FracgenError):
    """What was asked for cannot be done as asked: a bad value, file or folder (exit code 2)."""

    exit_code = 2


class AbsentError(UsageError):
    """Data that is not there, or cannot be got: no such folder, no net, no library that opens it."""


def one_line(text: str) -> str:
    """`text` in one line, with control characters as escapes, and no secrets of URLs."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """`text` with control characters, line ends too, as escapes: names of files never reach a terminal raw.

    Secrets of URLs are hidden.
    """
    letters = redact(text)
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in letters)


LFS_POINTER = b"version https://git-lfs"
"""Begins the file of some 130 bytes that stands for a large one in a clone of a git repository without those."""
LFS_ADVICE = "a git-LFS pointer in its place; fetch the file itself by `git lfs pull`"
