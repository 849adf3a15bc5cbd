"""Runs that end below the frozen model are counted."""

import json

import pytest

from attngraph.errors import UserError
from experiments.report.ablation import make_table
from experiments.report.below import below_frozen
from tests.experiments.drawn import DRAWN
from tests.experiments.report.made import COLUMNS, save_run

NONE = "No trained run ends below Frozen model with the same pre-trained weights"
SOME = "Runs that end below Frozen model with the same pre-trained weights: "


def runs_with(folder, *scores, checkpoints=2):
    """Runs on VQA, each given as row, seed and accuracy; seed s starts from checkpoint s mod 2."""
    return [
        save_run(folder, row, "vqa", seed, {}, {"vqa.accuracy": accuracy}, checkpoints)
        for row, seed, accuracy in scores
    ]


def test_each_run_is_compared_with_its_own_checkpoint(tmp_path):
    """Checkpoint 0 scores 0.5, checkpoint 1 scores 0.7; seeds 2 and 4 start from checkpoint 0 as well."""
    frozen = [("frozen", 0, 0.5), ("frozen", 1, 0.7)]
    gcn = [("gcn", 0, 0.6), ("gcn", 1, 0.6), ("gcn", 2, 0.49), ("gcn", 4, 0.5)]
    pgnn = [("pgnn", 0, 0.51), ("pgnn", 1, 0.71)]
    full = [("full", 3, 0.1)]
    runs = runs_with(tmp_path, *frozen, *gcn, *pgnn, *full)
    found = "GCN in VQA acc (2 of 4) and Full fine-tuning in VQA acc (1 of 1)"
    assert below_frozen(runs, COLUMNS) == SOME + found
    assert below_frozen([run for run in runs if run.row in ("frozen", "pgnn")], COLUMNS) == NONE


def test_what_is_not_trained_is_not_counted(tmp_path):
    runs = runs_with(tmp_path, ("frozen", 0, 0.5), ("majority", 0, 0.1))
    assert below_frozen(runs, COLUMNS) == ""


def test_nothing_is_said_where_nothing_can_be_compared(tmp_path):
    runs = runs_with(tmp_path, ("frozen", 0, 0.5), ("gcn", 1, 0.1), ("gcn", 3, 0.1))
    assert below_frozen(runs, COLUMNS) == ""  # another checkpoint
    assert below_frozen(runs[1:], COLUMNS) == ""  # no frozen model
    assert below_frozen([], COLUMNS) == ""


def test_columns_of_a_task_are_told_apart(tmp_path):
    scores = {"caption.bleu4": 0.4, "caption.cider": 2.6}
    frozen = save_run(tmp_path, "frozen", "caption", 0, {}, scores)
    run = save_run(tmp_path, "gcn", "caption", 0, {}, {"caption.bleu4": 0.5, "caption.cider": 2.5})
    assert below_frozen([frozen, run], COLUMNS) == SOME + "GCN in CIDEr (1 of 1)"


def test_a_run_that_names_no_weights_is_refused(tmp_path):
    runs = runs_with(tmp_path, ("frozen", 0, 0.5))
    (runs[0].folder / "config.json").write_text(json.dumps({"settings": {}}))
    with pytest.raises(UserError, match="names no weights"):
        below_frozen(runs, COLUMNS)


def test_a_table_says_it(tmp_path):
    runs = runs_with(tmp_path, ("frozen", 0, 0.5), ("gcn", 0, 0.4))
    assert SOME + "GCN in VQA acc (1 of 1)" in make_table(runs, DRAWN, "t").notes
