"""The report of the study of distances, on made-up runs; and what its prediction measures."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from attngraph.analysis.contrast import Region
from attngraph.errors import UserError
from attngraph.experiments.studies.reweighting import SEES, Distances
from attngraph.experiments.tables.compare import compare_pairs, holm
from attngraph.experiments.tables.frame import scores_of
from attngraph.experiments.tables.runs import saved_runs
from tests.adapters.contract import random_graph
from tests.experiments.tables.made import change, save_cells

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def reporting(study):
    return importlib.import_module("attngraph.experiments.studies.distances_report")


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    """A finished table of all arms on five checkpoints with two seeds each."""
    out, rows = tmp_path_factory.mktemp("distances"), [arm.name for arm in study.ARMS]
    save_cells(out, "caption", "vqa", rows=rows, seeds=range(10), checkpoints=5, images=8)
    save_cells(out, "caption", "vqa", rows=["frozen"], seeds=range(5), checkpoints=5, images=8)
    for file in out.glob("cells/*/*/*/scores.json"):
        layer = "layer.1.crossattention"
        change(
            file, learned={f"{layer}.p": 1.25, "layer.1.attention.p": 9.0}, effects={layer: {"moved": 0.125}}
        )
    (out / "results.json").write_text("{}")
    return out


@pytest.fixture(scope="module")
def runs(folder):
    with saved_runs(folder) as found:
        yield found


def test_the_four_comparisons_share_one_correction(runs, reporting):
    """Differences are tested against 0 and equivalence against the margin, all for new checkpoints."""
    table = reporting.compared(runs, "vqa.accuracy")
    p_values = []
    for question, line in zip(reporting.QUESTIONS, table.to_dict("records")):
        pair = (question.row, question.baseline)
        (want,) = compare_pairs(scores_of(runs), [pair], ["vqa.accuracy"], 0.005)
        p_values.append(want["new_equivalent_p"] if question.name in ("H1", "H2") else want["new_p"])
        assert (line["low"], line["high"]) == (want["new_low"], want["new_high"])
    assert list(table["test_p"]) == p_values
    assert list(table["test_p_holm"]) == pytest.approx(holm(p_values))


@pytest.mark.parametrize(
    "name, difference, sure, differs, said",
    [
        ("H0", 0.02, True, True, "above 0"),
        ("H0", 0.009, True, True, "above 0, but by less than 1"),
        ("H0", 0.02, False, False, "no significant difference"),
        ("H3", -0.02, True, True, "below 0"),
        ("H1", 0.001, True, False, "equivalent"),
        ("H1", 0.005, True, True, "equivalent, with a difference"),
        ("H2", 0.03, False, True, "different"),
        ("H2", 0.008, False, False, "neither equivalent nor different"),
    ],
)
def test_answers(name, difference, sure, differs, said, reporting):
    (question,) = (one for one in reporting.QUESTIONS if one.name == name)
    line = {
        "difference": difference,
        "test_p_holm": 0.01 if sure else 0.2,
        "difference_p_holm": 0.01 if differs else 0.2,
    }
    assert reporting.answer(question, line, 0.01) == said


def test_the_summary_is_the_mean_of_standardised_differences(runs, reporting):
    table = reporting.compared(runs, reporting.SUMMARY)
    frame = scores_of(runs).frame.set_index("seed")
    of = [frame[frame["row"] == row][["caption.scene", "vqa.accuracy"]] for row in ("natural", "other_patch")]
    differences = (of[0] - of[1]).to_numpy().reshape(2, 5, 2)  # seed, checkpoint, column
    spread = np.sqrt(((differences - differences.mean(0)) ** 2).sum((0, 1)) / 5)
    want = (differences / spread).mean()
    line = table[table["question"] == "H2"].iloc[0]
    assert line["difference"] == pytest.approx(want) and line["test_p"] == line["p"]


def test_the_first_look_waits_for_four_checkpoints(runs, reporting):
    def without(row: str, seed: int):
        return [run for run in runs if (run.row, run.task, run.seed) != (row, "caption", seed)]

    text = reporting.first_look(without("oracle_free", 4))  # on the fifth
    assert "H0" in text and "H2" in text and "H1" not in text and "The study" in text
    with pytest.raises(UserError, match="needs two seeds"):
        reporting.first_look(without("oracle_free", 8))


def test_nobody_looks_before_the_table_is_finished(folder, runs, reporting):
    reporting.check_complete(folder, runs)
    with pytest.raises(UserError, match="is not complete"):
        reporting.check_complete(folder, runs[:-1] if runs[-1].row != "frozen" else runs[1:])
    (folder / "results.json").rename(folder / "moved.json")
    try:
        with pytest.raises(UserError, match="is not complete"):
            reporting.check_complete(folder, runs)
    finally:
        (folder / "moved.json").rename(folder / "results.json")


def test_rates_that_win_in_resamples(tmp_path, reporting):
    """Compared with all 256 samples of four checkpoints. A run that diverged never wins."""
    scores = np.array([[0.5, 0.4, 0.9], [0.5, 0.6, 0.1], [0.5, 0.55, 0.2], [0.4, 0.43, -np.inf]])
    lines = []
    for checkpoint, k, seed in itertools.product(range(4), range(3), range(2)):
        rate, score = (1e-3, 3e-3, 1e-2)[k], scores[checkpoint, k]
        lines.append(("natural", "vqa", "blend", "{}", rate, checkpoint + 4 * seed, score))
        cell = tmp_path / "cells" / f"natural@{rate:g}" / "vqa" / f"seed{checkpoint + 4 * seed}"
        cell.mkdir(parents=True)
        settings = {"weights": f"digest {checkpoint}"}
        (cell / "config.json").write_text(json.dumps({"settings": settings}))
    head = ["method", "task", "join", "arguments", "rate", "seed", "score"]
    pd.DataFrame(lines, columns=head).to_csv(tmp_path / "search.csv", index=False)
    every = np.array(list(itertools.product(range(4), repeat=4)))
    scores[:, np.isinf(scores).any(0)] = -np.inf  # also in samples without this checkpoint
    winners = scores[every].mean(1).argmax(1)
    want = np.bincount(winners, minlength=3) / len(every)
    assert list(reporting.wins(tmp_path)["share"]) == pytest.approx(want, abs=0.02)
    (tmp_path / "settings.yaml").write_text("methods: {natural: {vqa: {learning_rate: 0.003}}}")
    other = reporting.at_other_rates(tmp_path).methods["natural"]["vqa"].learning_rate
    assert 0.2 < want[0] < want[1] and other == 1e-3


@pytest.mark.parametrize("factor", [0.3, 0.0])
def test_the_slope_of_gain_over_mass_saved(factor, reporting):
    rng = np.random.default_rng(1)
    saved = rng.random((7, 1)) * 0.2 + 0.01 * rng.random((7, 12))
    gain = factor * saved + 0.003 * rng.normal(size=(7, 12))
    points = pd.DataFrame(
        [(a, c, saved[a, c], gain[a, c]) for a in range(7) for c in range(12)],
        columns=["arm", "checkpoint", "saved", "gain"],
    )
    value, low, high, p = reporting.slope(points, 500)
    assert value == pytest.approx(np.polyfit(saved.ravel(), gain.ravel(), 1)[0])
    assert low < factor < high and (p < 0.01) == (factor > 0)


def test_the_whole_report(folder, runs, study, reporting, capsys):
    rng = np.random.default_rng(0)
    lines = [
        {"checkpoint": checkpoint, "arm": arm.name, "layer": layer, "saved": rng.random(), "contrast": 0.1}
        for checkpoint in {run.checkpoint for run in runs}
        for arm in (*study.COUPLED.values(), *study.FREE.values())
        for layer in range(2)
    ]
    pd.DataFrame(lines).to_csv(folder / "prediction.csv", index=False)
    table = ROOT / "experiments" / "results" / "heterophily" / "closed-form.md"
    reporting.main([str(folder), "--closed-form", str(table)])
    text = (folder / "report" / "report.md").read_text()
    assert capsys.readouterr().out.startswith(text)
    frozen = {(run.task, run.seed): run.result["scores"] for run in runs if run.row == "frozen"}
    below = sum(
        run.result["scores"][key] < frozen[run.task, run.seed % 5][key]
        for run in runs
        for key in ("caption.scene", "vqa.accuracy")
        if key in run.result["scores"]
    )
    assert f"230 runs on 5 checkpoints; {below} of 220 below" in text
    assert "| Natural − Another patch |" in text and "Slope: " in text and "7 arms × 5 checkpoints" in text
    assert "| Oracle, free | caption | 1.25 ± 0.00 |" in text, "p of cross-attention"
    csv = pd.read_csv(folder / "report" / "comparisons.csv")
    assert list(csv["question"]) == 3 * ["H0", "H1", "H2", "H3"]
    for suffix in ("png", "svg"):
        assert (folder / "report" / f"distances.{suffix}").stat().st_size > 5000


def test_an_arm_at_another_rate_replaces_its_runs_in_each_comparison_with_it(
    folder, runs, reporting, tmp_path
):
    """On the tasks on which the rate differs."""
    options = {"rows": ["natural", "closed_form"], "seeds": range(10), "checkpoints": 5, "images": 8}
    save_cells(tmp_path, "vqa", "caption", **options)  # other numbers than in the table
    save_cells(tmp_path, "vqa", "caption", **options | {"rows": ["frozen"], "seeds": range(5)})
    for file in tmp_path.glob("cells/natural/vqa/*/config.json"):
        settings = json.loads(file.read_text())["settings"]
        change(file, "settings", recipe={**settings["recipe"], "learning_rate": 0.03})
    with saved_runs(tmp_path) as others:
        reporting.check_other(tmp_path, others, runs)
        with pytest.raises(UserError, match="is not complete"):
            reporting.check_other(tmp_path, [run for run in others if run.seed], runs)
        text, table = reporting.report(runs, folder, None, others)
        mixed = [run for run in runs if (run.row, run.task) != ("natural", "vqa")]
        mixed += [run for run in others if (run.row, run.task) == ("natural", "vqa")]
        want = reporting.compared(mixed, "vqa.accuracy")
    again = table[table["other_rate"].notna()]
    assert "Natural at 0.03: vqa.accuracy" in text
    assert list(again["question"]) == 2 * ["H1", "H2", "H3"]
    assert list(again["column"]) == 3 * ["vqa.accuracy"] + 3 * ["summary"]
    assert list(again["difference"][:3]) == list(want["difference"][1:])


# ---- the prediction ---------------------------------------------------------------------------------------


def test_masses_are_those_of_the_weights_that_an_arm_would_use(study):
    predicting = importlib.import_module("attngraph.experiments.studies.distances_prediction")
    graph = random_graph(0, n=5, m=10, causal=True)[0]
    draw = torch.Generator().manual_seed(0)
    candidates = torch.ones(2, 10, dtype=torch.bool)
    candidates[:, 0] = False
    relevant = (torch.rand(2, 5, 10, generator=draw) < 0.3) & candidates[:, None]
    relevant[0, 2] = False
    region = Region(relevant, candidates)
    seen = dict(predicting._seen(graph, region))
    for sees in SEES:
        scheme = Distances(sees, free=True).double()
        scheme.shown = predicting._Known(relevant)
        scheme.a.logit.set(0.7)
        scheme.b.logit.set(-1.2)
        weight = scheme.reweight(graph).detach()
        shares = []
        for b, h, i in itertools.product(range(2), range(graph.shape[1]), range(5)):
            if relevant[b, i].any():
                near = weight[b, h, i][relevant[b, i]].sum()
                shares.append(1 - near / weight[b, h, i, 1:].sum())
        got = predicting.mean_mass([seen[sees]], [(scheme.a.number(), scheme.b.number())])
        assert float(got) == pytest.approx(float(torch.stack(shares).mean()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_the_search_to_the_report(tmp_path):
    """The commands of the protocol, with few steps and the shipped checkpoint in the place of the sixteen."""
    few = ["scenes.captions=[64,8,12]", "scenes.questions=[64,16,24]", "runs.recipe.steps=3"]
    few += ["by_task.caption.recipe.steps=3", "baseline=natural", "contenders=[natural]"]
    few += ["rates={adapters: [0.01, 0.03]}"]
    study = ROOT / "experiments" / "studies"

    def preset(seeds: int, *arms: str) -> list[str]:
        changes = [*few, f"seeds={seeds}", f"rows={{A: [{', '.join(arms)}], B: [frozen]}}"]
        words = [word for change in changes for word in ("--set", change)]
        return ["--preset", str(study / "distances.yaml"), "--model", "mini-blip", *words]

    plugin = ["attngraph.experiments.cli", "--plugin", str(study / "distances.py")]

    def run(module: str, *words: object) -> None:
        command = [sys.executable, "-m", module, *map(str, words)]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})

    rates, table = tmp_path / "rates", tmp_path / "table"
    asked = ["nothing_free", "oracle_free", "natural", "natural_free", "closed_form", "other_patch"]
    run(*plugin, "search", *preset(1, "natural"), "--out", rates)
    run("attngraph.experiments.studies.distances_prediction", table, *preset(2, *asked), "--images", 6)
    run(*plugin, "ablation", *preset(2, *asked), "--settings", rates / "settings.yaml", "--out", table)
    run("attngraph.experiments.studies.distances_report", table, "--rates", rates, "--out", tmp_path)
    assert "Tuning noise" in (tmp_path / "report.md").read_text()
