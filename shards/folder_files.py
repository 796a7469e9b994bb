"""The files of a folder of shards, wherever it lies: on this machine, or at a URL and fetched into a cache."""

import contextlib
import hashlib
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fracgen.shards.cache import CacheSettings, FileCache
from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.files import sha256_of, shown_size
from fracgen.shards.manifest import MANIFEST, DamagedManifestError, Manifest, load_manifest, read_manifest
from fracgen.shards.remote import AccessError, MissingFileError, Url, connect, download, retrying
from fracgen.shards.urls import is_url

_MAX_MANIFEST_BYTES, _MAX_FILE_BYTES = 256 << 20, 1 << 30
CONNECTIONS = 8
"""Files that are fetched at a time."""
Progress = Callable[[int, int], None]
"""Called with (how many are done, how many there are)."""


class FolderFiles(Protocol):
    """A folder of shards: its manifest, and its files as files of this machine."""

    @property
    def manifest(self) -> Manifest:
        """What the folder holds."""

    @property
    def folder(self) -> Path:
        """A folder of this machine in which all files are that were asked for."""

    def using(self, name: str) -> AbstractContextManager[Path]:
        """The path of a file that stays there meanwhile. Raises DataError where it cannot be had."""

    def anew(self, name: str) -> AbstractContextManager[Path]:
        """The path of a file as it lies there now, good or bad. Raises FileNotFoundError where there is none."""

    def small_files(self) -> Path:
        """A folder of this machine that holds all that the manifest names beside the tars."""

    def keep_small(self, name: str) -> None:
        """Have a small file in `folder` as long as this process lives, if it can be had."""

    def fetch_tars(self, *, skip_bad: bool = False, progress: Progress | None = None) -> list[str]:
        """Have all tars on this machine. Returns what is wrong with those that cannot be had, where `skip_bad` is."""

    def listing(self) -> Mapping[str, str] | None:
        """What lies in the folder, "file", "folder" and so on by name; None where the server does not tell."""

    def cache_note(self) -> str:
        """The cache, and what was fetched into it until now, in words; "" for a folder of this machine."""

    def __str__(self) -> str:
        """Its place, for messages."""


def open_folder(place: Path | str, cache: CacheSettings | None = None) -> FolderFiles:
    """The finished folder of shards at a path or URL. cache: of URLs, the user's own by default.

    Raises UsageError where it is missing or no folder of shards, DataError where it is unfinished or damaged.
    """
    if is_url(place):
        return RemoteFiles(Url.parse(str(place)), FileCache(cache or CacheSettings()))
    return LocalFiles(Path(place))


def holds_shards(url: str) -> bool:
    """Whether there is a manifest at a URL that this user may read. Raises DataError where the server cannot tell."""
    with contextlib.suppress(MissingFileError, AccessError):
        _fetch_manifest(Url.parse(url))
        return True
    return False


def _fetch_manifest(url: Url) -> bytes:
    """The manifest at a URL as it is now. Raises as `download`; DataError where this machine has no room for it."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / MANIFEST
            download(url / MANIFEST, path, limit=_MAX_MANIFEST_BYTES)
            return path.read_bytes()
    except OSError as error:
        place = tempfile.tempdir or "temporary files"
        raise DataError(f"{place}: cannot be written ({error.strerror}); free some, or set TMPDIR to another") from None


class LocalFiles:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = load_manifest(folder)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[Path]:
        """The path of a file, whether there is one or not."""
        yield self.folder / name

    anew = using

    def small_files(self) -> Path:
        """The folder itself."""
        return self.folder

    def keep_small(self, name: str) -> None:
        """Nothing: it is there, or it is not."""

    def fetch_tars(self, *, skip_bad: bool = False, progress: Progress | None = None) -> list[str]:
        """Nothing: they are where they are."""
        return []

    def listing(self) -> Mapping[str, str]:
        """What lies in the folder."""
        return {path.name: _kind(path) for path in sorted(self.folder.iterdir())}

    def cache_note(self) -> str:
        """Nothing."""
        return ""

    def __str__(self) -> str:
        return str(self.folder)


class RemoteFiles:
    """A folder at a URL. Files are fetched when they are first needed, checked by size and sha256, kept in a cache.

    The manifest is read from the server each time; its sha256 names the folder in the cache, so that a set that has
    changed is another set there, and one that lies at two URLs is kept once.
    """

    def __init__(self, url: Url, cache: FileCache) -> None:
        self.url, self.cache = url, cache
        self.num_files = self.num_bytes = self.num_repeated = 0
        self._counting = threading.Lock()
        data = self._fetch_manifest()
        key = hashlib.sha256(data).hexdigest()
        self._cached = cache.folder_of(key[:40])
        self._cached.keep([MANIFEST])
        path = self._cached.get(MANIFEST, len(data), lambda part: _write(part, data))
        self.manifest = read_manifest(path, str(url / MANIFEST))
        self._expected: dict[str, tuple[int | None, str]] = {MANIFEST: (len(data), key)}
        self._expected |= {name: (None, digest) for name, digest in self.manifest.files.items()}
        self._expected |= {shard.name: (shard.bytes, shard.sha256) for shard in self.manifest.shards}
        if hidden := next((name for name in self._expected if name.startswith(".")), None):
            raise DamagedManifestError(f"{url / MANIFEST}: damaged (a file {hidden!r})")

    @property
    def folder(self) -> Path:
        """The folder in the cache, with those files that were fetched."""
        return self._cached.path

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[Path]:
        """The path of a file in the cache, fetched where it is not there, which stays there meanwhile.

        Raises AccessError where it is refused, DataError where it cannot be had or the set has changed.
        """
        with self._cached.using(name):
            yield self._get(name)

    @contextlib.contextmanager
    def anew(self, name: str) -> Iterator[Path]:
        """A file fetched now, whatever it holds, and removed in the end.

        Raises FileNotFoundError, ChangedError where the set on the server has become another one.
        """
        copy = f"anew-{secrets.token_hex(4)}-{name}"
        with self._cached.using(copy):
            try:
                path = self._cached.get(copy, self._expected[name][0], partial(self._download_anew, name))
            except MissingFileError as error:
                raise FileNotFoundError(str(error)) from None
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)

    def small_files(self) -> Path:
        """The folder in the cache, with all files that the manifest names beside the tars; they stay there."""
        self._cached.keep(self.manifest.files)
        for name in self.manifest.files:
            self._get(name)
        return self.folder

    def keep_small(self, name: str) -> None:
        """Fetch a file that the manifest names; it stays in the cache while this process lives."""
        if name in self.manifest.files:
            self._cached.keep([name])
            with contextlib.suppress(FracgenError):
                self._get(name)

    def fetch_tars(self, *, skip_bad: bool = False, progress: Progress | None = None) -> list[str]:
        """Fetch all tars, several at a time; they stay in the cache while this process lives.

        skip_bad: tars that cannot be had are no error, but returned, a line each. progress: called file by file.
        Raises UsageError before any is fetched where they are more than the cache may hold; else as `using` does.
        """
        shards, limit = self.manifest.shards, self.cache.limit
        if limit and (num_bytes := sum(shard.bytes for shard in shards)) > limit:
            raise UsageError(
                f"{self.url}: {shown_size(num_bytes)} of shards, and the cache may have {shown_size(limit)}; "
                "give more by --cache-limit"
            )
        self._cached.keep([shard.name for shard in shards])
        problems, is_over = list[str](), threading.Event()

        def check_not_over() -> None:
            if is_over.is_set():
                raise DataError(f"{self.url}: stopped")

        if progress is not None:
            progress(0, len(shards))
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            pending = [pool.submit(self._get, shard.name, check_not_over) for shard in shards]
            try:
                for done, each in enumerate(pending, 1):
                    try:
                        each.result()
                    except DataError as error:
                        if not skip_bad or isinstance(error, ChangedError):
                            raise
                        problems.append(str(error))
                    if progress is not None:
                        progress(done, len(pending))
            finally:
                is_over.set()  # so that an interrupt need not wait for what is on its way
                pool.shutdown(cancel_futures=True)
        return problems

    def listing(self) -> Mapping[str, str] | None:
        """What lies there; None for plain HTTP, which has no listing."""
        if self.url.scheme in ("http", "https"):
            return None

        def list_names() -> dict[str, str]:
            file_system, path = connect(self.url)
            file_system.invalidate_cache()
            entries = file_system.ls(path, detail=True)
            kinds = {"directory": "folder", "file": "file"}
            names = {each["name"].rstrip("/").rpartition("/")[2]: each["type"] for each in entries}
            names.pop(".gitattributes" if self.url.scheme == "hf" else "", None)  # the Hub's own
            return {name: kinds.get(names[name], "special file") for name in sorted(names)}

        return retrying(list_names, self.url)

    def cache_note(self) -> str:
        """As in "~/.cache/fracgen/shards (1.2 GB of 50.0 GB); 64 files, 1.2 GB fetched, 2 tries repeated"."""
        files = f"{self.num_files} file{'s' * (self.num_files != 1)}, {shown_size(self.num_bytes)} fetched"
        return f"{self.cache}; {files}" + (f", {self.num_repeated} tries repeated" if self.num_repeated else "")

    def __str__(self) -> str:
        return str(self.url)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_counting"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._counting = threading.Lock()
        self._cached.keep([MANIFEST])

    def _get(self, name: str, on_chunk: Callable[[], None] = lambda: None) -> Path:
        fetch = partial(self._download, name, limit=_MAX_FILE_BYTES, on_chunk=on_chunk)
        try:
            return self._cached.get(name, self._expected[name][0], fetch)
        except MissingFileError as error:
            raise DataError(f"{error}, though {MANIFEST} names it") from None

    def _download(
        self,
        name: str,
        path: Path,
        *,
        limit: int,
        check: bool = True,
        on_chunk: Callable[[], None] = lambda: None,
    ) -> None:
        num_bytes, sha256 = self._expected[name] if check else (None, None)
        try:
            num_tries = download(
                self.url / name,
                path,
                limit=num_bytes or limit,
                num_bytes=num_bytes,
                sha256=sha256,
                on_mismatch=self._check_unchanged,
                on_chunk=on_chunk,
            )
        except MissingFileError:
            self._check_unchanged()
            raise
        with self._counting:
            self.num_files += 1
            self.num_bytes += path.stat().st_size
            self.num_repeated += num_tries - 1

    def _download_anew(self, name: str, path: Path) -> None:
        """Fetch a file as it is; twice where it is not as the manifest says, as it may have been cut on the way."""
        num_bytes, sha256 = self._expected[name]
        limit = max(_MAX_FILE_BYTES, 2 * (num_bytes or 0))
        self._download(name, path, limit=limit, check=False)
        if num_bytes not in (None, path.stat().st_size) or sha256_of(path) != sha256:
            self._check_unchanged()
            self._download(name, path, limit=limit, check=False)
            with self._counting:
                self.num_repeated += 1

    def _check_unchanged(self) -> None:
        """Raises ChangedError where the server's manifest is another one now."""
        if hashlib.sha256(self._fetch_manifest()).hexdigest() != self._expected[MANIFEST][1]:
            raise ChangedError(
                f"{self.url}: changed on the server while it was read: its {MANIFEST} is another one now; start again"
            )

    def _fetch_manifest(self) -> bytes:
        try:
            return _fetch_manifest(self.url)
        except MissingFileError as error:
            raise MissingFileError(f"{error}; so this is no folder of shards") from None


class ChangedError(DataError):
    """The set on the server became another one."""


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "link"
    return "folder" if path.is_dir() else "file" if path.is_file() else "special file"
