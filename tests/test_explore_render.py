"""A data set that the explorer renders: in the background, stopped, gone on with."""

import threading
import time

from conftest import SMALL
from test_explore import own_cache as own_cache
from test_explore import page as page
from test_explore import resolved

from fracgen.cli.explore import training_augmenter
from fracgen.explore import render_job
from fracgen.onepfrac import OnePFrac
from fracgen.render_shards import write_shards


def wait_for_state(page, *states):
    for _ in range(600):
        if (status := page.post("render/status"))["state"] in states:
            return status
        time.sleep(0.05)
    raise AssertionError(f"still {status}")


def test_a_set_is_rendered_stopped_and_gone_on_with(page, tmp_path, monkeypatch):
    values, gate = {**SMALL, "classes": 60}, threading.Event()
    write = render_job.write_shards

    def slowly(*arguments, on_shard, **options):
        def stop_at_third(record):
            on_shard(record)
            calls.append(record)
            if len(calls) == 3:
                gate.wait(20)

        calls = []
        return write(*arguments, on_shard=stop_at_third, **options)

    monkeypatch.setattr(render_job, "write_shards", slowly)
    assert page.post("render/status")["state"] == "none"
    reply = resolved(page, values)
    assert page.post("render", recipe=values)["folder"] == reply["folder"]
    assert "is being rendered" in page.post("render", recipe=SMALL)["error"]
    while not page.post("render/status")["done"]:
        time.sleep(0.01)
    page.post("render/cancel")
    gate.set()
    status = wait_for_state(page, "cancelled", "done")
    assert status["state"] == "cancelled" and 0 < status["done"] < 60
    monkeypatch.setattr(render_job, "write_shards", write)
    page.post("render", recipe=reply["recipe_given"])
    assert wait_for_state(page, "done", "failed")["done"] == 60
    recipe, provenance = OnePFrac(**values).resolve()
    write_shards(recipe, tmp_path / "undisturbed", provenance=provenance)
    assert (tmp_path / "sets" / reply["folder"] / "dataset.json").read_bytes() == (
        tmp_path / "undisturbed" / "dataset.json"
    ).read_bytes()


def test_a_set_that_cannot_be_written(page, tmp_path):
    (tmp_path / "sets").write_text("a file where the folder is to be")
    page.post("render", recipe=SMALL)
    status = wait_for_state(page, "failed")
    assert "sets" in status["error"] and "\n" not in status["error"]


def test_the_augmenter_of_the_command():
    augmenter = training_augmenter()
    assert augmenter is not None and {field["name"] for field in augmenter.describe()["fields"]} > {"size", "erase"}
