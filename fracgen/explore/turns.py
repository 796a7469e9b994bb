"""Which request is the newest: an older one of the same kind is given up, whether it waits or is half done."""

import threading
from collections import OrderedDict

from fracgen.shards.errors import FracgenError

_MAX_CHANNELS = 256


class DroppedError(FracgenError):
    """A newer request of its kind has come."""


class Turns:
    """The newest turn by client and channel, of the last 256 of them."""

    def __init__(self) -> None:
        self._newest = OrderedDict[tuple[str, str], int]()
        self._lock = threading.Lock()

    def take(self, client: str, channel: str, turn: int) -> "Ticket":
        """A ticket for a request. Raises DroppedError where a newer one has come already."""
        key = (client, channel)
        with self._lock:
            newest = self._newest.pop(key, turn)
            self._newest[key] = max(newest, turn)
            while len(self._newest) > _MAX_CHANNELS:
                self._newest.popitem(last=False)
        ticket = Ticket(self, key, turn)
        ticket.check()
        return ticket

    def is_newest(self, key: tuple[str, str], turn: int) -> bool:
        """Whether no newer turn has come."""
        return self._newest.get(key, turn) <= turn


class Ticket:
    """One request's place among those of its client and channel."""

    def __init__(self, turns: Turns, key: tuple[str, str], turn: int) -> None:
        self._turns, self._key, self._turn = turns, key, turn

    def check(self) -> None:
        """Raises DroppedError where a newer request has come. Asked between images, so that those in work end soon."""
        if self._key[1] and not self._turns.is_newest(self._key, self._turn):
            raise DroppedError("a newer request has come")
