"""Tars of another origin at URLs, by a brace pattern: fetched into the cache, checked by their size alone."""

import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fracgen.shards.cache import FileCache
from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.files import shown_size
from fracgen.shards.folder_files import CONNECTIONS, Progress
from fracgen.shards.remote import MissingFileError, Url, connect, download, retrying

_VERSIONS = (
    *("ETag", "etag", "LastModified", "last_modified", "mtime", "generation", "md5Hash", "blob_id", "created"),
    *("Last-Modified", "Content-MD5", "Digest", "modify", "modificationTime", "sha"),
)
"""What file systems say of a file that is another one when the file is: whichever of these there are."""
_MAX_TAR_BYTES = 1 << 40


@dataclass(frozen=True)
class _Tar:
    """A tar at a URL. num_bytes: None where the server does not say it. key: another one for another content."""

    url: Url
    num_bytes: int | None
    key: str


def fetch_tars(
    urls: Sequence[str], cache: FileCache, *, skip_bad: bool = False, progress: Progress | None = None
) -> tuple[list[Path], list[str]]:
    """(their paths in the cache, where they stay while this process lives; what is wrong with some, a line each).

    skip_bad: those that cannot be had are no error; nothing lies at their paths.
    Raises UsageError, before any is fetched, for two tars of one name and for more than the cache may hold.
    """
    names = [Url.parse(url).name for url in urls]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{name}: several tars have this name; give each set by itself")
    problems: list[str] = []
    is_over = threading.Event()

    def check_not_interrupted() -> None:
        if is_over.is_set():
            raise DataError("stopped")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            tars = [
                each if isinstance(each, _Tar) else _missing(each, url, problems, skip_bad=skip_bad)
                for url, each in zip(urls, pool.map(_look, urls), strict=True)
            ]
            num_bytes = sum(tar.num_bytes or 0 for tar in tars)
            if cache.limit and num_bytes > cache.limit:
                raise UsageError(
                    f"{shown_size(num_bytes)} of tars, and the cache may have {shown_size(cache.limit)}; "
                    "give more by --cache-limit"
                )
            folder = cache.folder_of(hashlib.sha256(json.dumps([tar.key for tar in tars]).encode()).hexdigest()[:40])
            folder.keep(names)

            def fetch(tar: _Tar) -> None:
                def write(part: Path) -> None:
                    download(
                        tar.url, part, limit=_MAX_TAR_BYTES, num_bytes=tar.num_bytes, on_chunk=check_not_interrupted
                    )

                folder.get(tar.url.name, tar.num_bytes, write)

            if progress is not None:
                progress(0, len(tars))
            pending = [pool.submit(fetch, tar) for tar in tars if tar.key]
            for done, each in enumerate(pending, 1):
                try:
                    each.result()
                except (DataError, MissingFileError) as error:
                    if not skip_bad:
                        raise DataError(str(error)) from None
                    problems.append(str(error))
                if progress is not None:
                    progress(done, len(pending))
        finally:
            is_over.set()  # so that an interrupt need not wait for what is on its way
            pool.shutdown(cancel_futures=True)
    return [folder.path / name for name in names], problems


def _look(text: str) -> _Tar | FracgenError:
    """What the server says of a tar."""
    url = Url.parse(text)

    def info() -> dict[str, Any]:
        file_system, path = connect(url)
        file_system.invalidate_cache()
        entry: dict[str, Any] = file_system.info(path)
        return entry

    try:
        entry = retrying(info, url)
    except FracgenError as error:
        return error
    size = entry.get("size")
    version = {name: str(entry[name]) for name in _VERSIONS if entry.get(name) is not None}
    # without user and query: a signature is another one each time
    place = f"{url.scheme}:{str(url).rpartition('@')[2].partition('?')[0]}"
    return _Tar(url, size if isinstance(size, int) else None, json.dumps([place, size, version]))


def _missing(error: FracgenError, text: str, problems: list[str], *, skip_bad: bool) -> _Tar:
    if not isinstance(error, DataError | MissingFileError):
        raise error
    if not skip_bad:
        raise DataError(str(error))
    problems.append(str(error))
    return _Tar(Url.parse(text), None, "")
