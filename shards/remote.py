"""Files of other machines by fsspec: what a URL names, tries that are repeated, and errors as one line.

Credentials are fsspec's and its libraries' own (environment, configuration files); none is taken, kept or shown here.
"""

import contextlib
import errno
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from fracgen.shards.errors import DataError, FracgenError, UsageError, one_line
from fracgen.shards.files import sha256_of as sha256_of
from fracgen.shards.urls import hide, is_url, redact, secrets_of

T = TypeVar("T")
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each try that follows a failed one."""
_CONNECT_SECONDS, _READ_SECONDS = 30.0, 60.0
"""Of plain HTTP: until a server answers, and between two of its bytes. Other protocols' libraries have their own."""
_REASON_LENGTH = 200
LOCAL = ("file", "local")
_INSTALL = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp"}
_INSTALL |= {"https": "aiohttp", "az": "adlfs", "abfs": "adlfs", "sftp": "paramiko", "ssh": "paramiko"}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FINAL = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EISDIR, errno.ENOTDIR)
_FINAL_KINDS = (FileNotFoundError, PermissionError, ValueError, TypeError, NotImplementedError)
_PASSING_KINDS = (OSError, EOFError, HTTPException, RuntimeError)
_PASSING_NAMES = re.compile(
    "connect|timeout|http|client|transport|network|protocol|payload|incomplete|stream|checksum|servic|download|upload",
    re.IGNORECASE,
)
"""Of the libraries' classes for what may pass. All others, as botocore's for parameters, will say the same again."""
_PASSING_STATUS = (408, 409, 425, 429)
"""HTTP's words for "later", among those of 300 to 499 for "never": redirections too, which the libraries follow."""


class RemoteWarning(UserWarning):
    """What went wrong on the way and is tried again."""


class MissingFileError(UsageError):
    """There is no such file, bucket or repository."""


class AccessError(UsageError):
    """The server refuses it, or there are no credentials for it."""


class TransferError(OSError):
    """What arrived is not what was sent: worth another try."""


@dataclass(frozen=True, repr=False)
class Url:
    """A file or folder at another place. Its text is without secrets; `full` is for fsspec alone.

    base: without the query, and without a slash at its end. query: of `https://`, which every file below has too.
    """

    base: str
    query: str = ""

    @classmethod
    def parse(cls, text: str) -> "Url":
        """The URL in a text.

        Raises UsageError for what is none or names no place, for a file of this machine, for fsspec's chains.
        """
        if not is_url(text):
            raise UsageError(f"{text}: is no URL")
        scheme = text.partition(":")[0]
        if "::" in text:
            raise UsageError(f"{text}: URLs in one another ('::') are not read")
        if scheme.lower() in LOCAL:
            raise UsageError(f"{text}: a file of this machine; give its path")
        base, mark, query = text.partition("?") if scheme.lower() in ("http", "https") else (text, "", "")
        base = re.sub(":/+", "://", base, count=1).rstrip("/")
        if base == f"{scheme}:":  # fsspec would take it for a folder here
            raise UsageError(f"{text}: names no place; give bucket or host, and path, as in s3://BUCKET/SET")
        return cls(base, mark + query)

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.base}/{name}", self.query)

    @property
    def scheme(self) -> str:
        """As in s3."""
        return self.base.partition(":")[0].lower()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.base.rpartition("/")[2]

    @property
    def full(self) -> str:
        """With user, password and query: for fsspec, never for a message or a file."""
        return f"{self.base}{self.query}"

    def hide(self, text: str) -> str:
        """What a library says, without any credential of this URL, wherever and however it stands there."""
        return hide(text, secrets_of(self.full))

    def __str__(self) -> str:
        return redact(self.full)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"


def connect(url: Url) -> tuple[Any, str]:
    """(fsspec's file system, the path in it) of a URL. Nothing is kept: after a fork the child has its own.

    Raises UsageError where the protocol is not known, or its library is not installed; OSError where it cannot connect.
    """
    try:
        import fsspec.config
        import fsspec.core

        options: dict[str, Any] = {}
        if url.scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            own = fsspec.config.conf.get(url.scheme, {}).get("client_kwargs", {})
            timeout = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
            options = {"client_kwargs": {"timeout": timeout, **own}}
        file_system, path = fsspec.core.url_to_fs(url.full, **options)
    except ImportError as error:
        raise _not_installed(error, url) from None
    except (FracgenError, OSError):  # some protocols connect here, as FTP: that may pass
        raise
    except Exception as error:  # of any protocol's library
        raise UsageError(f"{url}: cannot be opened ({reason(error, url)})") from None
    return file_system, path


def _not_installed(error: ImportError, url: Url) -> UsageError:
    """What to install, where a library is missing: fsspec's own errors name none."""
    name = (error.name or _INSTALL.get(url.scheme, "a library")).partition(".")[0]
    package = "'fracgen[remote]'" if name in ("fsspec", "aiohttp") else _INSTALL.get(url.scheme, name)
    return UsageError(f"{url}: needs {name}, which is not installed: pip install {package}")


def retrying(action: Callable[[], T], subject: Url | str) -> T:
    """What `action` returns; after a failure that may pass it is tried again, each time with a longer wait and a word.

    Raises MissingFileError where there is nothing, AccessError where it is refused, UsageError where the URL is wrong,
    DataError where the last try fails too; OSError where this machine's disk is full.
    """
    for number, wait in enumerate((*WAITS, None), 1):
        try:
            return action()
        except FracgenError:
            raise
        except Exception as caught:  # of any protocol's library
            error = _cause(caught)
            if getattr(error, "errno", None) in _FULL:
                raise
            if (final := _final(error, subject)) is not None:
                if isinstance(subject, Url) and not isinstance(final, MissingFileError):
                    _forget(subject.scheme)
                raise final from None
            why = reason(error, subject)
        if wait is not None:
            warnings.warn(
                f"{subject}: {why}; trying again in {wait:g} s ({number} of {len(WAITS)})", RemoteWarning, stacklevel=2
            )
            time.sleep(wait)
    raise DataError(f"{subject}: {why}; given up after {len(WAITS) + 1} tries")


def _forget(scheme: str) -> None:
    """Let the next call read the environment anew, as in a notebook where credentials are set after a first failure.

    fsspec keeps file systems, and they their credentials, or that there were none.
    """
    import fsspec

    with contextlib.suppress(ImportError, ValueError):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


def reason(error: BaseException, subject: Url | str) -> str:
    """What a library says of a failure, in one short line without secrets: hidden before the line is cut."""
    words = one_line(subject.hide(str(error)) if isinstance(subject, Url) else str(error))
    kind = type(error).__name__
    if isinstance(error, TransferError):
        return words
    return f"{kind}: {words[:_REASON_LENGTH]}" if words else kind


def _cause(error: Exception) -> Exception:
    """What went wrong: plain HTTP says that a file is not there where it could not ask."""
    cause = error.__cause__
    is_hidden = isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp")
    return cause if is_hidden and isinstance(cause, Exception) else error


def _final(error: Exception, subject: Url | str) -> UsageError | None:
    """What to raise for a failure that another try would not mend; None where it may pass."""
    status, why = _status(error), reason(error, subject)
    if isinstance(error, TransferError):
        return None
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return MissingFileError(f"{subject}: not there" + ("" if str(subject) in why else f" ({why})"))
    if "Credential" in type(error).__name__:
        return AccessError(f"{subject}: no credentials ({why}); set them as the library of this protocol reads them")
    if isinstance(error, PermissionError) or status in (401, 403):
        return AccessError(f"{subject}: access refused ({why}); check the credentials of this protocol's library")
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    may_pass = isinstance(error, _PASSING_KINDS) or status is not None or _PASSING_NAMES.search(names)
    is_final = isinstance(error, _FINAL_KINDS) or getattr(error, "errno", None) in _FINAL or not may_pass
    if is_final or (status is not None and 300 <= status < 500 and status not in _PASSING_STATUS):
        return UsageError(f"{subject}: cannot be read ({why})")
    return None


def _status(error: BaseException) -> int | None:
    """HTTP's status, as the libraries of the protocols keep it; None where there is none."""
    for each in (error, error.__cause__):
        if isinstance(response := getattr(each, "response", None), dict):  # botocore's, s3fs's cause
            return _as_status((response.get("ResponseMetadata") or {}).get("HTTPStatusCode"))
    response = getattr(error, "response", None)
    attributes = ((error, "status"), (error, "code"), (response, "status_code"))
    statuses = (_as_status(getattr(source, name, None)) for source, name in attributes)
    return next((each for each in statuses if each is not None), None)


def _as_status(value: Any) -> int | None:
    with contextlib.suppress(TypeError, ValueError):
        if 100 <= (status := int(value)) < 600:
            return status
    return None


def download(
    url: Url,
    path: Path,
    *,
    limit: int,
    num_bytes: int | None = None,
    sha256: str | None = None,
    on_mismatch: Callable[[], None] = lambda: None,
    on_chunk: Callable[[], None] = lambda: None,
) -> int:
    """Write a file to `path`, a temporary name, which may be left there after an error; returns the number of tries.

    limit: bytes that it may have at most. num_bytes, sha256: what it must have; else `on_mismatch` is called, which may
    raise, and it is tried again. on_chunk: is called as bytes come, and may raise a FracgenError to stop.
    Raises as `retrying` does.
    """
    try:
        from fsspec.callbacks import Callback
    except ImportError as error:
        raise _not_installed(error, url) from None
    num_tries = 0

    class Bounded(Callback):  # type: ignore[misc]
        """Stops what never ends."""

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            on_chunk()
            if self.value > limit:
                raise TransferError(f"more than the {limit:,} bytes that it may have")

    def fetch() -> None:
        nonlocal num_tries
        num_tries += 1
        file_system, place = connect(url)
        file_system.invalidate_cache()  # of sizes and listings, which are of another time
        file_system.get_file(place, str(path), callback=Bounded())
        size = path.stat().st_size
        if num_bytes is not None and size != num_bytes:
            on_mismatch()
            raise TransferError(f"{size:,} of {num_bytes:,} bytes arrived")
        if sha256 is not None and sha256_of(path) != sha256:
            on_mismatch()
            raise TransferError("what arrived has another sha256 than it is to have")

    retrying(fetch, url)
    return num_tries
