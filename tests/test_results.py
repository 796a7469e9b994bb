"""The pages of results are what examples/results/report.py makes of the files there; and the analysis behind it."""

import dataclasses
import importlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fracgen.score_images import measure_image
from fracgen.shards.errors import DataError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "examples" / "results"


@pytest.fixture
def scripts(monkeypatch):
    """The modules beside the results, as they see one another when report.py runs."""
    monkeypatch.syspath_prepend(str(RESULTS))
    return {name: importlib.import_module(name) for name in ("analysis", "report", "plots", "collect", "score_bases")}


def run(variant, base, seed, accuracy, **where):
    return {
        "variant": variant,
        "base": base,
        "seed": seed,
        "accuracy": accuracy,
        "per_class": 100,
        "steps": 300,
        **where,
    }


def test_rank_correlations(scripts):
    analysis = scripts["analysis"]
    y = [21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19]
    x = [67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51]
    rho, ends = analysis.spearman(x, y)  # the example of statpsych's ci.spear
    assert (rho, *ends) == pytest.approx((0.8699639, 0.5840951, 0.9638297), abs=1e-4)
    assert analysis.spearman([1, 2, 3, 4], [1, 4, 9, 99]) == (1, (1, 1))
    assert math.isnan(analysis.spearman([1, 1, 1, 1], [1, 4, 9, 99])[0])
    alone, among = analysis.permutation_p([x, y[::-1]], y)[0]
    assert alone == among < 0.001, "no shuffle is as good"
    (alone, among), (other, _) = analysis.permutation_p([range(5), [1, 0, 2, 4, 3]], range(5))
    assert alone == pytest.approx(2 / 120, abs=0.004) and alone < among and alone < other


def test_scores_are_of_the_sets_that_were_trained_on(scripts):
    scored = json.loads((RESULTS / "scores.json").read_text("utf-8"))["bases"]
    facts = json.loads((RESULTS / "bases.json").read_text("utf-8"))["pretraining"]
    assert [each["base"] for each in scored] == [run["base"] for run in facts] == list(range(12))
    assert [each["fill_rate"] for each in scored] == pytest.approx([run["fill"] for run in facts], abs=1e-5)
    assert scored[2].keys() - {"base"} == scripts["analysis"].SCORES.keys()
    recipe, _ = scripts["score_bases"].set_of(2)
    images = [measure_image(sample.image) for sample in recipe]
    assert np.mean([image.dimension for image in images]) == pytest.approx(scored[2]["dimension"], rel=1e-4)
    assert np.mean([image.mean_lacunarity for image in images]) == pytest.approx(scored[2]["lacunarity"], rel=1e-4)


@pytest.fixture
def study(scripts):
    """Scratch, and 1p-frac of two bases whose gains are 4 and 2 points, two seeds each."""
    scratch = [run("scratch", None, seed, accuracy) for seed, accuracy in enumerate((0.30, 0.32))]
    bases = [
        run("1p-frac", base, seed, 0.30 + 0.02 * seed + gain)
        for base, gain in ((0, 0.04), (1, 0.02))
        for seed in (0, 1)
    ]
    facts = {"clean_accuracy": 0.5, "crop_accuracy": 0.4, "loss": 1.25, "acceptance": 0.9, "contraction": 0.7}
    return scripts["analysis"].Study(
        arms=["scratch", "1p-frac"],
        runs=[*scratch, *bases],
        pretraining=[{"variant": "1p-frac", "base": base, "fill": 0.2 + 0.1 * base, **facts} for base in (0, 1)],
        published={"1p-frac": {"CIFAR-100": 84.2}, "scratch": {}},
        machine="a machine",
        measured="2026-01-01",
    )


def test_the_pages_are_what_the_script_makes(scripts):
    studies = scripts["analysis"].load(RESULTS)
    report = scripts["report"]
    pages = [(ROOT / "docs" / name).read_text("utf-8") for name in report.PAGES]
    assert [report.fill(page, studies) for page in pages] == pages, "run python examples/results/report.py"
    blocks = [match[2] for page in pages for match in report.BLOCK.finditer(page)]
    tables = [*report.TABLES, *report.OF_ALL]
    assert sorted(blocks) == sorted(tables), "each table stands on one page, once"


def test_the_readme_has_the_numbers_of_the_studies(scripts):
    load, summarize = scripts["analysis"].load, scripts["analysis"].summarize
    studies = load(RESULTS)
    readme = (ROOT / "README.md").read_text("utf-8")

    def cells(study, arm, per_class):
        summary = summarize(study, arm, "scratch", per_class=per_class)
        gains = summary["difference"]["by_base" if len(summary["difference"]["by_base"]) > 1 else "by_seed"].values()
        gain = f"{100 * statistics.fmean(gains):+.1f} ± {100 * statistics.stdev(gains):.1f}"
        return f"{100 * summary['mean']:.1f}", gain

    for arm in ("impulse", "mimetic", "1p-frac", "impulse+1p-frac", "ofdb"):
        row = [*cells(studies["equal-budget"], arm, 100), *cells(studies["equal-budget"], arm, 500)]
        assert f"| {' | '.join(row)} |" in readme, arm
    for arm in ("uniform", "gaussian"):
        assert all(cell in readme for count in (100, 500) for cell in cells(studies["equal-budget"], arm, count)), arm
    assert f"twelve base fractals: {cells(studies['bases'], '1p-frac', 100)[1]}" in readme


def test_differences_are_paired(scripts, study):
    difference = scripts["analysis"].summarize(study, "1p-frac", "scratch")["difference"]
    assert difference["by_base"] == pytest.approx({"0": 0.04, "1": 0.02}) and difference["unit"] == "bases"
    assert scripts["analysis"].summarize(study, "1p-frac", "1p-frac")["mean"] == pytest.approx(0.34)
    assert scripts["analysis"].summarize(study, "ofdb", "scratch") is None, "it was not run"


def test_runs_with_more_images_do_not_stand_for_those_with_fewer(scripts, study):
    more = [run("scratch", None, seed, 0.5, per_class=500) for seed in (0, 1)]
    both = dataclasses.replace(study, runs=[*study.runs, *more])
    assert scripts["report"].accuracy(both, "scratch", per_class=100) == "31.0 ± 1.4"
    with pytest.raises(ValueError, match="scratch, base None, seed 0: several runs; say per_class or steps"):
        scripts["report"].variants(both)


def test_tables(scripts, study):
    report = scripts["report"]
    rows = report.variants(study)
    assert rows[0][-1] == "published, CIFAR-100"
    assert rows[1] == ["scratch", "2", "", "31.0 ± 1.4", "", "", ""]
    assert rows[2] == ["1p-frac", "2 x 2", "50", "34.0 ± 1.4 / 1.4", "+3.0 [-9.7, +15.7]", "", "84.2"]
    assert report.search(study)[1:] == [row[:4] for row in rows[1:]]
    assert report.bases(study)[1] == ["0", "50", "40", "1.25", "20", "90", "0.70", "35.0", "+4.0"]
    empty = "<!-- results: cnn -->\nold\n<!-- end -->"
    assert "*Not run yet.*" in report.fill(empty, {}) and "old" not in report.fill(empty, {})
    assert "34.0" in report.fill(empty, {"cnn": study})


def test_what_is_bold_is_of_two_bases_or_more_of_each_arm(scripts, study):
    others = [run("noise", base, seed, 0.20 + 0.02 * seed + 0.001 * base) for base in (0, 1, 2) for seed in (0, 1)]
    sets = [{"variant": "noise", "base": base} for base in (0, 1, 2)]
    both = dataclasses.replace(study, runs=[*study.runs, *others], pretraining=[*study.pretraining, *sets])
    less = [each for each in both.runs if (each["variant"], each["base"]) != ("1p-frac", 1)]
    one_base = dataclasses.replace(both, runs=less)
    gap = scripts["report"].gap
    assert gap(both, "noise", "scratch") == "**-9.9 [-10.1, -9.7]**"
    assert gap(one_base, "1p-frac", "noise") == "+13.9 [+13.9, +13.9]", "plain, without zero though it is"
    assert gap(one_base, "noise", "1p-frac") == "-13.9 [-13.9, -13.9]"
    assert gap(one_base, "1p-frac", "scratch") == "+4.0 [+4.0, +4.0]"


def test_sizes_and_correlation(scripts, study):
    assert [study.size_of(arm) for arm in ("scratch", "1p-frac", "ofdb")] == ["2", "2 x 2", ""]
    assert dataclasses.replace(study, runs=study.runs[:-1]).size_of("1p-frac") == "3 of 2 x 2"
    pearson = scripts["analysis"].pearson
    correlation, ends = pearson([1, 2, 3, 4], [1, 3, 2, 4])
    assert correlation == pytest.approx(0.8)
    assert [math.atanh(end) for end in ends] == pytest.approx([math.atanh(0.8) + step for step in (-1.96, 1.96)])
    assert pearson([1, 2, 3, 4], [4, 3, 2, 1]) == (-1, (-1, -1)), "a perfect one"
    assert pearson([1, 2, 3], [1, 3, 2]) == (pytest.approx(0.5), (pytest.approx(math.nan, nan_ok=True),) * 2)
    assert math.isnan(pearson([1, 1, 1, 1], [1, 3, 2, 4])[0]), "one does not vary"


def test_arms_of_two_studies_base_by_base_over_the_seeds_of_both(scripts, study):
    better = [
        run("redrawn", each["base"], each["seed"], each["accuracy"] + 0.05)
        for each in study.runs
        if (each["variant"], each["seed"]) == ("1p-frac", 1)
    ]
    anew = dataclasses.replace(study, runs=better, pretraining=[], machine="another")
    rows = scripts["report"].base_by_base(dict.fromkeys((0, 1), (study, anew)), "1p-frac", "redrawn")
    assert rows[1:] == [
        ["0", "another", "", "36.0", "41.0", "+5.0"],
        ["1", "another", "", "34.0", "39.0", "+5.0"],
        ["all", "", "", "", "", "+5.0 [+5.0, +5.0]"],
    ], "of seed 1 alone, which both have: not bold"
    rows = scripts["report"].base_by_base({0: (study, study)}, "scratch", "1p-frac")
    assert rows[1][3:] == ["31.0", "35.0", "+4.0"], "scratch has no bases"


def test_lengths_of_several_studies_stand_side_by_side(scripts, study):
    longer = [{**each, "steps": 1000, "accuracy": each["accuracy"] + 0.1} for each in study.runs if each["seed"] == 0]
    more = [{**each, "steps": 1000, "per_class": 500} for each in study.runs]
    studies = {
        "equal-budget": dataclasses.replace(
            study, arms=[*study.arms, "mimetic"], runs=[*study.runs, run("mimetic", None, 0, 0.4)]
        ),
        "length-1000": dataclasses.replace(study, runs=[*longer, *more]),
        "length": study,  # of 300 steps: the first study's stand
    }
    header, *rows = scripts["report"].lengths_of(100)(studies)
    assert header[1:] == ["bases x seeds", "300 steps", "difference", "bases x seeds", "1,000 steps", "difference"]
    assert [row[:3] for row in rows] == [["scratch", "2", "31.0 ± 1.4"], ["1p-frac", "2 x 2", "34.0 ± 1.4 / 1.4"]]
    assert [row[5] for row in rows] == ["40.0", "43.0 ± 1.4"]
    assert scripts["analysis"].joined(studies, 500).runs == more, "one length: all of its arms"
    assert scripts["analysis"].joined(studies, 50).arms == []


def test_plots(scripts, study, tmp_path):
    probed = {"random": [{"linear": [0.3, 0.4], "knn": [0.2, 0.3]}], "1p-frac": [{"linear": [0.5, 0.4]}] * 2}
    longer = dataclasses.replace(study, runs=[{**run, "steps": 1000} for run in study.runs])
    studies = {"equal-budget": study, "length-1000": longer, "converged": study, "bases": study}
    scripts["plots"].draw(studies, tmp_path / "plots", probed)
    assert len(list((tmp_path / "plots").glob("*.png"))) == 6


def test_tables_of_probes_and_of_the_study_that_was_run_twice(scripts, study, tmp_path, monkeypatch):
    report = scripts["report"]
    nets = [{"arm": "1p-frac", "base": base, "linear": [0.3, 0.4 + base / 10], "knn": [0.1, 0.2]} for base in (0, 1)]
    (tmp_path / "probes.json").write_text(json.dumps({"nets": [*nets, {**nets[0], "arm": "random"}]}))
    monkeypatch.setattr(report, "HERE", tmp_path)
    assert report.probes({})[1:] == [
        ["1p-frac", "2", "30.0 ± 0.0", "45.0 ± 7.1", "20.0 ± 0.0"],
        ["random", "1", "30.0", "40.0", "20.0"],
    ]
    better = [{**run, "accuracy": run["accuracy"] + 0.1 * (run["variant"] != "scratch")} for run in study.runs]
    twice = {"equal-budget": dataclasses.replace(study, runs=better), "equal-budget-first": study}
    assert report.replication(twice)[1] == ["1p-frac", "**+13.0 [+0.3, +25.7]**", "+3.0 [-9.7, +15.7]"]


def test_a_file_is_written_and_read_again(scripts, study, tmp_path):
    scripts["collect"].write(
        tmp_path / "bases.json",
        study="examples/equal-budget/bases.yaml",
        machine={"gpu": None, "cores": 2, "cpu": "x"},
        pretraining=study.pretraining,
        finetuning=study.runs[::-1],
    )
    assert len(json.loads((tmp_path / "bases.json").read_text())["finetuning"]) == 6
    again = scripts["analysis"].load(tmp_path)["bases"]
    assert again.arms == study.arms and again.machine == "2 cores, x"
    assert scripts["report"].bases(again) == scripts["report"].bases(study)


@pytest.fixture
def studied(tmp_path):
    """The folder of a study: a pre-training on shards without metadata, and a fine-tuning from it."""
    shards, trained = tmp_path / "shards", tmp_path / "runs" / "pretrained" / "noise" / "base-0"
    tuned = tmp_path / "runs" / "compare" / "per-class-100" / "noise.base-0" / "seed-1"
    for folder in (shards, trained, tuned):
        folder.mkdir(parents=True)
    (shards / "dataset.json").write_text(json.dumps({"num_samples": 64, "num_classes": 64, "recipe": {}}))
    (trained / "config.yaml").write_text(f"shards: {shards}\nschedule: {{steps: 900}}\n")
    (trained / "metrics.jsonl").write_text('{"step": 900, "loss": 1.5}\n{"step": 900, "clean_accuracy": 0.5}\n')
    config = {"per_class": 100, "run": {"seed": 1}, "schedule": {"steps": 300}, "optim": {"lr": 0.002}}
    results = {"last": {"top1": 0.4}, "split": "test", "outcome": {"seconds": 9}, "fingerprint": "f", "config": config}
    (tuned / "results.json").write_text(json.dumps(results))
    (tuned / "compared.json").write_text(json.dumps({"fingerprint": "f"}))
    return tuned


def test_a_study_is_collected(scripts, studied):
    runs = studied.parents[3]
    pretraining, finetuning = scripts["collect"].collect([runs])
    assert pretraining == [
        {"variant": "noise", "base": 0, "step": 900, "loss": 1.5, "clean_accuracy": 0.5, "images": 64, "classes": 64}
    ]
    where = {"variant": "noise", "base": 0, "per_class": 100, "seed": 1, "steps": 300}
    assert finetuning == [{**where, "accuracy": 0.4, "split": "test", "seconds": 9}]


def name_commit(run, commit):
    (run / "model").mkdir(exist_ok=True)
    (run / "model" / "config.json").write_text(json.dumps({"fracgen": {"source": commit}}))


def set_result(path, **changes):
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, **changes}))


def spoil(tuned, how):
    """Damage one thing of a study's folder."""
    results, trained = tuned / "results.json", tuned.parents[3] / "pretrained" / "noise" / "base-0"
    config = json.loads(results.read_text())["config"]
    if how == "accuracy":
        results.write_text(results.read_text().replace('"top1": 0.4', '"top1": NaN'))
    elif how == "loss":
        (trained / "metrics.jsonl").write_text('{"step": 900, "loss": NaN}\n')
        os.utime(trained / "metrics.jsonl", (0, 0))
    elif how == "weights":
        os.utime(results, (0, 0))
    elif how == "unfinished":
        (trained / "metrics.jsonl").write_text('{"step": 450, "loss": 2.5}\n')
        os.utime(trained / "metrics.jsonl", (0, 0))
    elif how == "fingerprint":
        set_result(results, fingerprint="g")
    elif how == "no record":
        (tuned / "compared.json").unlink()
    elif how == "seed":
        set_result(results, config={**config, "run": {"seed": 2}})
    else:
        other = tuned.with_name("seed-2")
        shutil.copytree(tuned, other)
        changed = {**config, "run": {"seed": 2}, "optim": {"lr": 0.001}}
        set_result(other / "results.json", config=changed)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("accuracy", "the accuracy nan is no share"),
        ("loss", "loss is nan"),
        ("weights", "is older than its weights"),
        ("unfinished", "ended at step 450 of 900"),
        ("fingerprint", "other images or weights"),
        ("no record", "is no run that a study has finished"),
        ("seed", "its settings say seed 2"),
        ("settings", "its optim.lr is 0.001"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(scripts, studied, how, line):
    spoil(studied, how)
    with pytest.raises(DataError, match=line):
        scripts["collect"].collect([studied.parents[3]])


def test_runs_are_added_to_those_of_an_earlier_file(scripts, studied, tmp_path, monkeypatch):
    collect, path = scripts["collect"], tmp_path / "some.json"
    monkeypatch.setattr(collect, "HERE", tmp_path)
    (machine := tmp_path / "machine.json").write_text('{"cpu": "x"}')
    runs = str(studied.parents[3])
    collect.main("some", "noise.yaml", runs, machine=machine)
    assert json.loads(path.read_text())["machine"] == {"cpu": "x"}, "models of earlier versions name no commit"
    name_commit(studied, "0a" * 20)
    collect.main("some", "noise.yaml", str(path), runs, machine=machine)
    set_result(studied / "results.json", outcome={"seconds": 7})
    shutil.copytree(studied, studied.with_name("seed-2"))
    config = json.loads((studied / "results.json").read_text())["config"]
    set_result(studied.with_name("seed-2") / "results.json", config={**config, "run": {"seed": 2}})
    name_commit(studied, "0b" * 20)
    collect.main("some", "noise.yaml", str(path), runs, machine=machine)
    both = json.loads(path.read_text())
    assert both["machine"] == {"cpu": "x", "sources": ["0a" * 20, "0b" * 20]}
    assert [(run["seed"], run["seconds"]) for run in both["finetuning"]] == [(1, 7), (2, 7)]
    assert len(both["pretraining"]) == 1
    shutil.rmtree(studied)
    collect.main("some", "noise.yaml", str(path), runs, machine=machine)
    assert json.loads(path.read_text())["finetuning"] == both["finetuning"], "what is in the file alone is kept"
    set_result(studied.with_name("seed-2") / "results.json", last={"top1": 0.5})
    with pytest.raises(DataError, match=r"some.json: noise, base 0: another accuracy than now"):
        collect.main("some", "noise.yaml", str(path), runs, machine=machine)
    machine.write_text('{"cpu": "y"}')
    with pytest.raises(DataError, match=r"is of {'cpu': 'x'}, not of {'cpu': 'y'}"):
        collect.main("some", "noise.yaml", str(path), runs, machine=machine)
    assert json.loads(path.read_text())["machine"]["cpu"] == "x"


def test_the_machine_may_be_another(tmp_path):
    argv = [sys.executable, "examples/results/collect.py", "--machine"]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"cpu", "cores", "gpu", "torch"} <= json.loads(ended.stdout).keys()


@pytest.mark.parametrize("words", [["--help"], ["collect.py"], ["/nope", "study.yaml", "nowhere"]])
@pytest.mark.parametrize("script", ["collect", "report", "score_bases"])
def test_scripts_write_nothing_for_words_that_they_do_not_know(script, words):
    argv = [sys.executable, f"examples/results/{script}.py", *words]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == (0 if words == ["--help"] else 2) and not ended.stderr
    assert f"python examples/results/{script}.py" in ended.stdout
