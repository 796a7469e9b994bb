"""URLs in texts: which texts are one, and what of one may be shown."""

import re
from pathlib import Path

_URL = re.compile(r"(?:\S*::)?[A-Za-z][\w+.-]+:/")  # a Path has one slash where a URL has two
_SCHEME = r"([A-Za-z][\w+.-]+:/{1,2})"
_USER = re.compile(rf"{_SCHEME}(?:[^\s/?#]*@|[^\s/:?#@]+:(?!\d+(?:[/?#\s'\"]|$))\S*@)")
"""User and password: all up to the last @ of the host's part. A password may hold a slash, which is no port's."""
_QUERY = re.compile(rf"({_SCHEME}[^\s?\"<>]*)\?[^\s\"<>]*[^\s\"<>:;,.)'\]]")
HIDDEN = "***"


def is_url(path: Path | str) -> bool:
    """Whether a path, as text or as Path, is the URL of something that is not on this machine."""
    return _URL.match(str(path)) is not None


def redact(text: str) -> str:
    """`text` with `***` for user, password and query of every URL in it: the places where URLs carry secrets.

    All that is shown, logged or stored goes through it: `one_line` and `printable` of messages, `to_plain` of settings.
    """
    if ":/" not in text:
        return text
    return _QUERY.sub(rf"\1?{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))
