"""The commands as typed: results on stdout, one line on stderr for what is wrong, exit codes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import SMALL, contents, forge_manifest
from PIL import Image

from fracgen.cli import progress
from fracgen.cli.app import BASELINES, run
from fracgen.ifs import IFS, load_ifs, maps_from_rows
from fracgen.plain import draw_plain
from fracgen.registry import RECIPES
from fracgen.shards.manifest import load_manifest
from fracgen.shards.settings import fields_of
from fracgen.style import Style

FLAGS = [word for key, value in SMALL.items() for word in (f"--{key.replace('_', '-')}", str(value))]
CSV = "0.5,0.1,-0.2,0.4,0.3,-0.1,0.4\n-0.3,0.6,0.5,0.2,-0.7,0.9,0.6\n"


@pytest.fixture
def fracgen(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_render_inspect_verify_preview(fracgen, tmp_path):
    code, out, err = fracgen("render", *FLAGS, "--sigma", 3.5, "--delta", 0.1)
    assert code == 0 and err == ""
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("1p-frac-sigma3.5-delta0.1-")
    for expected in (
        "24 of 24 classes",
        "in 3 shards",
        "images/s",
        "of draws (rejected:",
        folder.name,
        "next",
        "fracgen verify",
    ):
        assert expected in out
    assert fracgen("render", *FLAGS)[1].count("nothing to do") == 1
    code, out, _ = fracgen("inspect", folder)
    assert code == 0 and "classes 24" in out and "48 x 48 png" in out and load_manifest(folder).recipe_hash in out
    assert "recipe recipe" not in out and " % of its perturbations passed when vetted" in out
    code, out, err = fracgen("verify", folder, "--render")
    assert (code, err) == (0, "") and "24 images in 3 shards, 16 of them rendered again: all good" in out
    code, out, _ = fracgen("verify", folder, "--render", "--samples", 2**64)
    assert code == 0 and "24 of them rendered again: all good" in out
    code, out, _ = fracgen("preview", folder, "-o", "sheet.png")
    assert code == 0 and out == "sheet.png\n" and Image.open("sheet.png").size[0] > 6 * 384


def test_json_outputs(fracgen, tmp_path):
    values = json.loads(fracgen("render", *FLAGS, "--out", "set", "--json")[1])
    assert (values["images"], values["new_images"], values["folder"]) == (24, 24, "set")
    assert 0 < values["acceptance"] <= 1 and values["seconds"] > 0 and values["bytes"] > 24 * 1536
    assert json.loads(fracgen("inspect", "set", "--json")[1]) == json.loads(
        (tmp_path / "set" / "dataset.json").read_text()
    )
    assert json.loads(fracgen("verify", "set", "--json")[1]) == {
        "ok": True,
        "images": 24,
        "rendered": 0,
        "problems": [],
        "not_looked_at": [],
    }


def test_every_option_reaches_the_recipe(fracgen, tmp_path):
    options = {
        "delta": 0.3, "classes": 3, "seed": 5, "size": 40, "pad": 2, "points": 900, "perturbation": "multiplicative",
        "draw": "point", "color": "color", "patch": "fill", "masks": "shared", "min_fill": 0.01, "max_tries": 7,
        "min_acceptance": 0.1, "max_base_tries": 50, "base_candidates": 2, "sigma": 4.4, "maps": 3,
    }  # fmt: skip
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
    assert fracgen("render", *words, "--out", "set", "--shards", 2, "--workers", 1)[0] == 0
    manifest = load_manifest(tmp_path / "set")
    assert {key: manifest.recipe[key] for key in options} == options
    assert manifest.layout.num_shards == 2 and manifest.image.mode == "RGB"


def test_recipe_file_and_overrides(fracgen, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**SMALL, "delta": 0.05}))
    assert fracgen("render", "--recipe", "r.yaml", "--classes", 5, "--out", "set")[0] == 0
    manifest = load_manifest(tmp_path / "set")
    assert (manifest.recipe["delta"], manifest.recipe["classes"]) == (0.05, 5)
    assert fracgen("render", "--recipe", "set", "--out", "again")[0] == 0
    assert fracgen("render", "--recipe", "set/dataset.json", "--out", "other", "--seed", 9)[0] == 0
    again, other = load_manifest(tmp_path / "again"), load_manifest(tmp_path / "other")
    assert again.recipe_hash == manifest.recipe_hash != other.recipe_hash
    assert other.recipe["ifs"] == manifest.recipe["ifs"]
    assert fracgen("render", "--recipe", "set", "--out", "third", "--sigma", 3.4)[0] == 0
    assert load_manifest(tmp_path / "third").recipe["ifs"] != manifest.recipe["ifs"]


def test_render_from_a_given_fractal(fracgen, tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    code, out, _ = fracgen("render", *FLAGS, "--ifs", "a.csv", "--out", "set", "--min-fill", 0.01)
    assert code == 0 and "given" in out
    assert IFS.from_plain(load_manifest(tmp_path / "set").recipe["ifs"]) == load_ifs(tmp_path / "a.csv")
    assert load_ifs(tmp_path / "set") == load_ifs(tmp_path / "a.csv")
    (tmp_path / "a.csv").unlink()
    assert fracgen("verify", "set", "--render")[0] == 0


def test_draw(fracgen, tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    ifs = load_ifs(tmp_path / "a.csv")
    base = ["draw", "a.csv", "-o", "o.png", "--size", 64, "--pad", 4, "--points", 3000]
    style = {"size": 64, "pad": 4, "points": 3000}
    for words, changes, weights in [
        (["--draw", "point"], {"draw": "point"}, None),
        (
            ["--color", "color", "--patch", "fill", "--weights", "1,1,1.4,1,1,1"],
            {"color": "color", "patch": "fill"},
            [[1, 1, 1.4, 1, 1, 1]],
        ),
        (
            ["--patch", "fill", "--weights", "1,1,1,1,1,1;1,1,1,0.9,1,1"],
            {"patch": "fill"},
            [[1] * 6, [1, 1, 1, 0.9, 1, 1]],
        ),
    ]:
        code, out, err = fracgen(*base, *words)
        assert (code, err) == (0, "") and out.startswith("o.png: 64 x 64, fill rate 0.")
        factors = 1 if weights is None else maps_from_rows(np.broadcast_to(np.array(weights, float), (2, 6)))
        assert np.array_equal(
            np.asarray(Image.open("o.png")), draw_plain(ifs.maps * factors, ifs.p, Style(**style, **changes))
        )
    code, out, err = fracgen("draw", "a.csv", *base[4:])
    assert (code, err) == (0, "") and out.startswith("a-drawing.png: 64 x 64") and (tmp_path / "a-drawing.png").exists()
    first = [fracgen(*base, "--seed", seed) and (tmp_path / "o.png").read_bytes() for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]


BAD = [
    (["render", "--sigma", 0], "sigma 0.0: must be more than 0"),
    (["render", "--sigma", 6.5], "sigma 6.5"),
    (["render", "--sigma", "nan"], "sigma nan"),
    (["render", "--sigma", "high"], "--sigma"),
    (["render", "--delta", -0.1], "delta -0.1: must be 0 to"),
    (["render", "--size", 4], "size 4: must be 8 to 8192"),
    (["render", "--size", 10**7], "size 10000000"),
    (["render", "--size", 20, "--pad", 10], "pad 10"),
    (["render", "--points", 1], "points 1"),
    (["render", "--classes", 0], "classes 0: must be 1 to"),
    (["render", "--maps", 0], "maps 0"),
    (["render", "--maps", 300], "maps 300"),
    (["render", "--seed", -1], "seed -1"),
    (["render", "--min-fill", 2], "min-fill 2.0"),
    (["render", "--draw", "dots"], "--draw"),
    (["render", *FLAGS, "--shards", 25], "--shards 25: give 1 to 24"),
    (["render", *FLAGS, "--shards", 0], "--shards"),
    (["render", *FLAGS, "--workers", 0], "--workers"),
    (["render", *FLAGS, "--png-bits", 4], "png-bits"),
    (["render", *FLAGS, "--png-bits", 1, "--color", "color"], "--png-bits 1"),
    (["render", "--recipe", "typo.yaml"], "did you mean 'delta'"),
    (["render", "--recipe", "absent.yaml"], "absent.yaml: cannot be read"),
    (["render", "--ifs", "bad.csv"], "bad.csv: line 1 has 3 columns"),
    (["render", "--ifs", "good.csv", "--sigma", 3.5], "--ifs gives the base fractal"),
    (["render", *FLAGS, "--out", "full"], "full: not empty"),
    (["render", *FLAGS, "--out", "s3://bucket/x"], "--out 's3://bucket/x': is a URL"),
    (["baseline", "noise", "--out", "hf://datasets/x"], "is a URL"),
    (["photo", "good.csv", "--out", "gs://bucket/x"], "is a URL"),
    (["search", "--out", "https://host/x"], "is a URL"),
    (["pack", "full", "--out", "s3://bucket/x"], "is a URL"),
    (["draw", "good.csv", "--out", "s3://bucket/x.png"], "is a URL"),
    (["preview", "full", "--out", "s3://bucket/x.png"], "is a URL"),
    (["render", "--recipe", "empty.yaml"], "empty.yaml: empty"),
    (["render", "--sigma", "9", "--maps", "2"], "sigma 9.0: must be in (0, 6]"),
    (["render", *FLAGS, "--out", "good.csv"], "good.csv: is a file"),
    (["render", *FLAGS, "--out", "good.csv/below"], "cannot be written"),
    (["render", "--nonsense"], "--nonsense"),
    (["nonsense"], "nonsense"),
    (["draw", "absent.csv", "-o", "o.png"], "absent.csv"),
    (["draw", "good.csv", "-o", "absent/o.png"], "absent: no such folder; make it first"),
    (["draw", "good.csv", "-o", "full"], "is a folder"),
    (["draw", "good.csv", "-o", "o.jpg"], "ends in .png"),
    (["draw", "good.csv", "-o", "."], "is a folder"),
    (["draw", "/dev/zero", "-o", "o.png"], "not a file"),
    (["draw", "good.csv", "-o", "o.png", "--weights", "1,2"], "weights '1,2'"),
    (["draw", "good.csv", "-o", "o.png", "--weights", ";".join(["1,1,1,1,1,1"] * 3)], "2 (one per map)"),
    (["draw", "good.csv", "-o", "o.png", "--seed", -1], "seed -1"),
    (["inspect", "absent"], "absent: no such folder"),
    (["inspect", "full"], "no dataset.json"),
    (["verify", "full"], "no dataset.json"),
    (["preview", "absent"], "absent: no such folder"),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD, ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(fracgen, tmp_path, words, message):
    (tmp_path / "typo.yaml").write_text("delt: 0.1")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "bad.csv").write_text("1,2,3")
    (tmp_path / "good.csv").write_text(CSV)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    before = contents(tmp_path)
    code, out, err = fracgen(*words)
    assert (code, out) == (2, "")
    assert err.startswith("fracgen: ") and err.count("\n") == 1 and message in err
    assert contents(tmp_path) == before and len(list(tmp_path.rglob("*"))) == 6


def test_what_cannot_be_made_is_exit_1(fracgen, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"maps": [[[5.0, 0, 1], [0, 5.0, 1]]], "p": [1.0]}))
    (tmp_path / "far.json").write_text(json.dumps({"maps": [[[1e9, 0, 1], [0, 1e9, 1]]], "p": [1.0]}))
    for words, message in [
        (["render", *FLAGS, "--min-fill", 0.99, "--max-base-tries", 3], "no base fractal in 3 tries"),
        (["render", *FLAGS, "--ifs", "a.json"], "base fractal given cannot be used"),
        (["draw", "far.json", "-o", "o.png"], "overflow"),
    ]:
        code, out, err = fracgen(*words)
        assert (code, out) == (1, "") and err.count("\n") == 1 and message in err
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "far.json"}


def test_verify_names_what_is_bad(fracgen, tmp_path):
    fracgen("render", *FLAGS, "--out", "set")
    path = tmp_path / "set" / "1p-frac-train-000001.tar"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    code, out, err = fracgen("verify", "set")
    assert code == 1 and "problems" in out and path.name in err
    path.unlink()
    assert fracgen("verify", "set")[0] == 1
    assert fracgen("render", *FLAGS, "--out", "set")[0] == 0
    assert fracgen("verify", "set")[0] == 0


def test_unfinished_folder_is_exit_1(fracgen, tmp_path):
    (tmp_path / "set" / ".partial").mkdir(parents=True)
    for command in ("inspect", "verify", "preview"):
        code, _, err = fracgen(command, "set")
        assert code == 1 and "unfinished" in err


def test_warnings_go_to_stderr(fracgen):
    code, out, err = fracgen("render", *FLAGS, "--delta", 0, "--out", "set")
    assert code == 0 and "delta 0" in err and err.count("\n") == 1 and "24 of 24" in out


def test_bench(fracgen):
    code, out, err = fracgen("bench", "--images", 8, "--repeats", 3, "--json")
    assert (code, err) == (0, "")
    rows = {row["step"]: row for row in json.loads(out)["rows"]}
    for step in (
        "orbit",
        "rasterise",
        "encode, 8 bits",
        "encode, 1 bit",
        "end to end, 1 worker (wall)",
        "the same in plain Python",
    ):
        assert rows[step]["milliseconds"] > 0
    draw = next(row for step, row in rows.items() if step.startswith("orbit,"))
    assert draw["speedup"] == rows["the same in plain Python"]["milliseconds"] / draw["milliseconds"]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_names_reach_a_terminal_as_they_are_or_as_escapes(fracgen, tmp_path, monkeypatch):
    """No control character of a name, and nothing in brackets, which rich takes for markup."""
    name = "a[red]\x1b[2J\nb"
    (tmp_path / "images" / "ant").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "images" / "ant" / "0.png")
    (tmp_path / "images").rename(tmp_path / name)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    with progress.status(f"listing [/red]{name}"), progress._Bar(f"[/red]{name}", 3, enabled=True) as bar:
        assert bar._bar is not None
    for command in (["pack", name, "--out", f"{name}-packed"], ["verify", f"{name}-packed"]):
        assert fracgen(*command)[0] == 0
    shown = sys.stderr.getvalue() + sys.stdout.getvalue()
    assert "a[red]\\x1b[2J\\nb" in shown and "\x1b[2J" not in shown


def test_links_that_go_in_a_circle_and_pipes_are_one_line(fracgen, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "set" / ".partial").mkdir(parents=True)
    for words in (["render", *FLAGS, "--out", "loop"], ["pack", "loop"], ["draw", "loop"], ["preview", "loop"]):
        code, _, err = fracgen(*words)
        assert code == 2 and err.count("\n") == 1, words
    os.mkfifo(tmp_path / "set" / ".partial" / "plan.json")
    assert "plan.json: damaged (ValueError: not a plain file)" in fracgen("merge", "set")[2]
    os.mkfifo(tmp_path / "set" / "dataset.json")
    assert "cannot be read (not a plain file)" in fracgen("inspect", "set")[2]


def test_an_interrupt_is_one_line(fracgen, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    fracgen("render", *FLAGS, "--out", "set")
    monkeypatch.setattr("fracgen.shards.verify.verify_folder", interrupted)
    assert fracgen("verify", "set") == (130, "", "fracgen: interrupted\n")
    monkeypatch.setattr("fracgen.onepfrac.OnePFrac.resolve", interrupted)
    code, out, err = fracgen("render", *FLAGS, "--out", "other")
    assert (code, out) == (130, "") and "nothing was written; run the same command" in err


def test_verify_render_is_not_idle(fracgen, tmp_path):
    fracgen("render", *FLAGS, "--out", "set")
    values = json.loads((tmp_path / "set" / "dataset.json").read_text())
    for changes, message in [
        ({"delta": 0.11}, "does not have the hash"),
        ({"delta": -1.0}, "no recipe that can be rendered"),
    ]:
        values["recipe"] |= changes
        (tmp_path / "set" / "dataset.json").write_text(json.dumps(values))
        for command in (["verify", "set"], ["inspect", "set"], ["preview", "set"]):
            code, _, err = fracgen(*command)
            assert code == 1 and "own sha256" in err
        forge_manifest(tmp_path / "set", values)
        code, _, err = fracgen("verify", "set", "--render")
        assert code == 1 and message in err


def test_verify_says_what_it_does_not_look_at(fracgen, tmp_path):
    fracgen("render", *FLAGS, "--out", "set")
    (tmp_path / "set" / "no\x1b[31mtes").write_text("mine")
    code, out, err = fracgen("verify", "set")
    assert code == 0 and "all good" in out and "not looked at: no\\x1b[31mtes (file)" in err
    code, out, err = fracgen("verify", "set", "--json")
    assert json.loads(out)["ok"] and json.loads(out)["not_looked_at"] == ["no\x1b[31mtes (file)"]


def test_outputs_that_are_no_plain_files_are_left_alone(fracgen, tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "real.png").write_bytes(b"")
    (tmp_path / "link.png").symlink_to("real.png")
    assert fracgen("draw", "a.csv", "-o", "fifo.png", "--points", 100)[0] == 2
    assert (tmp_path / "fifo.png").is_fifo()
    assert fracgen("draw", "a.csv", "-o", "link.png", "--points", 100)[0] == 0
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "real.png").stat().st_size > 0


def test_a_closed_stdout_is_no_error(tmp_path):
    command = f"{sys.executable} -m fracgen render {' '.join(FLAGS)} --out {tmp_path / 'set'} >&-"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "") and (tmp_path / "set" / "dataset.json").exists()


def test_more_tries_go_on_in_the_same_folder(fracgen, tmp_path):
    words = [
        "render",
        *FLAGS,
        "--classes",
        60,
        "--min-fill",
        0.16,
        "--min-acceptance",
        0.1,
        "--out",
        "set",
        "--workers",
        1,
    ]
    code, _, err = fracgen(*words, "--max-tries", 2)
    assert code == 1 and "raise --max-tries" in err and list((tmp_path / "set").glob("*.tar"))
    code, out, _ = fracgen(*words, "--max-tries", 200)
    assert code == 0 and "were there" in out


def test_version_and_help(fracgen):
    assert fracgen("--version")[1].count(".") == 2
    for words in ([], ["--help"], ["render", "--help"], ["draw", "-h"]):
        code, out, _ = fracgen(*words)
        assert code == 0 and "Usage: fracgen" in out


def test_the_list_of_commands_says_what_the_commands_say(fracgen, monkeypatch):
    from fracgen.cli.app import COMMANDS, PROGRAMS

    for name, command in {**COMMANDS, **BASELINES}.items():
        if name != "baseline":
            first_paragraph = command.load().help.strip().split("\n\n")[0]
            assert " ".join(first_paragraph.split()) == command.summary, name
    monkeypatch.setenv("COLUMNS", "150")
    out = fracgen("--help")[1]
    for name, command in COMMANDS.items():
        assert f"\n  {name} " in out and command.summary in out, "not cut where it fits"
    assert set(PROGRAMS) < set(COMMANDS)


def test_help_of_recipes_shows_every_field(fracgen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    for words, name in [(["render"], "1p-frac"), (["perturb"], "perturbed"), (["photo"], "photo")] + [
        (["baseline", name], name) for name in BASELINES
    ]:
        out = fracgen(*words, "--help")[1]
        for info in fields_of(RECIPES[name]):
            if info.option:
                (line,) = [line for line in out.splitlines() if line.startswith(f"  {info.option} ")]
                assert info.setting.help and info.setting.panel, info.name
                text = line if info.setting.help in line else out.split(line)[1].splitlines()[1]
                assert info.setting.help in text and info.setting.range in text and info.default_text in text
        for panel in ("Formula", "Output", "Machine"):
            assert f"\n{panel}:\n" in out


def test_programs_of_train_are_commands(fracgen, monkeypatch):
    for name in ("pretrain", "study"):
        code, out, err = fracgen(name, "--help")
        assert (code, err) == (0, "") and "Usage: " in out and name in out
    code, out, err = fracgen("pretrain", "--nonsense")
    assert (code, out) == (2, "") and "pretrain: " in err and "--nonsense" in err
    monkeypatch.setattr("fracgen.cli.app.find_spec", lambda name: None)
    for words in (["pretrain", "--help"], ["compare", "--data", "x"]):
        code, out, err = fracgen(*words)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert err.startswith(f"fracgen {words[0]}: needs torch") and "pip install 'fracgen[train]'" in err


def test_public_names_are_shown_before_they_are_imported():
    code = (
        "import fracgen, io, pydoc, sys; names = dir(fracgen); assert 'fracgen.onepfrac' not in sys.modules\n"
        "assert {'OnePFrac', 'open_shards', 'shards', 'train', '__doc__'} <= set(names), names\n"
        "assert all(getattr(fracgen, name) is not None for name in fracgen.__all__)\n"
        "text = pydoc.plain(pydoc.render_doc(fracgen)); assert 'class OnePFrac' in text and 'open_shards(' in text\n"
        "assert fracgen.shards.__name__ == 'fracgen.shards' and fracgen.train.__name__ == 'fracgen.train'"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_help_imports_neither_recipes_nor_kernels():
    code = "import sys; from fracgen.cli.app import run; run(sys.argv[1:]); print(sorted(sys.modules), file=sys.stderr)"
    others = {kind.__module__ for name, kind in RECIPES.items() if name != "1p-frac"}
    for words, absent in [
        (["--help"], {"numpy", "yaml", "fracgen.onepfrac", "fracgen.registry", "pydantic"}),
        (["render", "--help"], {"numba", *others}),
    ]:
        shown = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        loaded = set(shown.stderr.replace("'", "").strip("[]\n").split(", "))
        assert not (absent | {"torch", "rich", "timm"}) & loaded


def test_the_example_of_the_api_has_help(tmp_path):
    path = Path(__file__).parents[1] / "examples" / "python_api.py"
    shown = subprocess.run([sys.executable, path, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0 and "python_api.py OUT" in shown.stdout and not list(tmp_path.iterdir())


def test_programs_are_called_as_they_were_typed(fracgen, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/fracgen"])
    assert fracgen("pretrain", "--help")[1].startswith("Usage: fracgen pretrain ")
    code, _, err = fracgen("pretrain", "--shard", "x")
    assert code == 2 and err.startswith("fracgen pretrain: ")
    monkeypatch.setattr("sys.argv", ["/somewhere/fracgen/__main__.py"])
    assert fracgen("pretrain", "--help")[1].startswith("Usage: fracgen pretrain ")
    for other in ("train/pretrain.py", "/somewhere/pytest/__main__.py"):
        monkeypatch.setattr("sys.argv", [other])
        assert fracgen("pretrain", "--help")[1].startswith("Usage: pretrain ")
