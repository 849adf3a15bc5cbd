"""What makes a table and what a row: what differs is never averaged, and the same is shown once."""

import json
import shutil

import pytest

from attngraph.errors import UserError
from experiments.methods import METHODS
from experiments.report.overview.found import found_runs
from experiments.report.overview.grouped import as_runs, grouped, rows_of
from tests.experiments.report.overview.small import change_scores, save_table


def tables(*sources):
    """For each table its rows: title -> (task, seed) of its runs."""
    with found_runs(sources) as search:
        return [{row.title: sorted(row.runs) for row in rows_of(group)} for group in grouped(search.runs)]


BOTH = [("ve", 0), ("ve", 1), ("vqa", 0), ("vqa", 1)]


def test_one_folder_is_one_table(tmp_path):
    assert tables(save_table(tmp_path / "a")) == [{"GCN": BOTH, "pGNN": BOTH}]


def test_copies_are_shown_once(tmp_path):
    first = save_table(tmp_path / "a")
    shutil.copytree(first, tmp_path / "b")
    assert tables(first, tmp_path / "b") == [{"GCN": BOTH, "pGNN": BOTH}]


def test_seeds_of_two_folders_make_one_row(tmp_path):
    first, second = save_table(tmp_path / "a", seeds=(0,)), save_table(tmp_path / "b", seeds=(1,))
    assert tables(first, second) == [{"GCN": BOTH, "pGNN": BOTH}]


def test_single_runs_on_several_tasks_make_one_table(tmp_path):
    table = save_table(tmp_path / "a", seeds=(0,))
    cells = sorted(table.glob("cells/*/*/seed0"))
    assert tables(*cells) == [{"GCN": [("ve", 0), ("vqa", 0)], "pGNN": [("ve", 0), ("vqa", 0)]}]


def test_other_settings_make_rows_named_by_what_differs(tmp_path):
    first = save_table(tmp_path / "a")
    second = save_table(tmp_path / "b", recipe={"learning_rate": 0.003})
    assert tables(first, second) == [
        {
            "GCN (learning rate 0.01)": BOTH,
            "GCN (learning rate 0.003)": BOTH,
            "pGNN (learning rate 0.01)": BOTH,
            "pGNN (learning rate 0.003)": BOTH,
        }
    ]


def test_a_setting_that_one_lacks_is_at_its_default(tmp_path):
    first = save_table(tmp_path / "a", rows=("gcn",), tasks=("ve",))
    second = save_table(tmp_path / "b", rows=("gcn",), tasks=("ve",), side=96)
    (rows,) = tables(first, second)
    assert list(rows) == ["GCN (side default)", "GCN (side 96)"]


def test_tasks_of_one_folder_stay_in_one_row(tmp_path):
    """Where two folders differ in one task, the row of each has the other task that came with it."""
    first, second = save_table(tmp_path / "a", rows=("gcn",)), save_table(tmp_path / "b", rows=("gcn",))
    for cell in second.glob("cells/gcn/ve/seed*"):
        config = json.loads((cell / "config.json").read_text())
        config["settings"]["recipe"]["learning_rate"] = 0.5
        (cell / "config.json").write_text(json.dumps(config))
    (rows,) = tables(first, second)
    assert rows == {"GCN (learning rate 0.01)": BOTH, "GCN (learning rate 0.5)": BOTH}


@pytest.mark.parametrize("change", [{"data": "other"}, {"split": "validation"}, {"eval_examples": 5}])
def test_other_test_sets_make_tables_of_their_own(tmp_path, change):
    first, second = save_table(tmp_path / "a"), save_table(tmp_path / "b", **change)
    assert tables(first, second) == [{"GCN": BOTH, "pGNN": BOTH}] * 2


def test_other_weights_make_tables_of_their_own(tmp_path):
    first, second = save_table(tmp_path / "a"), save_table(tmp_path / "b", weights="another model")
    assert tables(first, second) == [{"GCN": BOTH, "pGNN": BOTH}] * 2


def test_one_experiment_with_two_outcomes_is_refused(tmp_path):
    first, second = save_table(tmp_path / "a"), save_table(tmp_path / "b")
    cell = second / "cells" / "gcn" / "ve" / "seed1"
    change_scores(cell)
    with pytest.raises(
        UserError, match=r"a/cells/gcn/ve/seed1 and .*b/cells/gcn/ve/seed1 .* other scores: give"
    ):
        tables(first, second)


def test_two_outcomes_of_other_conditions_are_told_apart(tmp_path):
    first, second = save_table(tmp_path / "a", rows=("gcn",)), save_table(tmp_path / "b", rows=("gcn",))
    for cell in second.glob("cells/*/*/*"):
        change_scores(cell)
        text = (cell / "config.json").read_text()
        (cell / "config.json").write_text(text.replace('"device": "cpu"', '"device": "cuda"'))
    (rows,) = tables(first, second)
    assert rows == {"GCN (device cpu)": BOTH, "GCN (device cuda)": BOTH}


def test_rows_of_one_method_are_methods_while_they_are_shown(tmp_path):
    first = save_table(tmp_path / "a", rows=("gcn",))
    second = save_table(tmp_path / "b", rows=("gcn",), recipe={"steps": 7})
    known = dict(METHODS)
    with found_runs([first, second]) as search:
        (group,) = grouped(search.runs)
        with as_runs(rows_of(group)) as (runs, names):
            assert [METHODS[name].title for name in names] == ["GCN (steps 40)", "GCN (steps 7)"]
            assert {run.row for run in runs} == set(names) and len(runs) == 8
    assert known == METHODS


def test_rows_with_many_differences_keep_names_of_their_own(tmp_path):
    """Four differences are named; the others where these do not tell rows apart."""
    many = {"learning_rate": 0.5, "steps": 9, "batch_size": 8, "warmup": 0.0}
    changes = [{}, {"clip": 2.0}, many]
    folders = [
        save_table(tmp_path / str(k), rows=("gcn",), tasks=("ve",), recipe={"clip": 1.0} | change)
        for k, change in enumerate(changes)
    ]
    (rows,) = tables(*folders)
    assert [("clip 1" in name, "clip 2" in name) for name in rows] == [(1, 0), (0, 1), (1, 0)]
    (rows,) = tables(folders[1], folders[2])
    assert next(iter(rows)) == "GCN (learning rate 0.01, steps 40, batch size 64, warmup 0.06, …)"
