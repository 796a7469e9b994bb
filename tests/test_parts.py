"""More than one machine: parts that are merged, and a Dask cluster; the bytes are those of one process."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from conftest import PROVENANCE, contents, small_recipe
from test_generate import without_locks

from fracgen import render_shards as generate
from fracgen.render_shards import merge, plan, render_shard, write_shards
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.folder import FolderWriter
from fracgen.shards.layout import Layout, Part
from fracgen.shards.manifest import load_manifest
from fracgen.shards.plan import seal
from fracgen.shards.reader import open_shards
from fracgen.shards.verify import verify_folder


def write(recipe, path, **options):
    return write_shards(recipe, path, layout=plan(recipe, num_shards=5), provenance=PROVENANCE, **options)


def writer(recipe, path, part=None):
    work = generate.plan_of(recipe, plan(recipe, num_shards=5), PROVENANCE)
    return FolderWriter(path, work, part=part)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_end_as_one_process_does(recipe, folder, tmp_path, count):
    for number in range(count, 0, -1):
        result = write(recipe, tmp_path / "set", part=Part(number, count))
        assert result.manifest is None and result.new_samples == result.num_samples > 0
        assert not (tmp_path / "set" / "dataset.json").exists()
    assert merge(tmp_path / "set").manifest == load_manifest(folder)
    assert contents(tmp_path / "set") == contents(folder)


def test_every_shard_is_in_one_part():
    for shards, count in ((64, 16), (10, 3), (7, 7)):
        parts = [list(Part(number, count).shards(shards)) for number in range(1, count + 1)]
        assert (
            sorted(shard for part in parts for shard in part) == list(range(shards))
            and max(map(len, parts)) - min(map(len, parts)) <= 1
        )


@pytest.mark.parametrize(
    "text", ["", "3", "0/4", "5/4", "a/b", "1/0", "-1/4", "1/4/4", " 1/4", "1.0/4", "1/9999999999"]
)
def test_what_is_no_part(text):
    with pytest.raises(UsageError, match="part"):
        Part.parse(text)
    assert Part.parse("3/16") == Part(3, 16)


def test_more_parts_than_shards_are_refused(recipe, tmp_path):
    with pytest.raises(UsageError, match="only 5 shards"):
        write(recipe, tmp_path / "set", part=Part(1, 6))
    assert not (tmp_path / "set").exists()


def test_merging_names_what_is_missing(recipe, tmp_path):
    write(recipe, tmp_path / "set", part=Part(2, 3))
    before = contents(tmp_path / "set")
    with pytest.raises(DataError, match=r"3 shards are missing \(000000, 000002, 000003\); render parts 1/3, 3/3"):
        merge(tmp_path / "set")
    tars = {name for name in before if name.endswith(".tar")}
    assert tars == {name for name in contents(tmp_path / "set") if name.endswith(".tar")} and len(tars) == 2
    write(recipe, tmp_path / "set", part=Part(1, 3))
    with pytest.raises(DataError, match="render part 3/3"):
        merge(tmp_path / "set")


def test_the_whole_command_finishes_what_parts_began(recipe, folder, tmp_path):
    write(recipe, tmp_path / "set", part=Part(2, 3))
    assert 0 < write(recipe, tmp_path / "set").new_samples < 24
    assert contents(tmp_path / "set") == contents(folder)


def test_a_part_is_resumed_and_done_once(recipe, folder, tmp_path, monkeypatch):
    def failing(folder, shard, token):
        if shard == 4:
            raise OSError(28, "No space left on device")
        return render_shard(folder, shard, token)

    monkeypatch.setattr(generate, "render_shard", failing)
    with pytest.raises(OSError, match="No space"):
        write(recipe, tmp_path / "set", part=Part(1, 2), workers=1)
    monkeypatch.undo()
    assert 0 < write(recipe, tmp_path / "set", part=Part(1, 2)).new_samples < 15
    assert write(recipe, tmp_path / "set", part=Part(1, 2)).new_samples == 0
    write(recipe, tmp_path / "set", part=Part(2, 2))
    merge(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(folder)
    assert write(recipe, tmp_path / "set", part=Part(1, 2)).manifest is not None, "the folder is complete"
    assert contents(tmp_path / "set") == contents(folder)


def test_parts_of_another_recipe_are_refused(recipe, tmp_path):
    write(recipe, tmp_path / "set", part=Part(1, 2))
    before = without_locks(tmp_path / "set")
    with pytest.raises(UsageError, match="another recipe"):
        write(small_recipe(delta=0.2), tmp_path / "set", part=Part(2, 2))
    with pytest.raises(UsageError, match="num_shards 5"):
        layout = plan(recipe, num_shards=6)
        write_shards(recipe, tmp_path / "set", layout=layout, provenance=PROVENANCE, part=Part(2, 2))
    assert without_locks(tmp_path / "set") == before


HOLD = """
import sys
from pathlib import Path
from conftest import small_recipe
from test_parts import writer
from fracgen.shards.layout import Part
with writer(small_recipe(), Path(sys.argv[1]), Part(int(sys.argv[2]), int(sys.argv[3]))) as held:
    print(held.token, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_run(tmp_path):
    """Start another process that has begun a part and does nothing; returns it and its token."""
    started = []

    def start(number, count):
        run = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "set"), str(number), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
        started.append(run)
        return run, run.stdout.readline().strip()

    yield start
    for run in started:
        run.kill()
        run.wait()


def test_parts_are_written_side_by_side(recipe, folder, tmp_path, other_run):
    run, token = other_run(1, 3)
    assert token.startswith("00001-of-00003-")
    rubbish = tmp_path / "set" / ".partial" / f"1p-frac-train-000000.tar.{token}.aa.tmp"
    rubbish.write_text("half of a shard")
    write(recipe, tmp_path / "set", part=Part(2, 3))
    assert rubbish.exists(), "of a run that is on"
    with pytest.raises(UsageError, match="another run is writing part 1/3"):
        write(recipe, tmp_path / "set", part=Part(1, 3))
    with pytest.raises(UsageError, match="in 3 parts, this is one of 2"):
        write(recipe, tmp_path / "set", part=Part(2, 2))
    with pytest.raises(UsageError, match="another run is writing"):
        write(recipe, tmp_path / "set")
    with pytest.raises(DataError, match="are missing"):
        merge(tmp_path / "set")
    with pytest.raises(UsageError, match="another recipe"):
        write(small_recipe(delta=0.2), tmp_path / "set", part=Part(3, 3))
    run.kill()
    run.wait()
    write(recipe, tmp_path / "set", part=Part(1, 3))
    assert not rubbish.exists()
    with pytest.raises(DataError, match="has ended"):
        render_shard(tmp_path / "set", 0, token)
    write(recipe, tmp_path / "set", part=Part(3, 3))
    merge(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(folder)


def test_a_part_waits_for_no_whole_run(recipe, tmp_path, other_run):
    run, _ = other_run(1, 2)
    run.stdin.close()
    run.wait()
    with writer(recipe, tmp_path / "set"):
        other, token = other_run(2, 2)
        other.wait(30)
        assert token == "" and other.returncode == 1


def test_all_parts_at_once_in_processes_of_their_own(recipe, folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from conftest import small_recipe; from test_parts import write; "
        "from fracgen.shards.layout import Part; "
        "write(small_recipe(), Path(sys.argv[1]), part=Part.parse(sys.argv[2]), workers=1)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "set"), f"{number}/5"],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
        for number in range(1, 6)
    ]
    for run in runs:
        assert run.wait(120) == 0, run.stderr.read()
    merge(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(folder)


def test_merging_what_is_no_folder_in_parts(recipe, folder, tmp_path):
    before = contents(folder)
    assert merge(folder).manifest == load_manifest(folder), "a finished folder is left alone"
    assert contents(folder) == before
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(UsageError):
            merge(path)
    write(recipe, tmp_path / "set", part=Part(1, 1))
    plan_path = tmp_path / "set" / ".partial" / "plan.json"
    text = plan_path.read_text().replace('"sigma"', '"simga"')
    plan_path.write_text(text)
    with pytest.raises(DataError, match=r"plan\.json: damaged .*checksum"):
        merge(tmp_path / "set")
    values = {name: value for name, value in json.loads(text).items() if name != "checksum"}
    plan_path.write_bytes(seal(values))
    with pytest.raises(DataError, match=r"plan is damaged.*sigma"):
        merge(tmp_path / "set")


def test_two_workers_with_the_same_shard_do_no_harm(recipe, folder, tmp_path, monkeypatch):
    """An executor may take a worker for dead that is only slow, and give its shard to another."""
    from fracgen.shards import commit

    begun, go_on, write_tar = threading.Event(), threading.Event(), commit.write_tar

    def slow(*arguments):
        record = write_tar(*arguments)
        if not begun.is_set():
            begun.set()
            assert go_on.wait(30)
        return record

    monkeypatch.setattr(commit, "write_tar", slow)
    with writer(recipe, tmp_path / "set") as folder_writer:
        slow_one = threading.Thread(target=render_shard, args=(tmp_path / "set", 3, folder_writer.token))
        slow_one.start()
        assert begun.wait(30)
        render_shard(tmp_path / "set", 3, folder_writer.token)
        go_on.set()
        slow_one.join()
    name = "1p-frac-train-000003.tar"
    assert (tmp_path / "set" / name).read_bytes() == (folder / name).read_bytes()
    assert not list((tmp_path / "set").rglob("*.tmp"))


def test_num_indices_is_the_number_of_indices():
    for samples, shards, group in ((1003, 9, 40), (1000, 7, 40), (24, 5, 1)):
        layout = Layout(name="x", num_samples=samples, num_shards=shards, group=group)
        assert [layout.num_indices(shard) for shard in range(shards)] == [
            len(layout.indices(shard)) for shard in range(shards)
        ]


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster


def test_a_worker_killed_on_a_cluster_changes_nothing(cluster, tmp_path):
    from fracgen.cluster import connect

    recipe = small_recipe(classes=2000)
    layout = plan(recipe, num_shards=40)
    write_shards(recipe, tmp_path / "one", layout=layout, provenance=PROVENANCE)
    killed = []

    def kill_one(record):
        if not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    with connect(cluster.scheduler_address) as executor:
        write_shards(
            recipe, tmp_path / "set", layout=layout, provenance=PROVENANCE, executor=executor, on_shard=kill_one
        )
    assert killed and contents(tmp_path / "set") == contents(tmp_path / "one")


def test_what_kills_workers_is_reported(cluster):
    from fracgen.cluster import connect

    with pytest.raises(DataError, match="workers died one after the other"), connect(cluster.scheduler_address) as pool:
        pool.submit(os._exit, 9).result(120)


def test_a_cluster_without_workers_is_given_up(tmp_path, capsys):
    distributed = pytest.importorskip("distributed")
    from fracgen.cluster import connect

    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty:
        started = time.monotonic()
        with (
            pytest.raises(DataError, match="no workers for 1 s"),
            connect(empty.scheduler_address, patience=1) as executor,
        ):
            write(small_recipe(), tmp_path / "set", executor=executor)
        assert time.monotonic() - started < 60
    assert "the cluster has no workers" in capsys.readouterr().err


def test_a_scheduler_that_cannot_be_reached_is_named(monkeypatch):
    pytest.importorskip("distributed")
    from fracgen import cluster

    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "127.0.0.1:9"):
        with (
            pytest.raises(UsageError, match=re.escape(f"--scheduler {address}") + ".*dask scheduler"),
            cluster.connect(address),
        ):
            pass


def test_a_worker_that_cannot_see_the_folder_or_has_other_versions_says_so(recipe, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="a worker cannot see it"):
        render_shard(tmp_path / "elsewhere", 0, "token")
    with writer(recipe, tmp_path / "set") as folder_writer:
        monkeypatch.setattr(generate, "versions", lambda *_: {"numpy": "0.9"})
        with pytest.raises(DataError, match=r"a worker has other versions .*0\.9"):
            render_shard(tmp_path / "set", 0, folder_writer.token)


@pytest.mark.parametrize("change", [("samples", 26), ("name", "1p-frac-train-000002.tar"), ("bytes", 1), ("x", None)])
def test_a_record_that_is_not_the_shards_costs_the_shard(recipe, folder, tmp_path, change):
    write(recipe, tmp_path / "set", part=Part(1, 1))
    path = tmp_path / "set" / ".partial" / "000001.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {change[0]: change[1]} if change[1] is not None else {}))
    with pytest.raises(DataError, match=r"1 shard is missing \(000001\); render part 1/1"):
        merge(tmp_path / "set")
    assert 0 < write(recipe, tmp_path / "set", part=Part(1, 1)).new_samples < 6
    merge(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(folder)


def test_a_plan_that_was_changed_is_not_merged(recipe, folder, tmp_path):
    write(recipe, tmp_path / "set", part=Part(1, 1))
    path = tmp_path / "set" / ".partial" / "plan.json"
    whole = json.loads(path.read_text())
    changes = {
        "another size": {"recipe": whole["recipe"] | {"size": 49}},
        "another layout": {"layout": whole["layout"] | {"num_shards": "5"}},
        "no shards": {"layout": whole["layout"] | {"num_shards": 0}},
        "a list": {"recipe": [1]},
        "no hash": {"recipe_hash": None},
        "no provenance": {"provenance": None},
    }
    before = contents(tmp_path / "set")
    for name, change in changes.items():
        values = {key: value for key, value in (whole | change).items() if value is not None}
        path.write_text(json.dumps(values))
        with pytest.raises(DataError) as caught:
            merge(tmp_path / "set")
        assert "\n" not in str(caught.value), name
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="damaged"):
        merge(tmp_path / "set")
    path.write_bytes(before[".partial/plan.json"])
    (tmp_path / "set" / ".partial" / "parts").write_text("0")
    merge(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(folder)


def test_a_finished_folder_is_mended_by_parts(recipe, folder, tmp_path):
    write(recipe, tmp_path / "set")
    (tmp_path / "set" / "1p-frac-train-000003.tar").unlink()
    before = contents(tmp_path / "set")
    with pytest.raises(DataError, match=r"1 shard is missing \(000003\)"):
        merge(tmp_path / "set")
    assert contents(tmp_path / "set") == before, "a merge that fails changes nothing"
    assert write(recipe, tmp_path / "set", part=Part(1, 2)).manifest is None, "another part's shard is missing"
    assert write(recipe, tmp_path / "set", part=Part(2, 2)).new_samples > 0
    merge(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(folder)


def test_a_finished_folder_is_mended_by_parts_with_other_versions(recipe, tmp_path, monkeypatch):
    """The shard's bytes are others then, its pixels the same; the manifest must name what is there."""
    write(recipe, tmp_path / "set")
    was = load_manifest(tmp_path / "set")
    (tmp_path / "set" / "1p-frac-train-000003.tar").unlink()
    other = {**generate.versions(), "isal": "0.0"}
    monkeypatch.setattr(generate, "versions", lambda *_: other)
    monkeypatch.setattr("fracgen.shards.png._chunk", slower_chunk)
    with pytest.raises(UsageError, match="--any-versions"):
        write(recipe, tmp_path / "set", part=Part(2, 2))
    assert write(recipe, tmp_path / "set", part=Part(2, 2), any_versions=True).new_samples > 0
    merge(tmp_path / "set", any_versions=True)
    monkeypatch.undo()
    now = load_manifest(tmp_path / "set")
    assert now.shards[3].sha256 != was.shards[3].sha256 and now.shards[3].pixels_sha256 == was.shards[3].pixels_sha256
    assert [record for record in now.shards if record.name != was.shards[3].name] == [
        record for record in was.shards if record.name != was.shards[3].name
    ]
    assert verify_folder(open_shards(tmp_path / "set")) == []


def slower_chunk(kind, data):
    """A PNG's chunk, with its pixels compressed otherwise."""
    if kind == b"IDAT":
        data = zlib.compress(zlib.decompress(data), 9)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_provenance_is_that_of_the_run_that_began(recipe, folder, tmp_path):
    write(recipe, tmp_path / "set", part=Part(1, 2))
    layout = plan(recipe, num_shards=5)
    write_shards(recipe, tmp_path / "set", layout=layout, provenance={"base": "given"}, part=Part(2, 2))
    merge(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(folder)
