"""Runs that end below the frozen model are counted."""

import json
from dataclasses import replace

import pytest

from attngraph.errors import UserError
from experiments.report.below import below_frozen
from tests.experiments.drawn import DRAWN
from tests.experiments.report.made import save_run

BELOW = "below the frozen model with the same pre-trained weights in some column"


def runs_with(folder, *scores, task="vqa", checkpoints=2):
    """Runs given as row, seed and accuracy; seed s starts from checkpoint s mod 2."""
    return [
        save_run(folder, row, task, seed, {}, {f"{task}.accuracy": accuracy}, checkpoints)
        for row, seed, accuracy in scores
    ]


def test_each_run_is_compared_with_its_own_checkpoint(tmp_path):
    """Checkpoint 0 scores 0.5, checkpoint 1 scores 0.7; seeds 2 and 4 start from checkpoint 0 as well."""
    frozen = [("frozen", 0, 0.5), ("frozen", 1, 0.7)]
    gcn = [("gcn", 0, 0.6), ("gcn", 1, 0.6), ("gcn", 2, 0.49), ("gcn", 4, 0.5)]
    pgnn = [("pgnn", 0, 0.51), ("pgnn", 1, 0.71)]
    gated = [("pgnn_gated", 3, 0.1)]
    runs = runs_with(tmp_path, *frozen, *gcn, *pgnn, *gated)
    found = "(GCN: VQA acc 2; pGNN, gated: VQA acc 1)"
    assert below_frozen(runs, DRAWN) == f"3 of 7 trained runs end {BELOW} {found}"
    without = [run for run in runs if run.row in ("frozen", "pgnn")]
    assert below_frozen(without, DRAWN) == f"0 of 2 trained runs end {BELOW}"


def test_tasks_are_told_apart(tmp_path):
    first = runs_with(tmp_path, ("frozen", 0, 0.5), ("gcn", 0, 0.4))
    second = runs_with(tmp_path, ("frozen", 0, 0.2), ("gcn", 0, 0.3), task="ve")
    found = f"1 of 2 trained runs end {BELOW} (GCN: VQA acc 1)"
    assert below_frozen(first + second, DRAWN) == found == below_frozen(second + first, DRAWN)


def test_a_run_counts_once_in_two_columns_and_two_rows(tmp_path):
    scores = {"caption.bleu4": 0.4, "caption.cider": 2.6, "caption.scene": 0.5}
    frozen = save_run(tmp_path, "frozen", "caption", 0, {}, scores)
    run = save_run(tmp_path, "pgnn", "caption", 0, {}, {"caption.bleu4": 0.3, "caption.cider": 2.5})
    again = replace(run, row="learned_p")
    expected = f"1 of 1 trained run ends {BELOW} (pGNN: BLEU@4 1, CIDEr 1)"
    assert below_frozen([frozen, run, again], DRAWN) == expected


def test_what_is_not_trained_or_sees_no_image_is_not_counted(tmp_path):
    runs = runs_with(tmp_path, ("frozen", 0, 0.5), ("majority", 0, 0.1), ("text", 0, 0.1))
    assert below_frozen(runs, DRAWN) == ""
    runs += runs_with(tmp_path, ("gcn", 0, 0.6))
    expected = f"0 of 1 trained run ends {BELOW}; runs without the image are left out: 1"
    assert below_frozen(runs, DRAWN) == expected


def test_nothing_is_said_where_nothing_can_be_compared(tmp_path):
    runs = runs_with(tmp_path, ("frozen", 0, 0.5), ("gcn", 1, 0.1), ("gcn", 3, 0.1))
    assert below_frozen(runs, DRAWN) == ""  # another checkpoint
    assert below_frozen(runs[1:], DRAWN) == ""  # no frozen model
    assert below_frozen([], DRAWN) == ""


def test_a_run_that_names_no_weights_is_refused(tmp_path):
    runs = runs_with(tmp_path, ("frozen", 0, 0.5))
    (runs[0].folder / "config.json").write_text(json.dumps({"settings": {}}))
    with pytest.raises(UserError, match="names no weights"):
        below_frozen(runs, DRAWN)
