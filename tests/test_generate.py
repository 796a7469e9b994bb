"""Folders: the same bytes whatever the workers, the executor and the interruptions; one writer; nothing lost."""

import contextlib
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import replace
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from conftest import PROVENANCE, contents, small_recipe, small_recipes

from fracgen import render_shards as generate
from fracgen.registry import save_recipe
from fracgen.render_shards import merge, plan, render_shard, write_shards
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.folder import FolderWriter
from fracgen.shards.layout import Part
from fracgen.shards.locks import commit_guard
from fracgen.shards.manifest import ShardRecord, load_manifest
from fracgen.shards.plan import read_plan, read_record
from fracgen.shards.reader import open_shards
from fracgen.shards.settings import from_json
from fracgen.shards.verify import verify_folder


def write(recipe, path, **options):
    return write_shards(recipe, path, layout=plan(recipe, num_shards=5), provenance=PROVENANCE, **options)


def plan_key(recipe):
    return generate.plan_of(recipe, plan(recipe, num_shards=5), PROVENANCE)


def without_locks(path):
    names = (".partial/lock", ".partial/commit")
    return {name: data for name, data in contents(path).items() if not name.startswith(names)}


class Backwards(Executor):
    """Runs everything at once, the last first."""

    def __init__(self):
        self.calls = []

    def submit(self, function, /, *arguments, **named):
        future = Future()
        self.calls.append((future, function, arguments))
        if len(self.calls) == 5:
            for waiting, call, values in reversed(self.calls):
                waiting.set_result(call(*values))
        return future


def test_bytes_do_not_depend_on_who_renders(recipe, folder, tmp_path):
    expected = contents(folder)
    write(recipe, tmp_path / "one", workers=1)
    write(recipe, tmp_path / "two", workers=2)
    write(recipe, tmp_path / "backwards", executor=Backwards())
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        write(recipe, tmp_path / "processes", executor=pool)
    for name in ("one", "two", "backwards", "processes"):
        assert contents(tmp_path / name) == expected, name


def test_exactly_the_files_of_the_contract(folder):
    tars = [f"1p-frac-train-{shard:06d}.tar" for shard in range(5)]
    assert sorted(contents(folder)) == sorted(
        [*tars, "README.md", "_info.json", "dataset.json", "preview.png", "sizes.json"]
    )


def test_nothing_of_time_host_or_speed_is_committed(folder):
    text = (folder / "dataset.json").read_text()
    assert os.uname().nodename not in text
    assert not {"time", "date", "seconds", "host", "workers", "cpu", "speed"} & set(json.loads(text))


def test_manifest_counts_add_up(recipe, folder):
    manifest = load_manifest(folder)
    tries = sum(sample.metadata["tries"] for sample in open_shards(folder))
    assert manifest.num_samples == 24 and manifest.num_classes == 24
    assert manifest.rejections["fill"] == tries - 24 > 0
    assert manifest.acceptance == 24 / tries
    assert manifest.num_bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_a_clone_that_is_not_installed_writes_the_same_images(recipe, folder, tmp_path, monkeypatch):
    installed = metadata.distribution

    def distribution(name):
        if name == "fracgen":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    manifest = write(recipe, tmp_path / "set").manifest
    assert manifest.versions == {**load_manifest(folder).versions, "fracgen": "unknown"}
    assert manifest.shards == load_manifest(folder).shards


def test_a_complete_folder_is_left_alone(recipe, tmp_path):
    write(recipe, tmp_path / "set")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    result = write(recipe, tmp_path / "set")
    assert result.new_samples == 0 and result.manifest.num_samples == 24
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == before


def test_a_folder_goes_on_with_the_number_of_shards_that_it_has(recipe, folder, tmp_path, monkeypatch):
    """One image a tar was the default of small sets once."""
    out, render_one, rendered = tmp_path / "set", generate.render_shard, []

    def stop_after_two(path, shard, token):
        if len(rendered) == 2:
            raise DataError("stopped")
        rendered.append(shard)
        return render_one(path, shard, token)

    monkeypatch.setattr(generate, "render_shard", stop_after_two)
    with pytest.raises(DataError, match="stopped"):
        write_shards(recipe, out, layout=plan(recipe, num_shards=5), provenance=PROVENANCE, workers=1)
    monkeypatch.undo()
    assert plan(recipe).num_shards != 5 and plan(recipe, folder=str(out)).num_shards == 5
    assert plan(small_recipe(seed=9), folder=out) == plan(small_recipe(seed=9)), "another recipe's folder says nothing"
    write_shards(recipe, out, provenance=PROVENANCE)
    assert contents(out) == contents(folder)
    assert write_shards(recipe, out, provenance=PROVENANCE).new_samples == 0


def test_failing_in_the_middle_keeps_shards_and_resumes(recipe, folder, tmp_path, monkeypatch):
    def failing(folder, shard, token):
        if shard == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return render_shard(folder, shard, token)

    monkeypatch.setattr(generate, "render_shard", failing)
    with pytest.raises(OSError, match="No space"):
        write(recipe, tmp_path / "set", workers=1)
    kept = {path.name for path in (tmp_path / "set").glob("*.tar")}
    assert {f"1p-frac-train-{shard:06d}.tar" for shard in range(3)} <= kept
    assert "1p-frac-train-000003.tar" not in kept
    assert not (tmp_path / "set" / "dataset.json").exists()
    monkeypatch.undo()
    assert write(recipe, tmp_path / "set").new_samples < 24
    assert contents(tmp_path / "set") == contents(folder)


def test_disk_full_inside_a_shard_leaves_no_rubbish(recipe, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, UsageError), match="No space"):
        write(recipe, tmp_path / "set", workers=1)
    assert not list((tmp_path / "set").rglob("*.tar*"))


@pytest.mark.parametrize(
    "moment", ["rubbish", "tar without record", "torn record", "before the manifest", "before clean-up"]
)
def test_every_moment_of_a_kill(recipe, folder, tmp_path, moment):
    """What a kill leaves at each step of the protocol, built by hand."""
    path = tmp_path / "set"
    key = plan_key(recipe)
    with FolderWriter(path, key) as writer:
        for shard in range(5 if moment.startswith("before") else 3):
            writer.add(shard, render_shard(path, shard, writer.token))
    partial = path / ".partial"
    if moment == "rubbish":
        (partial / "1p-frac-train-000004.tar.aa.tmp").write_bytes(b"half")
    elif moment == "tar without record":
        (path / "1p-frac-train-000004.tar").write_bytes(b"never vouched for")
    elif moment == "torn record":
        (partial / "000002.json").write_bytes(b'{"name"')
    elif moment == "before clean-up":
        for name in ("dataset.json", "README.md", "_info.json", "sizes.json", "preview.png"):
            (path / name).write_bytes((folder / name).read_bytes())
    write(recipe, path)
    assert contents(path) == contents(folder)


RENDER = "import sys; from fracgen.cli.app import run; sys.exit(run(sys.argv[1:]))"


def test_killed_for_real_and_resumed(tmp_path):
    """`kill -9` at ten moments of a run of some seconds, then the same command to the end."""
    recipe = small_recipe(classes=400, points=100_000)
    save_recipe(recipe, tmp_path / "r.yaml")
    command = [sys.executable, "-c", RENDER, "render", "--recipe", str(tmp_path / "r.yaml"), "--shards", "40"]
    subprocess.run([*command, "--out", str(tmp_path / "straight"), "--workers", "2"], check=True, capture_output=True)
    killed = 0
    for kill in range(10):
        run = subprocess.Popen(
            [*command, "--out", str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        shards_before = len(list((tmp_path / "killed").glob("*.tar")))
        deadline = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / "killed").glob("*.tar"))) >= shards_before + 1 + kill % 3:
                run.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.002)
        run.wait()
    assert killed >= 5
    done = subprocess.run([*command, "--out", str(tmp_path / "killed")], capture_output=True, text=True, check=True)
    assert "400 of 400 classes" in done.stdout
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


def test_interrupt_says_how_to_resume(tmp_path):
    save_recipe(small_recipe(classes=100_000, points=100_000), tmp_path / "r.yaml")
    command = [
        sys.executable,
        "-c",
        RENDER,
        "render",
        "--recipe",
        str(tmp_path / "r.yaml"),
        "--out",
        str(tmp_path / "set"),
    ]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits "ignore"
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "set").glob(".partial/*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert out == "" and err.count("\n") == 1 and "run the same command to go on" in err
    assert not list((tmp_path / "set").rglob("*.tmp"))


def test_another_recipe_is_refused_and_nothing_is_touched(recipe, folder, tmp_path):
    write(recipe, tmp_path / "set")
    for other, options, message in [
        (small_recipe(delta=0.2), {"num_shards": 5}, "another recipe"),
        (recipe, {"num_shards": 6}, "num_shards 5"),
        (recipe, {"num_shards": 5, "png_bits": 1}, "png_bits 8"),
    ]:
        with pytest.raises(UsageError, match=message):
            write_shards(other, tmp_path / "set", layout=plan(other, **options))
    assert contents(tmp_path / "set") == contents(folder)


def test_another_recipe_is_refused_in_an_unfinished_folder(recipe, tmp_path):
    (tmp_path / "set" / ".partial").mkdir(parents=True)
    write(recipe, tmp_path / "set")
    (tmp_path / "set" / "dataset.json").rename(tmp_path / "dataset.json")
    (tmp_path / "set" / ".partial").mkdir()
    key = replace(plan_key(recipe), recipe_hash="other")
    (tmp_path / "set" / ".partial" / "plan.json").write_bytes(key.to_bytes())
    (tmp_path / "set" / ".partial" / "000000.json").write_text("{}")
    before = contents(tmp_path / "set")
    with pytest.raises(UsageError, match="another recipe"):
        write(recipe, tmp_path / "set")
    assert {
        name: data for name, data in contents(tmp_path / "set").items() if name[9:] not in ("lock", "commit")
    } == before


def test_other_versions_are_refused_unless_told(recipe, folder, tmp_path, monkeypatch):
    theirs = {**generate.versions(), "numpy": "1.0.0"}
    monkeypatch.setattr(generate, "versions", lambda *_: theirs)
    key = plan_key(recipe)
    with FolderWriter(tmp_path / "set", key) as writer:
        render_shard(tmp_path / "set", 0, writer.token)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"numpy 1\.0\.0, now .*--any-versions"):
        write(recipe, tmp_path / "set")
    write(recipe, tmp_path / "set", any_versions=True)
    assert contents(tmp_path / "set") == contents(folder)


def test_foreign_folders_are_not_written(recipe, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "odd" / ".partial").mkdir(parents=True)
    (tmp_path / "odd" / ".partial" / "notes.txt").write_text("mine")
    (tmp_path / "tars" / ".partial").mkdir(parents=True)
    (tmp_path / "tars" / "1p-frac-train-000000.tar").write_text("mine too")
    before = contents(tmp_path)
    for path, message in [
        ("odd", "not empty"),
        ("tars", "not empty"),
        ("full", "not empty"),
        ("file", "is a file"),
        ("file/below", "cannot be written"),
    ]:
        with pytest.raises(UsageError, match=message):
            write(recipe, tmp_path / path)
    assert contents(tmp_path) == before and len(before) == 4


def test_a_finished_folder_needs_no_writing_to_be_found_complete(recipe, folder, tmp_path, monkeypatch):
    write(recipe, tmp_path / "set")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert write(recipe, tmp_path / "set").new_samples == 0


@pytest.mark.parametrize("name", ["_info.json", "sizes.json", "README.md", "preview.png"])
def test_lost_or_changed_sidecars_are_written_again(recipe, folder, tmp_path, name):
    write(recipe, tmp_path / "set")
    for change in (lambda path: path.unlink(), lambda path: path.write_bytes(b"x" + path.read_bytes()[1:])):
        change(tmp_path / "set" / name)
        assert any(name in problem for problem in verify_folder(open_shards(tmp_path / "set")))
        assert write(recipe, tmp_path / "set").new_samples == 0
        assert contents(tmp_path / "set") == contents(folder)


def test_a_state_that_is_damaged_is_refused_or_ignored_in_one_line(recipe, folder, tmp_path):
    for number, plan_text in enumerate(["", "[]", '{"recipe_hash": 1}', '{"recipe_hash": "HASH", "layout": "x"}']):
        partial = tmp_path / str(number) / ".partial"
        partial.mkdir(parents=True)
        (partial / "plan.json").write_text(plan_text.replace("HASH", generate.recipe_hash(recipe)))
        (partial / "000000.json").write_text('{"samples": "x"}')
        before = without_locks(tmp_path / str(number))
        with pytest.raises(DataError, match=r"plan\.json: damaged .*remove"):
            write(recipe, tmp_path / str(number))
        with pytest.raises(DataError, match="damaged"):
            merge(tmp_path / str(number))
        assert without_locks(tmp_path / str(number)) == before


def unfinished(recipe, path, num_shards=3):
    """A folder of which some shards are committed."""
    with FolderWriter(path, plan_key(recipe)) as writer:
        for shard in range(num_shards):
            writer.add(shard, render_shard(path, shard, writer.token))
    return path


def test_one_flipped_byte_of_a_record_costs_no_more_than_its_shard(recipe, folder, tmp_path):
    path = unfinished(recipe, tmp_path / "set")
    record = path / ".partial" / "000001.json"
    good = record.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(good))[:40].tolist():
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        record.write_bytes(bad)
        assert read_record(path, plan_key(recipe).layout, 1) in (None, from_json(ShardRecord, json.loads(good))), place
    write(recipe, path)
    assert contents(path) == contents(folder)


def test_one_flipped_byte_of_a_plan_is_found(recipe, tmp_path):
    path = unfinished(recipe, tmp_path / "set", 1) / ".partial" / "plan.json"
    good, rng = path.read_bytes(), np.random.default_rng(0)
    expected = read_plan(path.parent.parent)
    for place in rng.permutation(len(good))[:100].tolist():
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        with contextlib.suppress(DataError):
            assert read_plan(path.parent.parent) == expected, place


@pytest.mark.parametrize("change", [lambda data: data[:-1] + b"x", lambda data: data[:700] + b"y" + data[701:]])
def test_a_tar_that_changes_while_the_folder_is_unfinished_is_made_again(recipe, folder, tmp_path, change):
    path = unfinished(recipe, tmp_path / "set")
    tar = path / "1p-frac-train-000001.tar"
    tar.write_bytes(change(tar.read_bytes()))
    write(recipe, path)
    assert contents(path) == contents(folder)
    write(recipe, tmp_path / "parts", part=Part(1, 2))
    write(recipe, tmp_path / "parts", part=Part(2, 2))
    tar = tmp_path / "parts" / "1p-frac-train-000001.tar"
    tar.write_bytes(change(tar.read_bytes()))
    with pytest.raises(DataError, match=r"000001\.tar: changed after being committed"):
        merge(tmp_path / "parts")
    assert not (tmp_path / "parts" / "dataset.json").exists()
    write(recipe, tmp_path / "parts", part=Part(2, 2))
    merge(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(folder)


def test_a_folder_that_0_2_began_ends_the_same(recipe, folder, tmp_path):
    """Its plan and records had no checksum, and a record may be wrong about its tar."""
    path = unfinished(recipe, tmp_path / "set")
    for state in (*path.glob(".partial/*.json"),):
        values = json.loads(state.read_text())
        assert values.pop("checksum")
        if state.name == "000001.json":
            values["sha256"] = "0" * 64
        state.write_text(json.dumps(values, separators=(",", ":")))
    assert 0 < write(recipe, path).new_samples < 24
    assert contents(path) == contents(folder)


def test_one_writer_at_a_time(recipe, tmp_path):
    key = plan_key(recipe)
    with FolderWriter(tmp_path / "set", key), pytest.raises(UsageError, match="writing it already"):
        write(recipe, tmp_path / "set")
    code = (
        f"import fcntl, sys; file = open({str(tmp_path / 'set/.partial/lock')!r}, 'a'); "
        "fcntl.lockf(file, fcntl.LOCK_EX); print(1, flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(UsageError, match="another run is writing"):
        write(recipe, tmp_path / "set")
    other.kill()
    other.wait()
    assert write(recipe, tmp_path / "set").new_samples == 24, "a killed run leaves no lock behind"


def test_leaving_a_complete_folder_does_not_disown_another_run(recipe, tmp_path):
    write(recipe, tmp_path / "set")
    with FolderWriter(tmp_path / "set", plan_key(recipe)):
        (tmp_path / "set" / "1p-frac-train-000001.tar").unlink()
        other = FolderWriter(tmp_path / "set", plan_key(recipe))
        other.__enter__()
    with other:
        render_shard(tmp_path / "set", 1, other.token)


def test_an_orphaned_worker_cannot_commit(recipe, tmp_path):
    key = plan_key(recipe)
    with FolderWriter(tmp_path / "set", key) as first:
        old = first.token
    with FolderWriter(tmp_path / "set", key) as second:
        with pytest.raises(DataError, match="has ended"):
            render_shard(tmp_path / "set", 0, old)
        assert not list((tmp_path / "set").rglob("*.tar*"))
        render_shard(tmp_path / "set", 0, second.token)


def dying(*_):
    os._exit(9)


def test_a_dead_worker_is_reported_and_the_run_resumes(recipe, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "render_shard", dying)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(DataError, match="worker died"):
        write(recipe, tmp_path / "set", executor=pool)
    monkeypatch.undo()
    write(recipe, tmp_path / "set")
    assert contents(tmp_path / "set") == contents(folder)


def test_a_lost_or_cut_shard_of_a_finished_folder_is_rendered_again(recipe, folder, tmp_path):
    write(recipe, tmp_path / "set")
    (tmp_path / "set" / "1p-frac-train-000001.tar").unlink()
    os.truncate(tmp_path / "set" / "1p-frac-train-000003.tar", 700)
    assert verify_folder(open_shards(tmp_path / "set"))
    assert 0 < write(recipe, tmp_path / "set").new_samples < 24
    assert contents(tmp_path / "set") == contents(folder)


def test_a_class_that_cannot_be_rendered_stops_the_run(tmp_path):
    hopeless = replace(small_recipe(), min_fill=0.9, max_tries=3)
    with pytest.raises(DataError, match="none of 3 perturbations"):
        write(hopeless, tmp_path / "set")
    assert not list(Path(tmp_path / "set").glob("*.tar"))
    write(small_recipe(), tmp_path / "set")  # nothing was finished, so there is nothing to refuse


def test_a_recipe_that_is_not_resolved_leaves_nothing(recipe, tmp_path):
    with pytest.raises(UsageError, match=r"call resolve\(\) first$"):
        write_shards(replace(recipe, ifs=None), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_layout_of_other_images_is_refused(recipe, tmp_path):
    """One of fewer images gave a folder of them with all classes; one without labels, a folder that verify refuses."""
    several = small_recipes()["multifractal"]
    for each, layout in (
        (recipe, replace(plan(recipe, num_shards=2), num_samples=len(recipe) - 1)),
        (recipe, replace(plan(recipe, num_shards=2), num_samples=len(recipe) + 1)),
        (several, replace(plan(several), multi_label=False)),
        (recipe, replace(plan(recipe), name="ofdb")),
    ):
        with pytest.raises(UsageError, match=r"^layout: of .*; make it by plan\(recipe\)$"):
            write_shards(each, tmp_path / "out", layout=layout)
    assert not (tmp_path / "out").exists()


def test_a_process_forked_while_a_shard_is_committed_commits_its_own(recipe, tmp_path):
    """Of locks that are held then, no thread of the new process has one to give back; nor is it writing any folder."""
    begun = generate.plan_of(recipe, plan(recipe))
    with FolderWriter(tmp_path / "begun", begun), commit_guard(tmp_path / "committed", make=True):
        child = os.fork()
        if child == 0:
            signal.alarm(100)  # of a lock that is waited for without end
            with contextlib.suppress(BaseException):
                write_shards(recipe, tmp_path / "own", workers=1)
                with pytest.raises(UsageError, match="another run is writing it"):
                    FolderWriter(tmp_path / "begun", begun).__enter__()
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and verify_folder(open_shards(tmp_path / "own")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers -1: must be 1 or more"),
        ({"provenance": ["tries", 3]}, "provenance: must be a mapping that JSON can hold.*not of type list"),
        ({"provenance": 5}, "not of type int"),
        ({"provenance": {"tries": {1, 2}}}, "provenance: .*set is not JSON"),
        ({"provenance": {"acceptance": math.nan}}, "provenance: "),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_before_the_folder_is_made(recipe, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        write_shards(recipe, tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


def test_a_tar_without_its_record_is_no_part_of_the_next_set(recipe, tmp_path, monkeypatch):
    """A kill or a full disk came between the two, before any record was written; then another set is rendered."""

    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("fracgen.shards.commit.write_atomically", full)
        write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=5), workers=1)
    assert list((tmp_path / "set").glob("*.tar"))
    other = small_recipes()["noise"]
    for folder in ("set", "undisturbed"):
        write_shards(other, tmp_path / folder)
    assert contents(tmp_path / "set") == contents(tmp_path / "undisturbed")
