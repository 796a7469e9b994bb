"""Files written whole or not at all; locks."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import small_recipe

from fracgen.render_shards import write_shards
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import lock_file, read_json, replacing, take_lock, unique_temporary, write_atomically


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_written_whole(tmp_path, durable):
    path = tmp_path / "file"
    write_atomically(path, b"one", durable=durable)
    write_atomically(path, "zw\u00f6lf \udcff", durable=durable)
    assert path.read_bytes() == "zw\u00f6lf ".encode() + b"\xff" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
def test_after_an_error_the_old_file_stays(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    raised = DataError if isinstance(error, OSError) else type(error)
    with pytest.raises(raised) as caught, replacing(path, temporary=unique_temporary(path)) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    if raised is DataError:
        assert str(caught.value) == f"{path}: cannot be written (No space left on device)"


def test_the_caller_says_which_error_it_is(tmp_path):
    with pytest.raises(UsageError, match="absent/file: cannot be written"):
        write_atomically(tmp_path / "absent" / "file", b"", error=UsageError)
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", b"", error=None)


def test_a_file_system_that_flushes_no_folders(tmp_path, monkeypatch):
    """As that of a virtual machine's shared folders: fsync of a folder is an invalid argument there."""
    kinds, fsync = [], os.fsync

    def sync(descriptor):
        kinds.append(stat.S_IFMT(os.fstat(descriptor).st_mode))
        if kinds[-1] == stat.S_IFDIR:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(tmp_path / "a", b"data", durable=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"data"
    assert kinds == [stat.S_IFREG, stat.S_IFDIR]


@pytest.mark.parametrize("text", ["[1]", "{", None, "[" * 100_000])
def test_read_json_says_what_is_wrong(tmp_path, text):
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"file\.json"):
        read_json(path)


def test_a_lock_ends_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    code = (
        f"from pathlib import Path; from fracgen.shards.files import take_lock; print(take_lock(Path({str(path)!r})))"
    )
    lock = take_lock(path)
    assert lock is not None and take_lock(path) is None
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "None\n"
    lock.close()
    assert subprocess.check_output([sys.executable, "-c", code], text=True) != "None\n"
    again = take_lock(path)
    assert again is not None


def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fracgen.shards.files.fcntl.flock", refuse)
    for lock in (take_lock, lambda path: lock_file(path).__enter__()):
        with pytest.raises(OSError, match="cannot be locked: No locks available") as caught:
            lock(tmp_path / "lock")
        assert caught.value.filename == str(tmp_path / "lock")


def test_no_folder_is_written_at_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("s3://bucket/x", Path("s3://bucket/x")):
        with pytest.raises(UsageError, match="bucket/x: is a URL; only paths of this machine"):
            write_shards(small_recipe(), folder)
    assert not list(tmp_path.iterdir())
