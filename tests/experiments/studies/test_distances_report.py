"""The report of the study of distances, on made-up runs; and what its prediction measures."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from attngraph.analysis.contrast import Region
from attngraph.errors import UserError
from attngraph.experiments.methods.settings import Choice, Settings, chosen_settings, write_settings
from attngraph.experiments.studies import distances_rates
from attngraph.experiments.studies.reweighting import SEES, Distances
from attngraph.experiments.tables.compare import compare_pairs, holm
from attngraph.experiments.tables.frame import scores_of
from attngraph.experiments.tables.runs import saved_runs
from tests.adapters.contract import random_graph
from tests.experiments.tables.made import change, save_cells

ROOT = Path(__file__).parents[3]
HEAD = ["method", "task", "join", "arguments", "rate", "seed", "score"]  # of a search


@pytest.fixture(scope="module")
def reporting(study):
    return importlib.import_module("attngraph.experiments.studies.distances_report")


@pytest.fixture(scope="module")
def comparing(reporting):
    return importlib.import_module("attngraph.experiments.studies.distances_comparisons")


CHANGES = ["seeds=10", "checkpoints=5"]  # of the preset, to that of made-up runs
CHANGES += ["runs.recipe.steps=40", "runs.recipe.batch_size=64", "by_task.caption.recipe.steps=40"]


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
    return out


@pytest.fixture(scope="module")
def runs(folder):
    with saved_runs(folder) as found:
        yield found


@pytest.fixture
def rates(study, tmp_path):
    """Files of a search that chose 0.01 for all arms; natural on VQA could also have 0.03."""
    folder, lines = tmp_path / "rates", []
    folder.mkdir()
    for arm, task, seed in itertools.product(study.ARMS, ("caption", "vqa"), range(8)):
        for rate, score in (0.01, 0.5), (0.03, 0.4):
            noisy = seed == 0 and (arm.name, task) == ("natural", "vqa")
            lines.append((arm.name, task, "blend", "{}", rate, seed, score + 0.7 * (noisy and rate == 0.03)))
    pd.DataFrame(lines, columns=HEAD).to_csv(folder / "search.csv", index=False)
    choice = {task: Choice(learning_rate=0.01) for task in ("caption", "vqa")}
    write_settings(folder / "settings.yaml", Settings(methods={arm.name: choice for arm in study.ARMS}))
    return folder


@pytest.fixture
def planned(rates, reporting):
    return reporting.planned_runs(chosen_settings(rates / "settings.yaml"), CHANGES)


def test_the_four_comparisons_share_one_correction(runs, comparing):
    """Differences are tested against 0 and equivalence against the margin, all for new checkpoints."""
    table = comparing.compared(runs, "vqa.accuracy")
    p_values = []
    for question, line in zip(comparing.QUESTIONS, table.to_dict("records")):
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
        ("H0", -0.009, True, True, "below 0"),
        ("H0", 0.02, False, False, "no significant difference"),
        ("H3", -0.02, True, True, "below 0"),
        ("H1", 0.001, True, False, "equivalent"),
        ("H1", 0.005, True, True, "equivalent, with a difference"),
        ("H2", 0.03, False, True, "different, above 0"),
        ("H2", -0.03, False, True, "different, below 0"),
        ("H2", 0.008, False, False, "neither equivalent nor different"),
    ],
)
def test_answers(name, difference, sure, differs, said, comparing):
    (question,) = (one for one in comparing.QUESTIONS if one.name == name)
    line = {
        "difference": difference,
        "test_p_holm": 0.01 if sure else 0.2,
        "difference_p_holm": 0.01 if differs else 0.2,
    }
    assert comparing.answer(question, line, 0.01) == said


@pytest.fixture
def stub(comparing, monkeypatch):
    """Comparisons with given numbers, one after the other."""

    def numbers(*lines):
        found = iter(lines)

        def of_pairs(scores, pairs, columns, margin):
            line = {"column": columns[0], "low": 0.0, "high": 0.0, "p": 1e-6, "equivalent_p": 1e-6}
            return [line | {"by_checkpoint": []} | next(found) for _ in pairs]

        monkeypatch.setattr(comparing, "compare_pairs", of_pairs)

    return numbers


def test_both_corrections_are_for_four_tests(runs, comparing, stub):
    p_values = [(0.02, 0.9), (0.013, 0.01), (0.04, 0.2), (0.5, 0.9)]
    stub(*({"difference": 0.02, "p": p, "equivalent_p": tost} for p, tost in p_values))
    table = comparing.compared(runs, "caption.scene")
    assert list(table["test_p_holm"]) == pytest.approx([0.06, 0.04, 0.4, 0.5])
    assert list(table["difference_p_holm"]) == pytest.approx([0.06, 0.052, 0.08, 0.5])


@pytest.mark.parametrize("gain, holds", [(0.02, True), (0.009, False)])
def test_h1_to_h3_have_no_answer_unless_the_oracle_helps(gain, holds, runs, comparing, stub):
    """At the chosen rates, and at second ones."""
    stub(*({"difference": difference} for difference in (gain, 0.0, 0.0, 0.003)))
    table = comparing.compared(runs, "caption.scene")
    gated = comparing.gated(table, table["answer"][0] == comparing.HOLDS)
    answers = list(gated["answer"])
    if holds:
        assert answers == ["above 0", *2 * ["equivalent, with a difference"], "above 0"]
    else:
        assert answers == ["above 0, but by less than 1", *3 * ["none, since H0 fails"]]
    changed = table.iloc[[0, 1]].assign(answer="different", at="Natural at 0.03")
    said = comparing.conclusion("VQA", gated, comparing.gated(changed, holds))
    assert ("VQA: H0 holds" in said) == holds and ("VQA: H0 fails" in said) != holds
    assert "**H0 depends on the rate**" in said and "So do the answers to H1, H2 and H3" in said
    assert ("**H1 depends on the rate**: equivalent, with a difference, and with Natural at" in said) == holds


def test_the_summary_is_the_mean_of_standardised_differences(runs, comparing):
    line = comparing.comparisons(runs, comparing.SUMMARY).iloc[2]
    frame = scores_of(runs).frame.set_index("seed")
    of = [frame[frame["row"] == row][["caption.scene", "vqa.accuracy"]] for row in ("natural", "other_patch")]
    differences = (of[0] - of[1]).to_numpy().reshape(2, 5, 2)  # seed, checkpoint, column
    spread = np.sqrt(((differences - differences.mean(0)) ** 2).sum((0, 1)) / 5)
    want = (differences / spread).mean()
    assert line["difference"] == pytest.approx(want) and line["test_p"] == line["p"]


def test_the_first_look_waits_for_four_checkpoints(runs, planned, reporting):
    def without(row: str, seed: int):
        return [run for run in runs if (run.row, run.task, run.seed) != (row, "caption", seed)]

    text = reporting.first_look(without("oracle_free", 4), planned)  # on the fifth
    assert "H0" in text and "H2" in text and "H1" not in text
    with pytest.raises(UserError, match="1 of 32 runs are missing, the first one oracle_free on caption"):
        reporting.first_look(without("oracle_free", 8), planned)


@pytest.mark.parametrize(
    "difference, high, stops",
    [(-0.001, 0.009, True), (-0.001, 0.011, False), (0.001, 0.009, False), (0.02, 0.03, False)],
)
def test_the_study_stops_below_0_with_an_interval_that_excludes_1(
    difference, high, stops, runs, planned, reporting, stub
):
    stub({"difference": difference, "high": high}, {"difference": 0.5, "high": 0.6})
    assert ("The study stops" in reporting.first_look(runs, planned)) == stops


def test_only_the_planned_table_is_reported(runs, planned, reporting):
    """All its runs, each arm at one rate: the chosen one, or a lower one."""
    reporting.check_complete(runs, planned)
    with pytest.raises(UserError, match="1 of 230 runs are missing, the first one frozen on caption"):
        reporting.check_complete(
            [run for run in runs if str(run) != "frozen on caption with seed 2"], planned
        )
    with pytest.raises(UserError, match="is not a run of the preset"):
        reporting.check_complete([*runs, replace(runs[0], seed=10)], planned)

    def at(rate: float, rows, seeds):
        return [at_rate(run, rate) if run.row in rows and run.seed in seeds else run for run in runs]

    reporting.check_complete(at(0.003, ["oracle"], range(10)), planned)
    with pytest.raises(UserError, match="oracle on .* at the learning rates 0.01 and 0.003"):
        reporting.check_complete(at(0.003, ["oracle"], [9]), planned)
    for rate in (0.03, 0.001, 0.009):
        with pytest.raises(UserError, match=f"oracle on .* learning rate {rate}, and 0.01 was chosen"):
            reporting.check_complete(at(rate, ["oracle"], range(10)), planned)
    for wrong, message in (
        ({"split": "validation"}, "scored on validation data, not on test data"),
        ({"recipe": {**runs[0].settings["recipe"], "steps": 7}}, "trained with steps 7, not 40"),
        ({"weights": "others"}, "starts from other weights"),
    ):
        with pytest.raises(UserError, match=message):
            reporting.check_complete([with_settings(runs[0], **wrong), *runs[1:]], planned)
    with pytest.raises(UserError, match="several checkpoints are the same"):
        reporting.check_complete([with_settings(run, weights="one") for run in runs], planned)


def with_settings(run, **values):
    """A copy of a run with other settings."""
    copy = replace(run)
    copy.__dict__["config"] = {**run.config, "settings": {**run.settings, **values}}
    return copy


def at_rate(run, rate: float):
    return with_settings(run, recipe={**run.settings["recipe"], "learning_rate": rate})


def test_diverged_runs_of_the_search_are_counted(runs, rates, reporting):
    trials = pd.read_csv(rates / "search.csv")
    trials.loc[trials["rate"] == 0.03, "score"] = -np.inf
    assert "176 of 352 runs of the search for rates diverged" in reporting.counts(runs, trials)


def test_unplanned_rates_are_named(runs, rates, reporting):
    """A lower rate than the chosen one, and a second rate without runs."""
    chosen = chosen_settings(rates / "settings.yaml")
    changed = Settings(
        methods={**chosen.methods, "natural": dict.fromkeys(["caption", "vqa"], Choice(learning_rate=0.03))}
    )
    some = [at_rate(run, 0.03) if run.row == "natural" else run for run in runs]
    some = [at_rate(run, 0.003) if (run.row, run.task) == ("oracle", "vqa") else run for run in some]
    second = {("oracle", "vqa"): 0.003, ("natural", "vqa"): 0.01, ("natural", "caption"): 0.1}
    again = [at_rate(run, 0.1) for run in runs if (run.row, run.task) == ("natural", "caption")]
    assert reporting.about_rates(some, again, changed, second).split("\n\n") == [
        "**Natural, vqa: no complete runs at the second rate, 0.01.**",
        "**Oracle, vqa: rate 0.003, not 0.01, the chosen one.**\n",
    ]


def test_the_search_must_know_every_arm(rates):
    trials, chosen = distances_rates.trials_of(rates), chosen_settings(rates / "settings.yaml")
    arms = [("natural", "vqa"), ("oracle", "caption")]
    distances_rates.check_searched(trials, chosen, arms)
    with pytest.raises(UserError, match="lacks oracle on caption"):
        distances_rates.check_searched(trials[trials["method"] == "natural"], chosen, arms)
    last = trials[(trials["method"] == "oracle") & (trials["task"] == "caption")].index[-1]
    with pytest.raises(UserError, match="lacks oracle on caption"):
        distances_rates.check_searched(trials.drop(last), chosen, arms)
    with pytest.raises(UserError, match="lacks oracle on caption"):
        only = Settings(methods={"natural": chosen.methods["natural"]})
        distances_rates.check_searched(trials, only, arms)
    number = "method,task,rate,seed,score\noracle,caption,fast,0,0.5\n"
    for content in ("", "a,b\n1,2\n", number):
        (rates / "search.csv").write_text(content)
        with pytest.raises(UserError, match="search.csv is damaged"):
            distances_rates.trials_of(rates)
    (rates / "search.csv").unlink()
    with pytest.raises(UserError, match="has no search.csv"):
        distances_rates.trials_of(rates)


def test_rates_that_win_in_resamples(reporting):
    """Compared with all 256 samples of four checkpoints. A run that diverged never wins."""
    scores = np.array([[0.5, 0.4, 0.9], [0.5, 0.6, 0.1], [0.5, 0.55, 0.2], [0.4, 0.43, -np.inf]])
    lines = []
    for checkpoint, k, seed in itertools.product(range(4), range(3), range(2)):
        rate, score = (1e-3, 3e-3, 1e-2)[k], scores[checkpoint, k]
        lines.append(("natural", "vqa", "blend", "{}", rate, checkpoint + 4 * seed, score))
        lines.append(("oracle", "vqa", "blend", "{}", rate, checkpoint + 4 * seed, -np.inf))
    trials = pd.DataFrame(lines, columns=HEAD)
    every = np.array(list(itertools.product(range(4), repeat=4)))
    scores[:, np.isinf(scores).any(0)] = -np.inf  # also in samples without this checkpoint
    winners = scores[every].mean(1).argmax(1)
    want = np.bincount(winners, minlength=3) / len(every)
    shares = distances_rates.wins(trials).groupby("method")["share"].apply(list)
    assert shares["natural"] == pytest.approx(want, abs=0.02) and shares["oracle"] == [0, 0, 0]
    chosen = Settings(methods={row: {"vqa": Choice(learning_rate=0.003)} for row in ("natural", "oracle")})
    assert 0.2 < want[0] < want[1]
    second = distances_rates.second_rates(trials, chosen, ["natural", "oracle"])
    assert second == {("natural", "vqa"): 1e-3}
    assert distances_rates.second_rates(trials, chosen, ["oracle"]) == {}
    changed = distances_rates.with_rates(chosen, second)
    assert changed.methods["natural"]["vqa"].learning_rate == 1e-3
    assert changed.methods["oracle"] == chosen.methods["oracle"]
    table = distances_rates.tuning(trials, chosen, second)
    assert list(table["Chosen"]) == ["0.003", "0.003"] and list(table["Second rate"]) == ["0.001", ""]
    assert table["Rate: share"][0].endswith("0.01: diverged")
    assert table["Rate: share"][1] == "0.001: diverged, 0.003: diverged, 0.01: diverged"


@pytest.mark.parametrize("factor", [0.3, 0.0])
def test_the_slope_of_gain_over_mass_saved(factor, reporting):
    """Its interval is about as wide as that of resampled arms and checkpoints, computed point by point, and
    wider than that of either alone."""
    rng = np.random.default_rng(1)
    saved = rng.random((7, 1)) * 0.2 + 0.4 * rng.random((1, 12))
    gain = factor * saved + 0.003 * (rng.normal(size=(7, 1)) + 2 * rng.normal(size=(1, 12)))
    every = list(itertools.product(range(7), range(12)))
    points = pd.DataFrame(
        [(a, c, saved[a, c], gain[a, c]) for a, c in every], columns=["arm", "checkpoint", "saved", "gain"]
    )
    value, low, high, p = reporting.slope(points, 2000)
    assert value == pytest.approx(np.polyfit(saved.ravel(), gain.ravel(), 1)[0])
    assert low < factor < high and (p < 0.01) == (factor > 0)

    def width(resample_arms, resample_checkpoints):
        slopes = []
        for _ in range(2000):
            arms = rng.integers(7, size=7) if resample_arms else range(7)
            columns = rng.integers(12, size=12) if resample_checkpoints else range(12)
            drawn = [(saved[a, c], gain[a, c]) for a in arms for c in columns]
            slopes.append(np.polyfit(*np.transpose(drawn), 1)[0])
        return np.subtract(*np.quantile(slopes, [0.975, 0.025]))

    assert high - low == pytest.approx(width(True, True), rel=0.1)
    assert high - low > 1.2 * max(width(True, False), width(False, True))


def test_gains_are_over_the_arm_without_distances_and_the_same_exponents(runs, study, reporting):
    arms = [arm.name for arm in (*study.COUPLED.values(), *study.FREE.values())]
    lines = [
        {"checkpoint": f"weights {k}", "layer": layer, "arm": arm, "saved": 10 * k + place + layer}
        for k, layer, (place, arm) in itertools.product(range(5), range(2), enumerate(arms))
    ]
    points = reporting.gains(runs, pd.DataFrame(lines)).set_index(["arm", "checkpoint"])
    scores = scores_of(runs).frame.set_index(["row", "seed"])["caption.scene"]
    for arm, nothing in (("oracle", "nothing"), ("natural_free", "nothing_free")):
        got = points.loc[arm, "weights 3"]
        assert got["saved"] == arms.index(arm) - arms.index(nothing)
        want = [scores[arm, seed] - scores[nothing, seed] for seed in (3, 8)]
        assert got["gain"] == pytest.approx(np.mean(want))
    with pytest.raises(UserError, match="lacks checkpoints with the digests weights 4"):
        reporting.gains(runs, pd.DataFrame(lines).query("checkpoint != 'weights 4'"))


def test_the_whole_report(folder, runs, rates, study, reporting, tmp_path, capsys):
    """Without and with the second rate of natural on VQA."""
    rng = np.random.default_rng(0)
    lines = [
        {"checkpoint": checkpoint, "arm": arm.name, "layer": layer, "saved": rng.random(), "contrast": 0.1}
        for checkpoint in {run.checkpoint for run in runs}
        for arm in (*study.COUPLED.values(), *study.FREE.values())
        for layer in range(2)
    ]
    table = ROOT / "experiments" / "results" / "heterophily" / "closed-form.md"
    words = [str(folder), "--rates", str(rates), "--closed-form", str(table)]
    words += [word for change in CHANGES for word in ("--set", change)]
    with pytest.raises(UserError, match="has no prediction.csv"):
        reporting.main(words)
    with pytest.raises(UserError, match="README.md has no table of model, kind and r"):
        reporting.main([*words, "--closed-form", str(ROOT / "README.md")])
    for broken in (lines[1:], [{"arm": "natural"}], [line | {"saved": np.nan} for line in lines]):
        pd.DataFrame(broken).to_csv(folder / "prediction.csv", index=False)
        with pytest.raises(UserError, match="is damaged, or lacks a layer of an arm"):
            reporting.main(words)
    pd.DataFrame(lines).to_csv(folder / "prediction.csv", index=False)
    with pytest.raises(UserError, match="runs are missing"):
        reporting.main([*words, "--set", "seeds=15"])
    reporting.main(words)
    assert "**Natural, vqa: no complete runs at the second rate, 0.03.**" in capsys.readouterr().out
    assert chosen_settings(rates / "other-rates.yaml").methods["natural"]["vqa"].learning_rate == 0.03
    reporting.main([*words, "--other", str(other_rates(tmp_path / "other"))])
    text = (folder / "report" / "report.md").read_text()
    assert capsys.readouterr().out.startswith(text) and "no complete runs" not in text
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
    assert list(csv["question"][csv["at"].isna()]) == 3 * ["H0", "H1", "H2", "H3"]
    assert list(csv["question"][csv["at"].notna()]) == ["H1", "H2", "H3"]
    for suffix in ("png", "svg"):
        assert (folder / "report" / f"distances.{suffix}").stat().st_size > 5000


def other_rates(folder: Path, *rows: str) -> Path:
    """Natural (or other rows) on VQA at 0.03; its captions have the rate of the table."""
    options = {"seeds": range(10), "checkpoints": 5, "images": 8}
    save_cells(
        folder, "vqa", "caption", rows=rows or ["natural"], **options
    )  # other numbers than the table's
    save_cells(folder, "vqa", "caption", rows=["frozen"], **options | {"seeds": range(5)})
    for file in folder.glob("cells/*/vqa/*/config.json"):
        settings = json.loads(file.read_text())["settings"]
        if settings["label"] != "frozen":
            change(file, "settings", recipe={**settings["recipe"], "learning_rate": 0.03})
    return folder


def test_runs_at_a_second_rate_are_complete_and_as_planned(runs, planned, reporting, tmp_path):
    second = {("natural", "vqa"): 0.03, ("natural", "caption"): 0.003}
    with saved_runs(other_rates(tmp_path, "natural", "closed_form")) as others:
        only = [run for run in others if run.row != "closed_form"]

        def arms(others, runs=runs, second=second):
            again = reporting.at_second_rates(others, runs, planned, second)
            return {(run.row, run.task) for run in again}

        assert arms(only) == {("natural", "vqa")}
        assert arms([run for run in only if run.seed != 3]) == set()
        with pytest.raises(
            UserError, match="closed_form on vqa .* the rate 0.03, and there is no second rate"
        ):
            arms(others)
        with pytest.raises(UserError, match="natural on vqa .* the rate 0.03, and the second rate is 0.003"):
            arms(only, second={("natural", "vqa"): 0.003})
        with pytest.raises(UserError, match="natural on vqa .* scored on validation data"):
            arms([with_settings(run, split="validation") for run in only])


def test_an_arm_at_another_rate_replaces_its_runs_in_each_comparison_with_it(runs, comparing, tmp_path):
    """In its column; where both arms have a second rate, also in both."""
    with saved_runs(other_rates(tmp_path, "natural", "closed_form")) as others:
        again = [run for run in others if run.row != "frozen" and run.task == "vqa"]
        table = comparing.with_second_rates(runs, again, "vqa.accuracy")
        both = [run for run in runs if (run.row, run.task) not in {(r.row, r.task) for r in again}] + again
        want = comparing.compared(both, "vqa.accuracy")
        assert len(comparing.with_second_rates(runs, again, "caption.scene")) == 0
    natural, closed = "Natural at 0.03", "Closed form at 0.03"
    assert list(zip(table["question"], table["at"])) == [
        ("H1", natural),
        ("H1", closed),
        ("H1", f"{natural}; {closed}"),
        ("H2", natural),
        ("H3", natural),
    ]
    assert table["difference"].iloc[2] == want["difference"][1]
    assert table["difference"].iloc[3] == want["difference"][2]
    assert len({*table["difference"][:3]}) == 3


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
    found = chosen_settings(rates / "settings.yaml")
    found.methods.update(dict.fromkeys(asked, found.methods["natural"]))
    write_settings(rates / "settings.yaml", found)
    trials = pd.read_csv(rates / "search.csv")
    trials = pd.concat([trials.assign(method=arm) for arm in asked])
    trials.to_csv(rates / "search.csv", index=False)
    run("attngraph.experiments.studies.distances_prediction", table, *preset(2, *asked), "--images", 6)
    run(*plugin, "ablation", *preset(2, *asked), "--settings", rates / "settings.yaml", "--out", table)
    changes = [*preset(2, *asked)[4:], "--set", "checkpoints=1"]
    run(
        "attngraph.experiments.studies.distances_report", table, "--rates", rates, "--out", tmp_path, *changes
    )
    assert "Tuning noise" in (tmp_path / "report.md").read_text()
