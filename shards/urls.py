"""URLs in texts: which texts are one, and what of one may be shown."""

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, unquote_plus

_URL = re.compile(r"(?:\S*::)?[A-Za-z][\w+.-]+:/")  # a Path has one slash where a URL has two
_SCHEME = r"([A-Za-z][\w+.-]+:/{1,2})"
_USER = re.compile(rf"{_SCHEME}(?:[^\s/?#]*@|[^\s/:?#@]+:(?!\d+(?:[/?#\s'\"]|$))\S*@)")
"""User and password: all up to the last @ of the host's part. A password may hold a slash, which is no port's."""
_QUERY = re.compile(rf"({_SCHEME}[^\s?\"<>]*)\?[^\s\"<>]*[^\s\"<>:;,.)'\]]")
HIDDEN = "***"
_SHORT = 4
"""Letters below which a secret is hidden only where it stands by itself: all words have an "a"."""


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


def secrets_of(url: str) -> tuple[str, ...]:
    """User, password and query of a URL, together and one by one, in each form that a library may show; longest first.

    As they stand, percent-decoded and encoded, with Python's escapes, as the base64 of HTTP's basic authentication. Of
    the query's values not those below four letters, which are numbers and versions.
    """
    base, _, query = url.partition("?")
    user = _USER.match(base)
    secrets: set[str] = set()
    if user is not None:
        both = user[0][len(user[1]) :].removesuffix("@")
        secrets |= {both, *both.partition(":")[::2]}
        secrets |= {base64.b64encode(text.encode()).decode() for text in (both, unquote(both))}
    values = {pair.rpartition("=")[2] for pair in query.split("&")}
    secrets |= {query, *(value for value in values if len(value) >= _SHORT)}
    secrets |= {decode(text) for text in secrets for decode in (unquote, unquote_plus)}
    secrets |= {encode(text, safe="") for text in secrets for encode in (quote, quote_plus)}
    secrets |= {repr(text)[1:-1] for text in secrets}
    return tuple(sorted(filter(None, secrets), key=lambda text: (-len(text), text)))


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` with `***` for each secret, wherever it stands, and for what `redact` knows."""
    for secret in secrets:
        pattern = re.escape(secret)
        text = re.sub(pattern if len(secret) >= _SHORT else rf"(?<!\w){pattern}(?!\w)", HIDDEN, text)
    return redact(text)
