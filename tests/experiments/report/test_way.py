"""The share of the way from the frozen model to the ceiling, by hand and as a column of every output."""

import numpy as np
import pandas as pd
import pytest

from experiments.methods import METHODS
from experiments.report.ablation import make_table, save_results
from experiments.report.columns import WAY, table_columns
from experiments.report.way import MARGIN, way_between, with_way
from experiments.tasks import TASKS
from experiments.tasks.task import Column
from tests.experiments.report.made import COLUMNS, SmallTask, runs_on

KEYS = ("vqa.accuracy", "ve.accuracy", "caption.bleu4", "caption.cider")
START, END = (0.4, 0.4, 0.4, 2.5), (0.7, 0.6, 0.8, 5.0)


def frame(**rows):
    """One line for each seed of a method: its scores in the averaged columns."""
    lines = [
        {"name": METHODS[row].title, "group": "g", "seed": seed, **dict(zip(KEYS, scores))}
        for row, seeds in rows.items()
        for seed, scores in enumerate(seeds)
    ]
    return pd.DataFrame(lines)


def test_by_hand():
    half, mixed = (0.55, 0.5, 0.6, 3.75), (0.7, 0.4, 0.4, 5.0)
    runs = frame(frozen=[START], full=[END], gcn=[half, mixed, (np.nan, *half[1:])])
    way, note = way_between(runs, COLUMNS)
    shares = way.share(runs)
    # in `mixed`: VQA all of the way, VE none, captions one column of two
    assert shares[:4].tolist() == pytest.approx([0, 1, 0.5, (1 + 0 + 0.5) / 3]) and np.isnan(shares[4])
    assert way.share(dict(zip(KEYS, mixed))) == pytest.approx(0.5)
    assert list(way.weights) == list(KEYS)
    assert way.weights["caption.cider"] == pytest.approx(1 / (3 * 2 * 2.5))
    assert "from Frozen model (0) to Full fine-tuning (100)" in note
    assert note.endswith("among VQA acc, VE acc, BLEU@4 and CIDEr")


def test_it_does_not_depend_on_the_scale_of_a_column():
    """CIDEr ten times as large changes nothing, though the plain mean then follows CIDEr alone."""
    rng = np.random.default_rng(0)
    rows = {"frozen": [START], "full": [END], "gcn": [rng.uniform(START, END) for _ in range(5)]}
    scaled = {name: [(*s[:3], 10 * s[3]) for s in seeds] for name, seeds in rows.items()}
    shares = [way_between(frame(**r), COLUMNS)[0].share(frame(**r)) for r in (rows, scaled)]
    assert shares[0].tolist() == pytest.approx(shares[1].tolist())


def test_constants_are_means_over_seeds():
    ends = [tuple(np.add(END, shift)) for shift in (-0.05, 0.05)]
    runs = frame(frozen=[START], full=ends)
    shares = way_between(runs, COLUMNS)[0].share(runs)
    assert shares[1] < 1 < shares[2] and shares[1:].mean() == pytest.approx(1)


@pytest.mark.skipif("decoder" not in METHODS, reason="the row is not there yet")
def test_the_ceiling_is_the_decoders_where_it_ran():
    runs = frame(frozen=[START], full=[START], decoder=[END])
    assert way_between(runs, COLUMNS)[0].ceiling == METHODS["decoder"].title


def test_there_is_no_way_without_its_ends():
    assert way_between(frame(frozen=[START], gcn=[END]), COLUMNS) == (None, "")
    assert way_between(frame(full=[END], gcn=[END]), COLUMNS) == (None, "")
    partial = (np.nan, *START[1:])
    assert way_between(frame(frozen=[partial], full=[END]), COLUMNS) == (None, "")
    no_average = table_columns({"a": SmallTask("a", Column("a.x", "X"))})
    assert way_between(frame(frozen=[START], full=[END]), no_average) == (None, "")
    assert way_between(pd.DataFrame(columns=["name", "group", "seed"]), COLUMNS) == (None, "")


@pytest.mark.parametrize("gain, is_there", [(MARGIN + 1e-6, True), (MARGIN - 1e-6, False), (-0.1, False)])
def test_a_ceiling_that_is_no_ceiling_is_said(gain, is_there):
    low = (END[0], START[1] + gain, *END[2:])
    way, note = way_between(frame(frozen=[START], full=[low]), COLUMNS)
    assert (way is not None) == is_there
    if not is_there:
        assert note == "Way is not shown: Full fine-tuning is not 2 points above Frozen model in VE acc"


def test_it_stands_after_the_average():
    keys = [column.key for column in with_way(COLUMNS)]
    assert keys[keys.index("avg") + 1] == "way" and len(keys) == len(COLUMNS) + 1
    one = table_columns({"vqa": TASKS["vqa"], "easy_vqa": TASKS["easy_vqa"]})
    assert [column.key for column in with_way(one)] == ["vqa.accuracy", "way", "easy_vqa.accuracy"]


def test_it_is_a_column_of_every_output(tmp_path):
    """Scores of the rows grow by 0.1, so the ceiling lies above the frozen model."""
    tasks = {name: TASKS[name] for name in ("vqa", "ve")}
    runs = runs_on(tmp_path, tasks, rows=("frozen", "gcn", "pgnn", "full"), images=400)
    table = make_table(runs, tasks, "t")
    rows = {row.name: row.scores for row in table.rows}
    means = {name: [scores[key].mean for key in KEYS[:2]] for name, scores in rows.items()}
    start, end = np.array(means["Frozen model"]), np.array(means["Full fine-tuning"])
    for name, scores in rows.items():
        assert scores["way"].mean == pytest.approx(((means[name] - start) / (end - start)).mean(), abs=1e-12)
        assert scores["way"].seeds == 2 and scores["way"].std is not None
    paths = save_results(runs, tasks, table, tmp_path / "out")
    for suffix in ("txt", "md", "tex"):
        text = paths[suffix].read_text()
        assert WAY.heading in text and f"{100 * rows['pGNN']['way'].mean:.1f}" in text
        assert "share of the way from Frozen model (0) to Full fine-tuning (100)" in text
    csv = pd.read_csv(paths["csv"]).set_index("name")
    assert csv.loc["Full fine-tuning", "way_mean"] == pytest.approx(1)
    (line,) = [line for line in table.comparisons if line["column"] == "way"]
    assert line["difference"] == pytest.approx(rows["pGNN"]["way"].mean - rows["GCN"]["way"].mean)
    without = [run for run in runs if run.row != "frozen"]
    assert WAY not in make_table(without, tasks, "t").columns
