"""`python train/study.py`: what a study is, the commands that it stands for, and one from rendering to a table."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from test_compare import RECIPE, TINY, start_here, write_images

import fracgen.cli.app
from fracgen.shards.errors import DataError, UsageError
from fracgen.train import study
from fracgen.train.config import load
from fracgen.train.experiments.plan import Step
from fracgen.train.experiments.step_times import StepTimes, step_tasks
from fracgen.train.experiments.study_file import load_study
from fracgen.train.experiments.study_report import read_settings
from fracgen.train.experiments.subprocesses import SubprocessRunner
from fracgen.train.finetune import Finetuning
from fracgen.train.pretrain import Pretraining

ROOT = Path(__file__).parents[1]
STUDIES = [
    *sorted((ROOT / "examples" / "ablations").glob("*.yaml")),
    ROOT / "examples" / "equal-budget" / "length.yaml",
]
PUBLISHED = {
    "delta": {"delta-0.001": 1.2, "delta-0.01": 19.9, "delta-0.05": 83.0, "delta-0.1": 84.2, "delta-0.2": 83.4},
    "sigma": {"sigma-3.5": 84.2, "sigma-5.0": 82.2, "sigma-6.0": 81.3},
    "classes": {"l-16": 78.7, "l-1000": 84.2},
    "noise": {"gaussian": 1.1, "uniform": 2.0, "1p-frac": 84.2},
    "photo": {"rgb": 81.6, "canny": 82.2, "affine": 81.9, "polynomial": 81.3, "elastic": 37.0},
    "augmentation": {"recipe": 84.2, "without-crop": 80.1, "without-mix": 80.4, "without-randaugment": 83.4},
}
"""On CIFAR-100; scratch has 64.2 in all of them."""

SMALL = """
about: two of everything
sizes:
  laptop: {render: --classes 8 --size 48 --points 1500 --workers 1, pretrain: pretrain.yaml, finetune: finetune.yaml,
           per_class: 4, seeds: 1}
variants:
  small:
    render: render --delta 0.1
    published: {CIFAR-100: 84.2}
  scratch: {}
"""
PRETRAIN = {
    "model": {"drop_path": 0.0, "options": TINY},
    "schedule": {"steps": 2},
    "loader": {"batch_size": 8, "workers": 0},
    "augment": {"size": 32},
    "run": {"device": "cpu", "clean_images": 0},
}


def run(*words):
    return study.run([str(word) for word in words])


def commands(capsys, *words):
    assert run(*words, "--data", "D", "--out", "o", "--dry-run") == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def kind(words):
    return "fracgen" if words[1:3] == ["-m", "fracgen"] else Path(words[1]).stem


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", ["laptop", "published"])
def test_the_studies_of_the_examples(path, size, capsys):
    pytest.importorskip("skimage")
    if path.stem == "length" and size == "published":
        with pytest.raises(UsageError, match=r"sizes\.published: is not there"):
            load_study(path, size)
        return
    _, chosen, variants = load_study(path, size)
    listed = commands(capsys, path, *(["--published"] if size == "published" else []))
    assert [kind(words) for words in listed] == sorted(map(kind, listed), key=["fracgen", "pretrain", "compare"].index)
    trained = [words for words in listed if kind(words) == "pretrain"]
    assert len(trained) == chosen.bases * sum(bool(variant.render) for variant in variants.values())
    for words in trained:
        at = words.index("--config") + 1
        settings = load(Pretraining, words[at], {}, [word for word in words[at:] if "=" in word])
        assert words[words.index("--shards") + 1] in [each[-1] for each in listed if kind(each) == "fracgen"]
        assert settings.loader.repeats * (16 if "l-16" in words[-2] else 64) >= settings.loader.batch_size or (
            size == "published"
        )
    starts = [words.partition("=")[0] for words in listed[-1] if words.startswith(tuple(variants)) and "=" in words]
    bases = [f".base-{base}" for base in range(chosen.bases)] if chosen.bases > 1 else [""]
    assert starts == [name + base for name, each in variants.items() for base in (bases if each.render else [""])]
    load(Finetuning, chosen.finetune or None, {}, [])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers(name):
    _, _, variants = load_study(ROOT / "examples" / "ablations" / f"{name}.yaml", "published")
    columns = {name: variant.published.get("CIFAR-100") for name, variant in variants.items()}
    assert columns == {**PUBLISHED[name], "scratch": 64.2}


def test_a_set_is_rendered_once_and_another_can_be_made_of_it(capsys):
    listed = commands(capsys, STUDIES[0])
    assert STUDIES[0].stem == "augmentation" and [kind(words) for words in listed].count("fracgen") == 1
    delta = commands(capsys, ROOT / "examples" / "ablations" / "delta.yaml")
    assert delta[4][4:8] == ["--ifs", "o/data/delta-0.1", "--delta", "0.2"], "all of them perturb one fractal"


def test_other_protocols_and_one_after_another(capsys):
    path = ROOT / "examples" / "equal-budget" / "protocols.yaml"
    listed = [shlex.join(words) for words in commands(capsys, path) if words[1:3] != ["-m", "fracgen"]]
    trained = {match[1]: words for words in listed if (match := re.search(r"--out o/pretrained/(\S+)", words))}
    assert len(trained) == 4 * 3
    dyck, both, mae = (trained[f"{name}/base-1"] for name in ("k-dyck", "k-dyck+1p-frac", "mae"))
    assert re.search(r"dyck\.py --config \S*/dyck-laptop\.yaml --out", dyck) and "run.seed=1" in dyck
    assert "--shards o/data/1p-frac/base-1 --checkpoint o/pretrained/k-dyck/base-1" in both and "pretrain.py" in both
    assert re.search(r"mae\.py --config \S*/mae-laptop\.yaml --shards o/data/1p-frac/base-1 --out", mae)
    assert listed[-1].count("--start k-dyck.base-") == 3 and "--start scratch=none" in listed[-1]


def test_a_study_of_other_protocols(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(SubprocessRunner, "start_process", start_here)
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    no_labels = {**PRETRAIN, "run": {"device": "cpu"}}
    (tmp_path / "mae.yaml").write_text(yaml.safe_dump({**no_labels, "decoder": {"width": 24, "depth": 1, "heads": 3}}))
    (tmp_path / "dyck.yaml").write_text(
        yaml.safe_dump({**no_labels, "brackets": {"types": 4}, "loader": {"batch_size": 8}})
    )
    (tmp_path / "finetune.yaml").write_text(RECIPE)
    (tmp_path / "study.yaml").write_text(
        SMALL.replace("  scratch: {}", "  mae: {render: render --delta 0.1, program: mae, config: mae.yaml}")
        + "  brackets: {program: dyck, config: dyck.yaml}\n"
        + "  both: {render: render --delta 0.1, after: brackets}\n"
    )
    out = tmp_path / "out"
    words = ["--data", write_images(tmp_path / "images"), "--out", out, "--json"]
    assert run(tmp_path / "study.yaml", *words) == 0, capfd.readouterr().err
    report = json.loads(capfd.readouterr().out)
    assert report["complete"] and set(report["pretraining"]) == {"small", "mae", "brackets", "both"}
    assert report["pretraining"]["mae"]["0"]["images"] == 8 and "images" not in report["pretraining"]["brackets"]["0"]
    assert report["settings"]["pretrain"]["mix"], "those of pretrain, whose rows most studies have"
    config = yaml.safe_load((out / "pretrained" / "both" / "config.yaml").read_text())
    assert config["checkpoint"] == str(out / "pretrained" / "brackets")


def test_what_a_user_adds(capsys):
    words = [
        "pretrain.run.device=cpu",
        "finetune.optim.lr=0.5",
        "--per-class=7",
        "--seeds=5",
        "--seed=3",
        "--launcher=python -u",
    ]
    listed = commands(capsys, ROOT / "examples" / "ablations" / "noise.yaml", *words)
    assert listed[3][1] == "-u" and "run.device=cpu" in listed[3]
    text = shlex.join(listed[-1])
    assert (
        "--seeds 5 --seed 3" in text
        and text.count("--per-class") == 1
        and "--per-class 7" in text
        and "optim.lr=0.5" in text
    )
    assert "--launcher 'python -u'" in text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--finetune=optim.lr=0.5", "--finetune optim.lr=0.5: is written finetune.optim.lr=0.5 now"),
        ("optim.lr=0.5", "'optim.lr=0.5': give pretrain.NAME=VALUE or finetune.NAME=VALUE"),
        ("finetune.run.seed=3", "run.seed=3: differs from run to run; give --seed"),
        ("finetune.checkpoint=runs/x", "the starts of a study are its variants"),
        ("--seeds=0", "--seeds"),
    ],
)
def test_what_a_user_cannot_add(word, message, capsys):
    assert run(STUDIES[-1], "--data", "D", "--out", "o", "--dry-run", word) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("about:", "abuot:", "unknown key 'abuot', did you mean 'about'"),
        ("render: render", "rendre: render", r"unknown key 'variants\.small\.rendre', did you mean 'render'"),
        ("seeds: 1", "seed: 1", r"unknown key 'sizes\.laptop\.seed', did you mean 'seeds'"),
        ("84.2", "much", r"variants\.small\.published\.CIFAR-100 'much': must be a number"),
        ("{}", "{size: large}", r"variants\.scratch\.size 'large': must be one of both, laptop, published"),
        ("{}", "{pretrain: {optim.lr: 1}}", r"variants\.scratch\.pretrain: needs a set"),
        ("{}", "{program: mae}", r"variants\.scratch\.program: needs a set"),
        ("{}", "{program: dyck, render: render}", r"variants\.scratch\.program dyck: trains on sequences"),
        ("{}", "{program: dino}", r"variants\.scratch\.program 'dino': must be one of pretrain, mae, dyck"),
        ("{}", "{render: render, after: large}", r"variants\.scratch\.after: 'large' is no variant before it"),
        ("{}", "{render: render, after: small, init: impulse}", r"variants\.scratch\.init: is given beside after"),
        ("{}", "{render: render, config: none.yaml}", r"none\.yaml: no such file, which 'pre-train scratch' needs"),
        ("{}", "{render: render 'a}", r"variants\.scratch\.render .*: No closing quotation"),
        ("  scratch: {}", "", "1 of size laptop; two or more"),
        ("scratch:", "from scratch:", "'from scratch' is to name a folder"),
        ("laptop: {", "published: {", r"sizes\.laptop: is not there"),
        ("--delta 0.1", "--ifs @big", r"variants\.small\.render @big: 'big' is no variant before it"),
        ("pretrain.yaml", "other.yaml", r"other\.yaml: no such file, which 'pre-train small' needs"),
        ("render --delta", "photo PHOTO --delta", "nowhere.jpg: no such file, which 'render small' needs"),
    ],
)
def test_what_is_no_study_is_one_line(old, new, message, tmp_path, capsys):
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (tmp_path / "finetune.yaml").write_text(RECIPE)
    (tmp_path / "study.yaml").write_text(SMALL.replace(old, new, 1))
    words = [tmp_path / "study.yaml", "--data", "D", "--out", tmp_path / "o", "--photo", "nowhere.jpg"]
    assert run(*words, "--dry-run") == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.count("\n") == 1 and not (tmp_path / "o").exists()


def test_the_published_size_needs_a_test_split_before_anything_is_made(tmp_path, capsys):
    images = write_images(tmp_path / "images")
    (images / "test").rename(tmp_path / "test")
    words = [ROOT / "examples" / "ablations" / "delta.yaml", "--data", images, "--out", tmp_path / "out", "--published"]
    assert run(*words) == 2
    assert "has no test split, on which protocol=published chooses" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_without_a_photograph(tmp_path, monkeypatch, capsys):
    for absent, message in (("skimage", "--photo: give a photograph"), ("cv2", "pip install 'fracgen[photo]'")):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, absent=absent: None if name == absent else True)
        assert run(ROOT / "examples" / "ablations" / "photo.yaml", "--data", "D", "--out", "o", "--dry-run") == 2
        assert message in capsys.readouterr().err
    (tmp_path / "photo.png").touch()
    (tmp_path / "study.yaml").write_text(SMALL.replace("render --delta 0.1", "photo PHOTO"))
    words = ["--data", "D", "--out", tmp_path / "o", "--photo", tmp_path / "photo.png", "--dry-run"]
    for name in ("pretrain", "finetune"):
        (tmp_path / f"{name}.yaml").touch()
    assert run(tmp_path / "study.yaml", *words) == 2 and "pip install 'fracgen[photo]'" in capsys.readouterr().err
    (tmp_path / "o" / "data" / "small").mkdir(parents=True)
    (tmp_path / "o" / "data" / "small" / "dataset.json").touch()
    assert run(tmp_path / "study.yaml", *words) == 0, "a set that is there, from another machine say, needs none"


def test_from_rendering_to_a_table(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(SubprocessRunner, "start_process", start_here)
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (tmp_path / "finetune.yaml").write_text(RECIPE)
    (tmp_path / "study.yaml").write_text(SMALL)
    out = tmp_path / "out"
    words = [tmp_path / "study.yaml", "--data", write_images(tmp_path / "images"), "--out", out]
    assert run(*words[:2], tmp_path / "nowhere", *words[3:]) == 2 and not list(out.iterdir()), "before anything is made"
    assert run(*words) == 0
    shown = capfd.readouterr()
    assert "published, CIFAR-100" in shown.out and "84.2" in shown.out and "in all" in shown.out
    steps = [line.split(": ")[1] for line in shown.err.splitlines() if line.startswith("step ")]
    assert steps == ["render small", "pre-train small"]
    times = json.loads((out / "times.json").read_text())
    assert times.pop("by the clock")["seconds"] > 0 and all(times[step]["done"] for step in steps)
    assert sorted(times) == sorted([*steps, "fine-tune"]) and all(each["seconds"] >= 0 for each in times.values())
    assert run(*words, "--json") == 0
    shown = capfd.readouterr()
    report = json.loads(shown.out)
    assert not shown.err, "all is there"
    assert report["seconds"] == {name: each["seconds"] for name, each in times.items()}, "looking is not counted"
    assert report == json.loads((out / "study.json").read_text()) and report["complete"]
    assert "| small | 1 |" in (out / "study.md").read_text()


def test_times_add_up_over_interruptions(tmp_path):
    step = Step(name="render x", argv=("true", "--out", "x"), product=tmp_path / "made", key="k")

    def task():
        return step_tasks([step], StepTimes(tmp_path / "times.json"))[step]

    first = task()
    first.end(10.0, False)
    first.end(10.5, False)
    kept = json.loads((tmp_path / "times.json").read_text())
    assert kept == {"render x": {"seconds": 20.5, "done": None}}
    again = task()
    assert again.command() == step.argv
    again.end(20.0, True)
    assert again.command() == step.argv, "nothing was made"
    (tmp_path / "made").touch()
    assert again.command() is None is task().command()
    times = StepTimes(tmp_path / "times.json")
    assert times.seconds(["render x"]) == {"render x": 40.5}
    other = Step(name="render x", argv=step.argv, product=step.product, key="other")
    assert not times.is_finished(other)
    for damage, fault in (([20.5], r"\[20.5\]: must be a mapping"), ({"seconds": "long"}, "seconds 'long': must be a")):
        (tmp_path / "times.json").write_text(json.dumps({"render x": damage}))
        with pytest.raises(DataError, match=rf"times\.json: damaged \(render x: {fault}.*\); remove it"):
            StepTimes(tmp_path / "times.json")


def test_damaged_settings_of_a_run_are_one_line(tmp_path):
    for text in ("[1]", "model: {}", "run: 3"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(DataError, match=r"config\.yaml: not the settings of a run"):
            read_settings([tmp_path])


def test_renderers_at_a_time_share_the_cores(tmp_path):
    def words(*argv):
        step = Step(name="render x", argv=(*argv, "--out", "x"), product=tmp_path / "made", key="k")
        return step_tasks([step], StepTimes(tmp_path / "times.json"), workers=3)[step].command()

    assert words("python", "-m", "fracgen", "render")[-2:] == ("--workers", "3")
    assert words("python", "-m", "fracgen", "render", "--workers=1")[-3] == "--workers=1"
    assert words("python", "pretrain.py")[-1] == "x"


# several bases


def listed_by_name(capsys, path, *words):
    return {words[words.index("--out") + 1]: words for words in commands(capsys, path, *words)}


def test_each_base_is_a_set_and_a_seed_of_pre_training(capsys):
    listed = listed_by_name(capsys, ROOT / "examples" / "ablations" / "delta.yaml", "--bases", "2")
    assert len(listed) == 2 * 2 * 5 + 1
    render, pretrain = listed["o/data/delta-0.2/base-1"], listed["o/pretrained/delta-0.2/base-1"]
    assert render[render.index("--ifs") + 1] == "o/data/delta-0.1/base-1", "of the same base"
    assert render[render.index("--seed") + 1] == "1" and "run.seed=1" in pretrain
    assert pretrain[pretrain.index("--shards") + 1] == "o/data/delta-0.2/base-1"
    starts = [word for word in listed["o/compare"] if "=" in word and not word.startswith("protocol")]
    assert starts[:2] == [f"delta-0.1.base-{base}=o/pretrained/delta-0.1/base-{base}" for base in range(2)]
    assert starts[-1] == "scratch=none" and len(starts) == 11
    listed = listed_by_name(capsys, STUDIES[0], "--bases", "3")
    assert len([out for out in listed if out.startswith("o/data/")]) == 3, "variants of equal words share them"


def test_commands_that_render_have_a_seed(capsys):
    """Bases are told apart by it."""
    pytest.importorskip("skimage")
    for path in STUDIES:
        for words in commands(capsys, path, "--bases", "2"):
            if kind(words) == "fracgen":
                assert words[-4:-2] == ["--seed", words[-1][-1]]
    for words in (
        ["render"],
        ["photo"],
        *(["baseline", name] for name in ("noise", "ofdb", "fractaldb", "visualatom")),
    ):
        assert fracgen.cli.app.run([*words, "--help"]) == 0
        assert "--seed" in capsys.readouterr().out


INITS = """
about: closed forms
sizes: {laptop: {pretrain: pretrain.yaml, finetune: finetune.yaml, bases: 2, seeds: 1}}
variants:
  scratch: {}
  impulse: {init: impulse}
  both: {render: render, init: impulse}
  plain: {render: render}
"""


def test_closed_forms_as_starts_and_before_pre_training(tmp_path, capsys):
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (tmp_path / "finetune.yaml").write_text(RECIPE)
    (tmp_path / "study.yaml").write_text(INITS)
    listed = listed_by_name(capsys, tmp_path / "study.yaml")
    assert [out for out in listed if out.startswith("o/data")] == ["o/data/both/base-0", "o/data/both/base-1"]
    assert "model.init=impulse" in listed["o/pretrained/both/base-1"]
    assert not any("model.init" in word for word in listed["o/pretrained/plain/base-1"])
    assert {"scratch=none", "impulse=impulse"} < set(listed["o/compare"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("init: impulse}", "init: xavier}", "must be one of default, mimetic, impulse"),
        ("init: impulse}", "init: impulse, pretrain: {model.init: mimetic}, render: render}", "is given twice"),
        ("plain: {render: render}", "plain: {render: render --seed 4}", r"render --seed: each base has its own"),
        (
            "plain: {render: render}",
            "plain: {render: render, pretrain: {run.seed: 4}}",
            "run.seed: each base has its own",
        ),
        ("impulse: {", "both.base-1: {", "variants.both.base-1: is a base of another variant too"),
        ("bases: 2", "bases: 0", "bases 0: must be"),
    ],
)
def test_what_bases_are_not(old, new, message, tmp_path, capsys):
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (tmp_path / "finetune.yaml").write_text(RECIPE)
    (tmp_path / "study.yaml").write_text(INITS.replace(old, new, 1))
    assert run(tmp_path / "study.yaml", "--data", "D", "--out", tmp_path / "o", "--dry-run") == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.count("\n") == 1


def test_a_study_of_two_bases(tmp_path, monkeypatch, capfd):
    """Two bases, two seeds, in this process; programs of their own are in test_compare."""
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (tmp_path / "finetune.yaml").write_text(RECIPE)
    (tmp_path / "study.yaml").write_text(SMALL.replace("seeds: 1", "seeds: 2, bases: 2"))
    monkeypatch.setattr(SubprocessRunner, "start_process", start_here)
    words = [tmp_path / "study.yaml", "--data", write_images(tmp_path / "images"), "--json", "--jobs=2"]
    assert run(*words, "--out", tmp_path / "two") == 0
    shown = capfd.readouterr()
    two = json.loads(shown.out)
    assert sum(line.startswith("step ") for line in shown.err.splitlines()) == 4
    assert sum(line.startswith("run ") for line in shown.err.splitlines()) == 6
    assert {each.name for each in (tmp_path / "two" / "compare" / "per-class-4" / "small.base-1").iterdir()} == {
        "seed-0", "seed-1"
    }  # fmt: skip
    (section,) = two["sections"]
    small, scratch = (section["measures"]["last"][name] for name in ("small", "scratch"))
    assert small["accuracies"].keys() == {"0", "1"} and scratch["accuracies"].keys() == {"0"}
    assert (small["n_bases"], small["n_runs"], scratch["n_runs"]) == (2, 4, 2) and scratch["difference"]["n"] == 4
    assert section["curves"]["quantity"] == "loss" and [row[0] for row in section["curves"]["variants"]["small"]] == [
        1,
        2,
    ]
    for base, each in two["pretraining"]["small"].items():
        assert each["recipe"]["seed"] == int(base) and 0 < each["fill_rate"] < 1 and each["step"] == 2
    assert two["machine"]["jobs"] == 2 and two["settings"]["finetune"]["optim"]["lr"] == 0.01 and two["complete"]
    assert str(tmp_path) not in json.dumps(two), "no paths"
    assert (tmp_path / "two" / "study.png").read_bytes().startswith(b"\x89PNG")
    assert "| small | 2 x 2 |" in (tmp_path / "two" / "study.md").read_text()
