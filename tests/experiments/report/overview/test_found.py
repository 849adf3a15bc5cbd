"""Which runs are found in folders, and which folders are refused."""

import json
import shutil

import pytest

from attngraph.errors import UserError
from experiments.report.archive import pack
from experiments.report.overview.found import found_runs
from tests.experiments.report.overview.small import save_table


def places(*sources):
    with found_runs(sources) as search:
        return sorted(run.place for run in search.runs), search.unfinished


def test_tables_runs_and_archives_are_read(tmp_path):
    table = save_table(tmp_path / "table")
    cells = sorted(map(str, table.glob("cells/*/*/seed*")))
    assert places(table) == (cells, 0)
    first = table / "cells" / "gcn" / "ve" / "seed0"
    assert places(first) == ([str(first)], 0)
    pack(table, tmp_path / "archives")
    found, _ = places(tmp_path / "archives")
    assert found[0] == f"{tmp_path}/archives/seed-00.tar.xz/cells/gcn/ve/seed0" and len(found) == len(cells)


def test_a_run_that_two_folders_name_is_read_once(tmp_path):
    table = save_table(tmp_path / "table")
    (tmp_path / "link").symlink_to(table)
    found, _ = places(table, tmp_path / "link", table / "cells" / "gcn" / "ve" / "seed0", table)
    assert found == sorted(map(str, table.glob("cells/*/*/seed*")))


def test_runs_copied_under_another_name_say_what_they_are(tmp_path):
    table = save_table(tmp_path / "table")
    shutil.copytree(table / "cells" / "pgnn" / "ve" / "seed1", tmp_path / "mine")
    with found_runs([tmp_path / "mine"]) as search:
        (run,) = search.runs
    assert (run.method, run.task, run.seed) == ("pgnn", "ve", 1)


def test_the_folder_of_one_of_several_tables_has_the_runs_of_its_results(tmp_path):
    tables = save_table(tmp_path / "tables", rows=("gcn", "appnp", "pgnn"))
    (tables / "two").mkdir()
    cells = [{"row": row, "task": "ve", "seed": 1} for row in ("gcn", "pgnn")]
    (tables / "two" / "results.json").write_text(json.dumps({"cells": cells}))
    found, _ = places(tables / "two")
    assert found == [f"{tables}/cells/{row}/ve/seed1" for row in ("gcn", "pgnn")]
    shutil.rmtree(tables / "cells" / "gcn")
    with pytest.raises(UserError, match="gcn/ve/seed1, of which .*results.json tells, is missing"):
        places(tables / "two")
    (tables / "two" / "results.json").write_text("{")
    with pytest.raises(UserError, match="results.json cannot be read"):
        places(tables / "two")


def test_unfinished_runs_are_counted(tmp_path):
    table = save_table(tmp_path / "table")
    (table / "cells" / "pgnn" / "ve" / "seed1" / "scores.json").unlink()
    found, unfinished = places(table)
    assert unfinished == 1 and f"{table}/cells/pgnn/ve/seed1" not in found and len(found) == 7


@pytest.mark.parametrize("file", ["config.json", "scores.json", "statistics.npz", "predictions.json"])
def test_damaged_runs_are_refused(tmp_path, file):
    table = save_table(tmp_path / "table")
    (table / "cells" / "pgnn" / "ve" / "seed1" / file).write_text("{")
    with pytest.raises(UserError, match=f"seed1/{file} is damaged"):
        places(table)


def test_folders_without_runs_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    begun = tmp_path / "begun" / "cells" / "gcn" / "ve" / "seed0"
    begun.mkdir(parents=True)
    (begun / "config.json").write_text("{}")
    for name, reason in (("empty", "no finished run"), ("file", "no folder"), ("begun", "1 that began")):
        with pytest.raises(UserError, match=f"{name} .*{reason}"):
            places(tmp_path / name)


def test_unknown_tasks_and_methods_are_named(tmp_path):
    table = save_table(tmp_path / "table")
    cell = table / "cells" / "gcn" / "ve" / "seed0"
    for name, value in (("method", "nobody"), ("task", "vee")):
        config = json.loads((cell / "config.json").read_text())
        config["settings"][name] = value
        (tmp_path / name).mkdir()
        shutil.copytree(cell, tmp_path / name, dirs_exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"unknown {name} '{value}'.*--plugin"):
            places(tmp_path / name)


@pytest.mark.parametrize(
    "name, value",
    [("recipe", "fast"), ("recipe", {"steps": "many"}), ("settings", ["gcn"]), ("settings", {"gnn_args": 3})],
)
def test_settings_of_another_form_are_refused(tmp_path, name, value):
    table = save_table(tmp_path / "table")
    file = table / "cells" / "gcn" / "ve" / "seed0" / "config.json"
    config = json.loads(file.read_text())
    config["settings"][name] = value
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json is damaged"):
        places(table)
