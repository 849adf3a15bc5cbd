"""Finished runs: where they are found, what is refused, and what they say of how they were made."""

import json
import shutil
import tarfile

import pytest

from attngraph.errors import UserError
from attngraph.experiments.runs.saved import read_result
from attngraph.experiments.tables.compare import recompute
from attngraph.experiments.tables.runs import saved_runs, versions_of
from attngraph.experiments.tasks import TASKS
from tests.experiments.tables.made import change, runs_on, save_cells, write_archive, write_archives

CELL = "cells/gcn/vqa/seed0"


def names(*folders):
    with saved_runs(*folders) as runs:
        return sorted(map(str, runs))


def test_tables_single_runs_and_tables_that_share_cells_are_read(tmp_path):
    """Not what is unfinished, what a sweep has run, and other folders."""
    made = sorted(map(str, runs_on(tmp_path, rows=("gcn", "appnp", "pgnn"))))
    shutil.copytree(tmp_path / "cells/pgnn", tmp_path / "cells/pgnn@0.01")
    shutil.copytree(tmp_path / CELL, tmp_path / f"{CELL}-copy")
    assert names(tmp_path) == made
    one, other = tmp_path / "cells/gcn/ve/seed0", tmp_path / "cells/pgnn/ve/seed0"
    assert names(one, other, one) == ["gcn on ve with seed 0", "pgnn on ve with seed 0"]
    (tmp_path / "two").mkdir()
    cells = [{"row": row, "task": "ve", "seed": 1} for row in ("gcn", "pgnn")]
    (tmp_path / "two" / "results.json").write_text(json.dumps({"cells": cells}))
    assert names(tmp_path / "two") == ["gcn on ve with seed 1", "pgnn on ve with seed 1"]
    (one / "scores.json").unlink()
    assert names(tmp_path) == made[:4] + made[5:]


def test_archives_give_the_runs_and_their_p_values(tmp_path):
    """Read as they are, and unpacked by tar."""
    table = save_cells(tmp_path / "run", "vqa", "caption")
    for archive in write_archives(table, tmp_path / "archives"):
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path / "again", filter="data")
    (tmp_path / "archives" / "results.json").write_text("{}")  # of the table, which is beside no cells
    found = []
    for folder in (table, tmp_path / "archives", tmp_path / "again"):
        with saved_runs(folder) as runs:
            found.append((sorted(map(str, runs)), recompute(runs, ["gcn"])[0]))
    (made, lines), *others = found
    for again, same in others:
        assert again == made and [line["column"] for line in same] == [line["column"] for line in lines]
        for key in ("p", "difference"):
            assert [line[key] for line in same] == pytest.approx([line[key] for line in lines], abs=1e-5)
    read_result(tmp_path / "again/cells/pgnn/vqa/seed1", "pgnn", TASKS["vqa"], 1)


# ---- bad input ------------------------------------------------------------------------------------------


def config_of(**settings):
    return lambda table: change(table / CELL / "config.json", "settings", **settings)


def as_table(cells):
    def change(table):
        (table / "results.json").write_text(cells)
        (table / "cells").rename(table.parent / "cells")

    return change


#: What is done to a table's folder -> what is said.
DAMAGES = {
    "no folder": (shutil.rmtree, "is not a folder"),
    "nothing finished": (lambda table: (table / CELL / "scores.json").unlink(), "has no finished run"),
    "a recipe of another form": (
        config_of(recipe={"steps": "many"}),
        "config.json: field recipe.*; delete the folder",
    ),
    "a row that is not known": (config_of(label="nobody"), "seed0: unknown method 'nobody'.*--plugin FILE"),
    "a task that is not known": (config_of(task="vee"), "unknown task 'vee'.*--plugin"),
    "a table without a run of it": (
        as_table('{"cells": [{"row": "gcn", "task": "vqa", "seed": 7}]}'),
        "gcn/vqa/seed7, which is listed in .*results.json, is missing",
    ),
    "a table that is damaged": (as_table("{"), "results.json cannot be read"),
}


@pytest.mark.parametrize("damage, said", DAMAGES.values(), ids=DAMAGES)
def test_damaged_folders_are_refused(damage, said, tmp_path):
    table = save_cells(tmp_path / "one" / "table", "vqa", rows=("gcn",), seeds=(0,))
    damage(table)
    with pytest.raises(UserError, match=said) as caught:
        names(table)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_damaged_archives_are_named_with_the_file_in_them(tmp_path):
    """Truncated, with a link or a pipe, with a damaged run, without any."""
    table, folder = save_cells(tmp_path / "run", "vqa", rows=("gcn",), seeds=(0,)), tmp_path / "archives"
    (archive,) = write_archives(table, folder)
    archive.write_bytes(archive.read_bytes()[:-999])
    with pytest.raises(UserError, match=r"seed-00\.tar\.xz is damaged \(.*restore the file"):
        names(folder)
    for kind in (tarfile.SYMTYPE, tarfile.FIFOTYPE):
        with tarfile.open(archive, "w:xz") as tar:
            about = tarfile.TarInfo(f"{CELL}/config.json")
            about.type, about.linkname = kind, "/etc/passwd"
            tar.addfile(about)
        with pytest.raises(UserError, match=r"seed-00\.tar\.xz is damaged"):
            names(folder)
    held = {f"{CELL}/{name}": b"{}" for name in ("config.json", "scores.json")}
    write_archive(archive, held)
    said = rf"{archive}/{CELL}/config.json is damaged \(.*\): restore the archive, or remove it$"
    with pytest.raises(UserError, match=said):
        names(folder)
    write_archive(archive, {})
    with pytest.raises(UserError, match="has no finished run"):
        names(folder)


def test_runs_that_were_made_differently_are_counted(tmp_path):
    runs = runs_on(tmp_path, ["vqa"])
    change(runs[3].folder / "config.json", machine="Linux x86_64", versions={"torch": "2.13"})
    shown = [*runs, runs[3]]  # in two rows, but made once
    assert versions_of(shown) == {
        "attngraph": {"0.0.1": 3},
        "torch": {"2.0": 3, "2.13": 1},
        "machine": {"unknown": 3, "Linux x86_64": 1},
    }
