"""Values of a recipe that are too large for it: each lies in a file of its own, in the folder beside the recipe."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self


class Stored(ABC):
    """A value that one file holds. The recipe names it by that file and the value's sha256.

    FILE: the file's name. CONTENT: what it holds, in words. OPTION: how a command takes the value, for the message
    where a recipe spells it out.
    """

    FILE: ClassVar[str]
    CONTENT: ClassVar[str]
    OPTION: ClassVar[str]

    @property
    def is_inline(self) -> bool:
        """Whether it stands in the recipe itself, where it is small, and in no file."""
        return False

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Of the content (hex): the same wherever the value is the same, however it is packed."""

    def to_plain(self) -> dict[str, Any]:
        """What stands for the value in a recipe."""
        return {"file": self.FILE, "sha256": self.sha256}

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The file."""

    @classmethod
    @abstractmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises UsageError where it is something else."""
