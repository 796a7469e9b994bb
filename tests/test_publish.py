"""Publishing on a stand-in of the Hub, on an S3 server and in memory: whole or not there."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from conftest import contents
from hub_server import TOKEN, Hub, Repo
from servers import file_system

from fracgen.cli.app import run
from fracgen.publish import publish
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.reader import open_shards
from fracgen.shards.remote import RemoteWarning
from fracgen.shards.verify import verify_folder

SET = "hf://datasets/me/set"


@pytest.fixture
def local(folder, tmp_path) -> Path:
    """A copy of the finished folder, to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "set"))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_set_goes_to_the_hub_and_back(hub, folder, tmp_path, capsys):
    assert run(["publish", str(folder), SET]) == 0
    out, err = capsys.readouterr()
    assert "uploaded    10 files" in out and "licence     cc0-1.0" in out and TOKEN not in out + err
    assert hub.files("datasets/me/set") == contents(folder) and not hub.repos["datasets/me/set"].private
    assert hub.order[-1] == "file dataset.json", "what readers open first comes last"
    assert not verify_folder(open_shards(write(tmp_path / "back", hub.files("datasets/me/set"))))
    commits = hub.repos["datasets/me/set"].commits["main"]
    assert run(["publish", str(folder), SET]) == 0
    assert "uploaded    0 files, 0 bytes; 10 were there already" in capsys.readouterr().out
    assert hub.repos["datasets/me/set"].commits["main"] == commits


def test_a_dry_run_writes_nothing(hub, folder, capsys):
    assert run(["publish", str(folder), SET, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "would upload  1p-frac-train-000000.tar" in out and out.index("README.md") < out.index("dataset.json")
    assert not hub.repos and all(line.startswith(("GET", "HEAD")) for line in hub.requests)
    assert run(["publish", str(folder), SET, "--dry-run", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["dry_run"] and values["uploaded"][-1] == "dataset.json" and values["already_there"] == 0


def test_private_sets_and_other_branches(hub, folder):
    publish(folder, SET, private=True, revision="v1")
    repo = hub.repos["datasets/me/set"]
    assert repo.private and hub.files("datasets/me/set", "v1") == contents(folder) and not hub.files("datasets/me/set")
    assert publish(folder, f"{SET}@v1").plan.upload == ()
    publish(str(folder), "hf://datasets/me/open")
    with pytest.raises(UsageError, match="is public; change that on the Hub"):
        publish(folder, "hf://datasets/me/open", private=True)
    with pytest.raises(UsageError, match="names the revision v1, and --revision v2"):
        publish(folder, f"{SET}@v1", revision="v2")


@pytest.mark.parametrize("fault", ["cut", 500, 503])
def test_what_fails_on_the_way_is_tried_again(hub, folder, fault):
    hub.faults = {"PUT /lfs": [fault] * 2, "/commit/": [fault], "/preupload/": [fault], "objects/batch": [fault]}
    publish(folder, SET)
    assert hub.files("datasets/me/set") == contents(folder) and not any(hub.faults.values())


def test_an_upload_that_is_cut_goes_on_where_it_was(hub, folder, capsys, monkeypatch):
    monkeypatch.setattr("fracgen.shards.publish.hub.HubStore.batch_files", 3)
    original = Hub.fault

    def after_the_first_commit(self, line):
        if hub.requests["POST /api/datasets/me/set/commit/main"] >= 1 and "/lfs/" in line and "PUT" in line:
            original(self, line)
            return 500
        return original(self, line)

    monkeypatch.setattr(Hub, "fault", after_the_first_commit)
    assert run(["publish", str(folder), SET]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") <= 4 and "given up after 3 tries" in err and TOKEN not in err and "Traceback" not in err
    half = hub.files("datasets/me/set")
    assert len(half) == 3 and "dataset.json" not in half, "nobody takes it for whole"
    monkeypatch.setattr(Hub, "fault", original)
    hub.requests.clear()
    result = publish(folder, SET)
    assert len(result.plan.present) == 3 and hub.files("datasets/me/set") == contents(folder)
    assert hub.requests["PUT /lfs/DIGEST"] == 3, "two tars and the preview; the first three were there"


def test_a_commit_whose_answer_was_lost_is_known_as_ours(hub, folder):
    hub.faults = {"/commit/": ["lost"]}
    publish(folder, SET)
    assert hub.files("datasets/me/set") == contents(folder)


def test_a_branch_that_somebody_changes_meanwhile_is_left(hub, folder, monkeypatch):
    monkeypatch.setattr("fracgen.shards.publish.hub.HubStore.batch_files", 3)
    original = Hub.fault

    def meddle(self, line):
        if "/commit/" in line and self.repos["datasets/me/set"].commits["main"] == 2:
            self.repos["datasets/me/set"].commits["main"] += 1
        return original(self, line)

    monkeypatch.setattr(Hub, "fault", meddle)
    with pytest.raises(DataError, match="was changed by somebody else meanwhile"):
        publish(folder, SET)
    assert "dataset.json" not in hub.files("datasets/me/set")


def test_a_set_that_somebody_publishes_between_the_look_and_the_first_commit_is_left(hub, folder):
    publish(folder, SET)
    repo = hub.repos["datasets/me/set"]
    del repo.branches["main"]["README.md"]  # so that there is something to do
    repo.commits["main"] += 1

    def replace_all(plan):
        repo.branches["main"] = {"other-train-000000.tar": b"theirs", "dataset.json": b"theirs"}
        repo.commits["main"] += 1

    with pytest.raises(DataError, match="was changed by somebody else meanwhile"):
        publish(folder, SET, on_plan=replace_all)
    assert set(hub.files("datasets/me/set").values()) == {b"theirs"}


@pytest.mark.parametrize(("branch", "is_there"), [("main", False), ("v1", False), ("v1", True)])
def test_a_branch_that_somebody_makes_between_the_look_and_the_first_commit_is_left(hub, folder, branch, is_there):
    """is_there: the repository, and in it main."""
    theirs = {".gitattributes": b"", "other-train-000000.tar": b"theirs", "dataset.json": b"theirs"}
    if is_there:
        hub.repos["datasets/me/set"] = Repo(private=False)

    def make(plan):
        repo = hub.repos.setdefault("datasets/me/set", Repo(private=False))
        repo.branches[branch], repo.commits[branch] = dict(theirs), 2

    with pytest.raises(DataError, match="was changed by somebody else meanwhile"):
        publish(folder, SET, revision=branch, on_plan=make)
    assert hub.repos["datasets/me/set"].branches[branch] == theirs


@pytest.fixture
def other(hub, tmp_path, capsys):
    """Another set than `folder`, which is published where that one will be."""
    path = tmp_path / "noise"
    assert run(["baseline", "noise", "--classes=4", "--size=32", "--points=500", "--out", str(path)]) == 0
    publish(path, SET)
    capsys.readouterr()
    return path


def test_a_branch_that_is_made_begins_as_main_and_holds_one_set(hub, folder, other, capsys):
    before = hub.files("datasets/me/set")
    assert run(["publish", str(folder), f"{SET}@v1"]) == 2
    assert "holds another data set or model (dataset.json, noise-train-000000.tar" in capsys.readouterr().err
    assert set(hub.repos["datasets/me/set"].branches) == {"main"}
    publish(folder, f"{SET}@v1", replace=True)
    assert hub.files("datasets/me/set", "v1") == contents(folder) and hub.files("datasets/me/set") == before
    assert len(publish(folder, f"{SET}@v1").plan.present) == len(contents(folder))
    assert publish(other, f"{SET}@same").plan.upload == () and hub.files("datasets/me/set", "same") == before


@pytest.mark.usefixtures("other")
def test_another_set_is_not_overwritten(hub, folder, capsys):
    before = hub.files("datasets/me/set")
    assert run(["publish", str(folder), SET]) == 2
    assert "holds another data set or model (dataset.json, noise-train-000000.tar" in capsys.readouterr().err
    assert hub.files("datasets/me/set") == before
    hub.order.clear()
    publish(folder, SET, replace=True)
    assert hub.files("datasets/me/set") == contents(folder)
    assert hub.order[0] == "deletedFile dataset.json" and hub.order[-1] == "file dataset.json"


def test_damaged_folders_are_not_published(hub, local):
    path = local / "1p-frac-train-000002.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"000002\.tar: sha256 differs from the manifest's; nothing was uploaded"):
        publish(local, SET)
    (local / "sizes.json").unlink()
    with pytest.raises(DataError, match="and 1 more faults"):
        publish(local, SET)
    assert not hub.repos


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("hf://me/set", {}, "is a data set; give hf://datasets/me/set"),
        ("hf://datasets/set", {}, "give hf://datasets/NAME/SET"),
        ("hf://datasets/me/set/folder", {}, "give hf://datasets/NAME/SET"),
        ("somewhere", {}, "is no URL of another place; a finished folder may be copied as it is"),
        ("file:///tmp/x", {}, "is no URL of another place; a finished folder may be copied as it is"),
        ("memory://x", {"private": True}, "--private: is for the Hub"),
        ("memory://x", {"revision": "v1"}, "--revision: is for the Hub"),
        (SET, {"licence": "My Licence"}, "give one of the Hub's identifiers"),
        (SET, {"licence": "no-such"}, "must be one of them"),
        ("hf://datasets/others/set", {}, "access refused"),
        ("nosuch://x/y", {}, "cannot be opened"),
        ("https://127.0.0.1:1/x", {}, "plain HTTP is only read from"),
        ("s3://user:secret@bucket/x", {}, r"^(?!.*secret).*Invalid bucket name"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(hub, folder, url, options, message):
    with pytest.raises((UsageError, DataError), match=message) as caught:
        publish(folder, url, **options)
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)


def test_without_a_token(hub, folder, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert run(["publish", str(folder), SET]) == 2
    assert "no token; run `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err and not hub.requests
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert run(["publish", str(folder), SET]) == 2
    err = capsys.readouterr().err
    assert "hf_wrong" not in err and err.count("\n") == 1


def test_another_licence_changes_what_is_published_and_not_the_folder(hub, local, tmp_path):
    before = contents(local)
    assert publish(local, SET, licence="cc-by-4.0").release.licence == "cc-by-4.0"
    assert contents(local) == before
    back = write(tmp_path / "back", hub.files("datasets/me/set"))
    assert "license: cc-by-4.0\n" in (back / "README.md").read_text() and not verify_folder(open_shards(back))
    assert {name for name in before if before[name] != contents(back)[name]} == {"README.md", "dataset.json"}
    assert publish(local, SET, licence="cc-by-4.0").plan.upload == ()
    hub.order.clear()
    publish(local, SET)
    assert hub.order == ["deletedFile dataset.json", "file README.md", "file dataset.json"]
    assert hub.files("datasets/me/set") == before


def test_packed_images_need_a_licence(hub, tmp_path, capsys):
    import numpy as np
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / name / "1.png")
    assert run(["pack", str(tmp_path / "images"), "--out", str(tmp_path / "set")]) == 0
    assert run(["publish", str(tmp_path / "set"), SET]) == 2
    assert "only their owner can say under which licence" in capsys.readouterr().err and not hub.repos
    assert run(["publish", str(tmp_path / "set"), SET, "--license", "other"]) == 0
    assert b"license: other\n" in hub.files("datasets/me/set")["README.md"]


def test_a_set_of_0_3_gets_a_whole_card_where_it_is_published(hub, tmp_path, monkeypatch):
    from test_cards import small_recipe

    from fracgen.render_shards import write_shards

    with monkeypatch.context() as patch:
        patch.setattr("fracgen.render_shards.versions", lambda name="": {"fracgen": "0.3.0", "numpy": "1"})
        write_shards(small_recipe(), tmp_path / "old")
    publish(tmp_path / "old", SET)
    assert b"license: cc0-1.0\n" in hub.files("datasets/me/set")["README.md"]
    assert b"license" not in (tmp_path / "old" / "README.md").read_bytes()
    assert not verify_folder(open_shards(write(tmp_path / "back", hub.files("datasets/me/set"))))


# ---- other places ----------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr("fracgen.shards.remote.WAITS", (0.0, 0.0))
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield MemoryFileSystem
    MemoryFileSystem.store.clear()


def stored(memory) -> dict[str, bytes]:
    return {path.rpartition("/")[2]: file.getvalue() for path, file in memory.store.items()}


def test_a_set_at_a_url(memory, folder):
    publish(folder, "memory://bucket/set", dry_run=True)
    assert stored(memory) == {}
    publish(folder, "memory://bucket/set")
    assert stored(memory) == contents(folder) and list(memory.store)[-1].endswith("dataset.json")
    assert publish(folder, "memory://bucket/set").plan.upload == ()


def test_a_set_takes_no_models_place(memory, folder):
    model = {"README.md": b"theirs", "config.json": b"{}", "model.safetensors": b"weights"}
    for name, data in model.items():
        memory().pipe(f"/bucket/set/{name}", data)
    with pytest.raises(UsageError, match=r"holds another data set or model \(config\.json, model\.safetensors\)"):
        publish(folder, "memory://bucket/set")
    assert stored(memory) == model
    publish(folder, "memory://bucket/set", replace=True)
    assert stored(memory) == contents(folder)


def test_files_that_arrived_in_part_are_sent_again(memory, folder, monkeypatch):
    publish(folder, "memory://bucket/set")
    tar = memory.store["/bucket/set/1p-frac-train-000001.tar"]
    tar.truncate(2000)
    card = memory.store["/bucket/set/README.md"]
    card.seek(50)
    card.write(b"#")
    result = publish(folder, "memory://bucket/set")
    assert [file.name for file in result.plan.upload] == ["1p-frac-train-000001.tar", "README.md", "dataset.json"]
    assert stored(memory) == contents(folder) and result.plan.delete == ("dataset.json",)
    original, cuts = memory.put_file, iter([True, False])

    def cut(self, lpath, rpath, **options):
        original(self, lpath, rpath, **options)
        if next(cuts, False):
            self.store[self._strip_protocol(rpath)].truncate(100)

    memory.store.clear()
    monkeypatch.setattr(memory, "put_file", cut)
    publish(folder, "memory://bucket/set")
    assert stored(memory) == contents(folder), "what did not arrive whole was sent again"


def test_a_place_that_keeps_failing_is_left_without_a_manifest(memory, folder, monkeypatch):
    original = memory.put_file

    def refuse(self, lpath, rpath, **options):
        if rpath.endswith("000003.tar"):
            raise ConnectionError("reset by peer")
        original(self, lpath, rpath, **options)

    monkeypatch.setattr(memory, "put_file", refuse)
    with pytest.raises(DataError, match=r"000003\.tar: ConnectionError: reset by peer; given up after 3 tries"):
        publish(folder, "memory://bucket/set")
    assert len(stored(memory)) == 3 and "dataset.json" not in stored(memory)


def test_a_file_that_changes_after_it_was_checked(memory, local):
    def change(plan):
        with (local / "1p-frac-train-000004.tar").open("ab") as file:
            file.write(b"x")

    with pytest.raises(DataError, match="changed since it was checked"):
        publish(local, "memory://bucket/set", on_plan=change)
    assert "dataset.json" not in stored(memory)


def test_a_set_in_a_bucket(s3, folder, monkeypatch):
    monkeypatch.setattr("fracgen.shards.remote.WAITS", (0.0, 0.0))
    publish(folder, "s3://bucket/published/set")
    files = file_system()
    names = [name.rpartition("/")[2] for name in files.ls("bucket/published/set")]
    assert {name: files.cat_file(f"bucket/published/set/{name}") for name in names} == contents(folder)
    assert publish(folder, "s3://bucket/published/set").plan.upload == ()
    assert not verify_folder(open_shards("s3://bucket/published/set"))
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=r"s3://no-such-bucket/set: not there .*bucket does not exist"):
            publish(folder, "s3://no-such-bucket/set", dry_run=dry_run)
    assert not files.exists("no-such-bucket"), "buckets are not made"


def test_no_credentials_is_one_line(s3, folder, monkeypatch, capsys):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("fracgen.shards.remote.WAITS", (0.0, 0.0))
    file_system().clear_instance_cache()
    assert run(["publish", str(folder), "s3://bucket/without"]) in (1, 2)
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("fracgen: s3://bucket/without: no credentials") and "Traceback" not in "".join(err)


# ---- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["PUT /lfs", "/commit/"])
def test_a_publication_that_is_killed_goes_on(hub, folder, at, monkeypatch):
    """By the command itself, which finds the server as users of another Hub would: by HF_ENDPOINT."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    words = [sys.executable, "-m", "fracgen", "publish", str(folder), SET]
    arrived, original = threading.Event(), Hub.fault

    def hang(self, line):
        if at in line:
            arrived.set()
            time.sleep(0.5)
        return original(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(Hub, "fault", hang)
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert arrived.wait(60)
        process.kill()
        process.wait()
    assert "dataset.json" not in hub.files("datasets/me/set") or at == "/commit/"
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.files("datasets/me/set") == contents(folder)


def test_a_storage_that_refuses_xet_is_one_line(hub, folder, monkeypatch):
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    hub.faults = {"xet-write-token": [403] * 20}
    with warnings.catch_warnings(), pytest.raises(UsageError, match=r"access refused .*403") as caught:
        warnings.simplefilter("error", RemoteWarning)
        publish(folder, SET)
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)
