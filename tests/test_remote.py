"""Folders of shards at URLs: an S3 server, plain HTTP that misbehaves, fsspec's memory; the same samples as on disk."""

import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import PROVENANCE, small_recipe
from servers import FaultyServer, faulty_server, file_system, upload

from fracgen.cli.app import run
from fracgen.render_shards import plan, write_shards
from fracgen.shards import remote
from fracgen.shards.cache import CacheSettings, FileCache
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.reader import open_shards
from fracgen.shards.remote_tars import fetch_tars
from fracgen.shards.verify import unlisted_files, verify_folder

SECRET = "s3cr3t"
pytestmark = pytest.mark.filterwarnings("ignore::fracgen.shards.remote.RemoteWarning")


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch) -> CacheSettings:
    """A cache of the test's own, which the commands take too; tries that follow at once."""
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    return CacheSettings()


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """The finished folder, to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "served" / "set"))


@pytest.fixture
def server(copy) -> FaultyServer:
    with faulty_server(copy.parent) as server:
        yield server


def tar(folder: Path, number: int) -> str:
    return sorted(folder.glob("*.tar"))[number].name


def content(sample):
    return sample.index, sample.label, sample.image.tobytes(), json.dumps(sample.metadata)


def test_s3_gives_what_the_disk_gives(s3, folder, tmp_path):
    url = upload(folder, "same")
    there, here = open_shards(url), open_shards(folder)
    assert len(there) == len(here) and repr(there) == f"open_shards('{url}')"
    assert content(there[13]) == content(here[13]), "one sample takes one tar"
    assert [path.name for path in there.files.folder.glob("*.tar")] == [tar(folder, 2)]
    assert list(map(content, there)) == list(map(content, here))
    assert list(map(content, there.by_index()[5:9])) == list(map(content, here.by_index()[5:9]))
    np.testing.assert_array_equal(there.labels, here.labels)
    assert there.manifest == here.manifest


@pytest.mark.parametrize("scheme", ["memory", "http", "s3"])
def test_other_processes_and_places(scheme, folder, request):
    if scheme == "memory":
        url = "memory://place/set"
        fsspec.filesystem("memory").put(str(folder), "/place/set", recursive=True)
    elif scheme == "http":
        url = f"{request.getfixturevalue('server').url}/set"
    else:
        request.getfixturevalue("s3")
        url = upload(folder, "places")
    expected = list(map(content, open_shards(folder)))
    shards = open_shards(url)
    assert list(map(content, pickle.loads(pickle.dumps(shards)))) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:  # the second half is fetched by children
        assert pool.map(content_of, [(shards, number) for number in range(len(shards))]) == expected
    assert verify_folder(shards) == [] and (scheme == "http" or unlisted_files(shards) == [])


def content_of(place):
    shards, number = place
    return content(shards[number])


def test_a_warm_cache_fetches_the_manifest_alone(server, copy):
    first = open_shards(f"{server.url}/set")
    expected = list(map(content, first))
    assert "5 files" in first.files.cache_note()
    before = dict(server.requests)
    again = open_shards(f"{server.url}/set")
    assert list(map(content, again)) == expected and again.files.num_files == 0
    assert {name for name in server.requests if server.requests[name] != before[name]} == {"dataset.json"}


@pytest.mark.parametrize("fault", ["cut", "wrong", "short", "long", 500, 503, 429])
def test_what_passes_is_tried_again(server, folder, fault, tmp_path):
    server.faults[tar(folder, 1)] = [fault, fault]
    server.faults["dataset.json"] = [fault if fault in ("cut", 500) else ""]
    shards = open_shards(f"{server.url}/set")
    with pytest.warns(remote.RemoteWarning, match=r"000001.tar: .*; trying again in 0 s \(2 of 2\)"):
        assert list(map(content, shards)) == list(map(content, open_shards(folder)))
    assert server.requests[tar(folder, 1)] == 3 and "2 tries repeated" in shards.files.cache_note()
    assert not list((tmp_path / "cache").rglob("*.part")), "nothing half-written stays"


@pytest.mark.parametrize(
    ("faults", "kind", "message"),
    [
        (["cut"] * 9, DataError, "given up after 3 tries"),
        (["wrong"] * 9, DataError, "another sha256 .*given up after 3 tries"),
        (["short"] * 9, DataError, "bytes arrived; given up"),
        (["long"] * 9, DataError, "more than the .* bytes"),
        ([500] * 9, DataError, "500.*given up"),
        ([404], DataError, r"000001.tar: not there, though dataset\.json names it"),
        ([403], UsageError, "access refused .*403"),
        ([401], UsageError, "access refused .*401"),
        ([400], UsageError, "cannot be read .*400"),
    ],
)
def test_what_does_not_pass_is_one_line(server, folder, tmp_path, faults, kind, message):
    server.faults[tar(folder, 1)] = faults
    shards = open_shards(f"{server.url}/set")
    with pytest.raises(kind, match=message) as caught:
        list(shards)
    assert "\n" not in str(caught.value) and server.url in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.part"))
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 1, "the one before it"


def test_a_server_that_hangs_is_waited_for_so_long_and_no_longer(server, folder, monkeypatch):
    monkeypatch.setattr(remote, "_READ_SECONDS", 0.2)
    server.faults[tar(folder, 1)] = ["hang"]
    with pytest.warns(remote.RemoteWarning, match=r"000001\.tar: .*[Tt]imeout.*; trying again"):
        assert len(list(open_shards(f"{server.url}/set"))) == 24


def test_an_interrupt_stops_what_is_on_its_way(server, folder, tmp_path):
    files = open_shards(f"{server.url}/set").files
    for number in range(1, 5):
        server.faults[tar(folder, number)] = ["hang"] * 3

    def interrupt(done: int, of_all: int) -> None:
        assert of_all == 5, "said before the first has come"
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.fetch_tars(progress=interrupt)
    assert sum(server.requests[tar(folder, number)] for number in range(5)) <= 5 + 4, "nor is anything begun anew"
    server.faults.clear()
    assert files.fetch_tars() == [] and not list((tmp_path / "cache").rglob("*.part"))


@pytest.mark.parametrize("scheme", ["http", "s3", "memory"])
def test_tars_of_others_that_changed_are_fetched_anew(scheme, server, copy, settings, request):
    """Of the same size, as tars often are."""
    path = copy / tar(copy, 0)
    place = {"http": server.url, "s3": "s3://bucket/changed", "memory": "memory://changed"}[scheme]
    if scheme == "s3":
        request.getfixturevalue("s3")

    def put(data: bytes, modified: int) -> bytes:
        path.write_bytes(data)
        os.utime(path, (modified, modified))
        if scheme != "http":
            store = file_system() if scheme == "s3" else fsspec.filesystem("memory")
            store.put(str(path), f"{place}/set/{path.name}")
        return data

    def fetch() -> bytes:
        (fetched,), _ = fetch_tars([f"{place}/set/{path.name}"], FileCache(settings))
        return fetched.read_bytes()

    first = put(path.read_bytes(), 1_700_000_000)
    assert fetch() == first
    second = put(bytes(reversed(first)), 1_700_000_060)
    assert fetch() == second


def test_an_interrupt_stops_tars_of_another_origin_too(server, folder, tmp_path):
    urls = [f"{server.url}/set/{tar(folder, number)}" for number in range(5)]
    for number in range(1, 5):
        server.faults[tar(folder, number)] = ["", "hang", "hang"]  # asked for its size first

    def interrupt(done: int, of_all: int) -> None:
        if done:
            raise KeyboardInterrupt

    cache = FileCache(CacheSettings())
    with pytest.raises(KeyboardInterrupt):
        fetch_tars(urls, cache, progress=interrupt)
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 1, "what had come"
    assert not list((tmp_path / "cache").rglob("*.part"))
    server.faults.clear()
    assert all(path.is_file() for path in fetch_tars(urls, cache)[0])


def test_no_room_for_temporary_files_is_one_line_that_names_their_folder(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert run(["inspect", f"{server.url}/set"]) == 1
    assert re.fullmatch(r"fracgen: \S+/gone: cannot be written .*set TMPDIR to another\n", capsys.readouterr().err)


def test_a_set_that_changes_while_it_is_read_is_named(server, copy, tmp_path):
    shards = open_shards(f"{server.url}/set")
    samples = iter(shards)
    next(samples)
    shutil.rmtree(copy)
    other = small_recipe(seed=4)
    write_shards(other, copy, layout=plan(other, num_shards=5), provenance=PROVENANCE)
    with pytest.raises(DataError, match=f"{server.url}/set: changed on the server while it was read"):
        list(samples)
    assert list(map(content, open_shards(f"{server.url}/set"))) == list(map(content, open_shards(copy)))
    shutil.rmtree(copy)
    with pytest.raises(UsageError, match=r"dataset.json: not there; so this is no folder of shards"):
        open_shards(f"{server.url}/set")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/set", "s3://no-such-bucket/set/dataset.json: not there .*bucket does not exist"),
        ("s3://bucket/absent", "s3://bucket/absent/dataset.json: not there"),
        ("http://127.0.0.1:9/set", "Cannot connect to host 127.0.0.1:9 .*given up"),
        ("nosuch://bucket/set", "Protocol not known: nosuch"),
        ("sftp://host/set", "needs paramiko, which is not installed: pip install paramiko"),
        ("file:///tmp/set", "a file of this machine; give its path"),
        ("simplecache::s3://bucket/set", "URLs in one another"),
        ("memory://absent", "not there"),
        ("s3://user:secret@bucket/set", r'^(?!.*secret).*Invalid bucket name "\*\*\*@bucket"'),
    ],
)
def test_places_that_are_not_there(s3, url, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("inspect", "verify", "preview"):
        assert run([command, url]) == (1 if "given up" in message else 2)
        errors = capsys.readouterr().err.splitlines()
        assert len([line for line in errors if line.startswith("fracgen:")]) == 1, errors
        assert re.search(message, errors[-1]), errors
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


@pytest.mark.parametrize(
    ("library", "url", "mend"),
    [
        ("fsspec", "s3://bucket/set", "needs fsspec, which is not installed: pip install 'fracgen[remote]'"),
        ("s3fs", "s3://bucket/set", "needs s3fs, which is not installed: pip install s3fs"),
        ("aiohttp", "https://host/set", "needs aiohttp, which is not installed: pip install 'fracgen[remote]'"),
        ("gcsfs", "gs://bucket/set", "needs gcsfs, which is not installed: pip install gcsfs"),
    ],
)
def test_a_library_that_is_not_installed(library, url, mend, tmp_path):
    code = "import sys; sys.modules[sys.argv[1]] = None; from fracgen.cli.app import run; run(['inspect', sys.argv[2]])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, library, url]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=100)
    assert shown.stderr == f"fracgen: {url}/dataset.json: {mend}\n"


def test_no_credentials_are_one_line(s3, folder, monkeypatch, capsys):
    url = upload(folder, "private")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    assert run(["inspect", url]) == 2
    error = capsys.readouterr().err
    assert "no credentials (NoCredentialsError: Unable to locate credentials)" in error and error.count("\n") == 1
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    assert run(["inspect", url]) == 0, "in the same process, as in a notebook"


def test_verify_reads_the_server_not_the_cache(s3, copy):
    url = upload(copy, "damaged")
    shards = open_shards(url)
    assert verify_folder(shards, workers=2) == [] and len(list(shards)) == 24
    data = bytearray((copy / tar(copy, 0)).read_bytes())
    data[700] ^= 1
    file_system().pipe(f"{url}/{tar(copy, 0)}", bytes(data))
    file_system().pipe(f"{url}/{tar(copy, 1)}", bytes(data[:-512]))
    file_system().rm(f"{url}/{tar(copy, 2)}")
    file_system().pipe(f"{url}/README.md", b"other")
    file_system().pipe(f"{url}/stray.tar", b"x")
    file_system().pipe(f"{url}/notes.txt", b"x")
    assert len(list(open_shards(url))) == 24, "what is in the cache was checked when it came"
    problems = verify_folder(open_shards(url), workers=2)
    for number, words in enumerate(("sha256 differs", "bytes, the manifest says", "missing")):
        assert any(tar(copy, number) in problem and words in problem for problem in problems), problems
    assert "README.md: differs from what the manifest says" in problems
    assert any(problem.startswith("stray.tar: not in the manifest") for problem in problems)
    assert unlisted_files(open_shards(url)) == ["notes.txt (file)"]
    assert not [path for path in shards.files.folder.iterdir() if "anew" in path.name]


def test_verify_does_not_call_a_set_bad_for_what_befell_on_the_way(server, folder, copy):
    server.faults |= {tar(folder, 0): ["short"], tar(folder, 1): ["wrong"], "README.md": ["short"]}
    shards = open_shards(f"{server.url}/set")
    assert verify_folder(shards, workers=2) == [] and "3 tries repeated" in shards.files.cache_note()
    other = small_recipe(seed=4)
    shutil.rmtree(copy)
    write_shards(other, copy, layout=plan(other, num_shards=5), provenance=PROVENANCE)
    with pytest.raises(DataError, match="changed on the server while it was read"):
        verify_folder(shards, workers=2)


def test_a_cache_that_is_too_small_is_no_problem_of_the_set(server, capsys):
    for command in (["verify"], ["preview"]):
        assert run([*command, f"{server.url}/set", "--cache-limit", "0.000005"]) == 1
        shown = capsys.readouterr()
        assert "what is in use takes" in shown.err and shown.err.count("\n") == 1 and "problem" not in shown.out


def test_the_commands_read_urls(s3, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    url = upload(folder, "commands")
    assert run(["inspect", str(folder)]) == 0
    here = capsys.readouterr().out.replace(str(folder), url)
    assert run(["inspect", url, "--cache", str(tmp_path / "other"), "--cache-limit", "2"]) == 0
    there = capsys.readouterr()
    assert (
        there.out == here and f"cache     {tmp_path / 'other'} (" in there.err and " of 2.0 GB); 0 files" in there.err
    )
    assert run(["verify", url, "--render", "--samples", "4"]) == 0
    assert "cache     " in capsys.readouterr().err
    assert run(["preview", url]) == 0
    assert run(["preview", str(folder), "-o", str(tmp_path / "here.png")]) == 0
    assert (tmp_path / "commands-preview.png").read_bytes() == (tmp_path / "here.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "other", "commands-preview.png", "here.png"}


def test_secrets_are_sent_and_not_shown(server, folder, capsys, tmp_path):
    host = server.url.removeprefix("http://")
    url = f"http://user:{SECRET}@{host}/set?token={SECRET}"
    server.faults[tar(folder, 1)] = ["cut", 403]
    assert run(["inspect", url]) == 0 and run(["preview", url, "-o", str(tmp_path / "a.png")]) == 0
    assert run(["verify", url, "--workers", "1"]) == 1
    server.faults["dataset.json"] = [403]
    assert run(["inspect", url]) == 2
    assert server.queries == {f"token={SECRET}"} and None not in server.authorizations
    with pytest.raises(UsageError) as caught:
        open_shards(f"http://user:{SECRET}@{host}/absent?token={SECRET}")
    shown = capsys.readouterr()
    for text in (shown.out, shown.err, str(caught.value), repr(open_shards(url))):
        assert SECRET not in text
    assert f"http://***@{host}/set" in shown.out and "access refused" in shown.err
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_hub_gives_what_was_published(hub, folder, capsys):
    from fracgen.publish import publish

    publish(folder, "hf://datasets/me/set")
    expected = list(map(content, open_shards(folder)))
    assert list(map(content, open_shards("hf://datasets/me/set"))) == expected
    assert run(["verify", "hf://datasets/me/set", "--workers", "1"]) == 0
    assert capsys.readouterr().err.startswith("cache     "), "and nothing is named that the Hub adds"
    publish(folder, "hf://datasets/me/set", revision="v1")
    assert list(map(content, open_shards("hf://datasets/me/set@v1"))) == expected
    assert run(["inspect", "hf://datasets/me/absent"]) == 2 and run(["inspect", "hf://datasets/me/set/absent"]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("not there") == 2 and shown.err.count("fracgen:") == 2
