"""The cache for URLs: its limit, what is in use, processes at once, kills, full disks."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fracgen.shards.cache import CacheSettings, FileCache
from fracgen.shards.errors import DataError, UsageError

ROOT = Path(__file__).parents[1]
KEY, OTHER = "0" * 40, "1" * 40


def make(folder: Path, kilobytes: float = 0) -> FileCache:
    return FileCache(CacheSettings(folder=folder, limit=kilobytes / 1e6))


def writer(size: int, calls: list[str] | None = None):
    def write(path: Path) -> None:
        path.write_bytes(b"x" * size)
        if calls is not None:
            calls.append(path.name)

    return write


def put(cache: FileCache, key: str, name: str, size: int = 1000, age: float = 0) -> Path:
    """A file that nobody uses any more, last used some seconds ago."""
    folder = cache.folder_of(key)
    with folder.using(name):
        path = folder.get(name, size, writer(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_file_is_fetched_once(tmp_path):
    calls: list[str] = []
    folder = make(tmp_path / "cache").folder_of(KEY)
    with ThreadPoolExecutor(8) as pool, folder.using("a.tar"):
        paths = list(pool.map(lambda _: folder.get("a.tar", 1000, writer(1000, calls)), range(32)))
    assert set(paths) == {tmp_path / "cache" / KEY / "a.tar"} and len(calls) == 1
    paths[0].write_bytes(b"changed by somebody")
    with folder.using("a.tar"):
        assert folder.get("a.tar", 1000, writer(1000, calls)).read_bytes() == b"x" * 1000


def test_the_least_recently_used_goes_first(tmp_path):
    cache = make(tmp_path / "cache", 3.5)
    old, older, new = (put(cache, KEY, name, age=age) for name, age in (("a", 20), ("b", 30), ("c", 10)))
    assert older.exists() and "3 kB of 3.5 kB" in str(cache)
    put(cache, OTHER, "d")
    assert not older.exists() and old.exists() and new.exists()
    folder = cache.folder_of(KEY)
    with folder.using("a"):
        folder.get("a", 1000, writer(1000))  # a use: now c is the oldest
    put(cache, OTHER, "e")
    assert old.exists() and not new.exists()


def test_what_is_no_part_of_the_cache_is_neither_counted_nor_removed(tmp_path):
    """A user may name a folder in which other things lie."""
    others = [tmp_path / "cache" / name for name in ("photographs/a.jpg", "b.tar", f"{KEY}/folder/c.tar")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine" * 1000)
    cache = make(tmp_path / "cache", 2.5)
    for name in "abc":
        put(cache, KEY, name)
    assert all(path.exists() for path in others) and "2 kB of 2.5 kB" in str(cache)


def test_what_is_in_use_stays(tmp_path):
    cache = make(tmp_path / "cache", 2.5)
    folder = cache.folder_of(KEY)
    folder.keep(["a", "b"])
    for name in ("a", "b"):
        folder.get(name, 1000, writer(1000))
    with pytest.raises(DataError, match=r"what is in use takes 3 kB, and the cache may have 2\.5 kB") as caught:
        put(cache, OTHER, "c")
    assert "\n" not in str(caught.value) and not list((tmp_path / "cache" / OTHER).glob("*c"))
    put(make(tmp_path / "cache"), OTHER, "c")  # without a limit
    with pytest.raises(DataError, match="in use"):
        put(make(tmp_path / "cache", 1.5), OTHER, "d")
    assert (folder.path / "a").exists() and (folder.path / "b").exists()


HOLD = """
import sys, time
from pathlib import Path
from fracgen.shards.cache import CacheSettings, FileCache
folder = FileCache(CacheSettings(folder=Path(sys.argv[1]), limit=0)).folder_of("0" * 40)
def write(path):
    path.write_bytes(b"y" * 500)
    print("writing", flush=True)
    time.sleep(float(sys.argv[3]))
    path.write_bytes(b"y" * 1000)
folder.keep([sys.argv[2]])
folder.get(sys.argv[2], 1000, write)
print("there", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Starts other processes that use a file of the cache, and ends them."""
    processes = []

    def start(name: str, seconds: float = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "cache"), name, str(seconds)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        assert processes[-1].stdout.readline() == "writing\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_another_process_uses_stays_until_it_ends(tmp_path, other):
    process = other("a")
    assert process.stdout.readline() == "there\n"
    path = tmp_path / "cache" / KEY / "a"
    os.utime(path, (0, 0))
    cache = make(tmp_path / "cache", 2.5)
    put(cache, OTHER, "b", age=10)
    put(cache, OTHER, "c", age=5)
    assert path.exists() and not (tmp_path / "cache" / OTHER / "b").exists()
    process.kill()
    process.wait()
    put(cache, OTHER, "d")
    assert not path.exists() and not path.parent.exists(), "nor is an empty folder left"


def test_another_process_that_fetches_is_waited_for(tmp_path, other):
    other("a", 0.5)
    calls: list[str] = []
    folder = make(tmp_path / "cache").folder_of(KEY)
    with folder.using("a"):
        assert folder.get("a", 1000, writer(1000, calls)).read_bytes() == b"y" * 1000
    assert not calls and [path.name for path in folder.path.iterdir() if path.name != ".lock"] == ["a"]


def test_what_a_killed_process_leaves_is_no_file(tmp_path, other):
    process = other("a", 60)
    folder = tmp_path / "cache" / KEY
    assert [path.name for path in folder.glob(".a*")] == [".a.1000.part"] and not (folder / "a").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    put(make(tmp_path / "cache"), KEY, "b")
    cache = make(tmp_path / "cache", 2.2)
    put(cache, KEY, "c")
    assert not list(folder.glob("*.part")), "it counts as much as the file would, and goes first"
    assert put(cache, KEY, "a").read_bytes() == b"x" * 1000


def hammer(place: tuple[Path, int]) -> int:
    """Use files of a small cache in an order of this process's own; returns how many were whole."""
    folder, seed = place
    cache, whole = make(folder, 6.5), 0
    for step in range(60):
        key, name = f"{(step * seed) % 3}" * 40, f"{(step + seed) % 4}.tar"
        cached = cache.folder_of(key)
        with cached.using(name):
            data = cached.get(name, 1000, writer(1000)).read_bytes()
            whole += data == b"x" * 1000
    return whole


def test_many_processes_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(hammer, [(tmp_path / "cache", seed) for seed in (1, 2, 5, 7)]) == [60] * 4
    sizes = [path.stat().st_size for path in (tmp_path / "cache").rglob("*.tar")]
    assert set(sizes) == {1000} and len(sizes) <= 6 and not list((tmp_path / "cache").rglob("*.part"))


def test_a_fork_takes_no_lock_away(tmp_path):
    cache = make(tmp_path / "cache", 1.5)
    folder = cache.folder_of(KEY)
    folder.keep(["a"])
    folder.get("a", 1000, writer(1000))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(child_uses, (folder,)) == b"x" * 1000
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; from test_cache import *; "
        "put(make(Path(sys.argv[1]), 1.5), OTHER, 'b')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(ROOT), str(ROOT / "tests")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "what is in use takes 2 kB" in ended.stderr and (folder.path / "a").exists()


def child_uses(folder) -> bytes:
    with folder.using("a"):
        return folder.get("a", 1000, writer(1000)).read_bytes()


def test_a_full_disk_is_one_line(tmp_path):
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = make(tmp_path / "cache").folder_of(KEY)
    with pytest.raises(
        DataError, match=r"cache: the disk is full, a\.tar \(5\.0 GB\) does not fit; free some"
    ) as caught:
        folder.get("a.tar", 5_000_000_000, fail)
    assert "\n" not in str(caught.value) and [path.name for path in folder.path.iterdir()] == [".lock"]


@pytest.mark.parametrize("kind", ["file", "URL", "below a file"])
def test_a_cache_that_cannot_be(tmp_path, kind, monkeypatch):
    (tmp_path / "file").write_text("x")
    places = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "cache", "URL": Path("s3://bucket/x")}
    with pytest.raises(UsageError, match=r"cannot be written|is a URL"):
        make(places[kind])
    monkeypatch.setenv("FRACGEN_CACHE", str(places[kind]))
    with pytest.raises(UsageError, match=r"cannot be written|is a URL"):
        FileCache(CacheSettings())
    assert (tmp_path / "file").read_text() == "x"


def test_an_interrupt_leaves_nothing_half_written(tmp_path):
    folder = make(tmp_path / "cache").folder_of(KEY)

    def interrupted(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), folder.using("a"):
        folder.get("a", 1000, interrupted)
    assert [path.name for path in folder.path.iterdir()] == [".lock"]
    thread = threading.Thread(target=lambda: folder.get("a", 1000, writer(1000)))
    thread.start()
    thread.join(10)
    assert (folder.path / "a").exists(), "and no lock is held"
