"""Finished runs: where they are found, what is refused, and what they say of how they were made."""

import errno
import json
import shutil
import tarfile

import numpy as np
import pytest

from attngraph.errors import UserError
from experiments.runs.saved import read_result
from experiments.tables import runs as reading
from experiments.tables.compare import recompute
from experiments.tables.runs import saved_runs, unfinished, versions_of
from experiments.tasks import TASKS
from tests.experiments.drawn import DRAWN
from tests.experiments.tables.made import runs_on, save_cells, save_table, write_archive, write_archives

CELL = "cells/gcn/vqa/seed0"


def places(*folders):
    with saved_runs(*folders) as runs:
        return sorted(run.place for run in runs)


def test_tables_runs_and_archives_are_read(tmp_path):
    table = save_table(tmp_path / "table")
    cells = sorted(map(str, table.glob("cells/*/*/seed*")))
    assert places(table) == cells
    one, other = table / "cells/gcn/ve/seed0", table / "cells/pgnn/ve/seed0"
    assert places(one, other, one) == [str(one), str(other)]
    archives = write_archives(table, tmp_path / "archives")
    assert places(tmp_path / "archives") == sorted(
        f"{archive}/cells/{row}/{task}/seed{seed}"
        for seed, archive in enumerate(archives)
        for row in ("gcn", "pgnn")
        for task in ("ve", "vqa")
    )


def test_the_folder_of_one_of_several_tables_has_the_runs_of_its_results(tmp_path):
    tables = save_table(tmp_path / "tables", rows=("gcn", "appnp", "pgnn"))
    (tables / "two").mkdir()
    cells = [{"row": row, "task": "ve", "seed": 1} for row in ("gcn", "pgnn")]
    (tables / "two" / "results.json").write_text(json.dumps({"cells": cells}))
    assert places(tables / "two") == [f"{tables}/cells/{row}/ve/seed1" for row in ("gcn", "pgnn")]


def test_unfinished_runs_and_those_of_a_sweep_are_left_out(tmp_path):
    table = save_table(tmp_path / "table")
    (table / "cells/pgnn/ve/seed1/scores.json").unlink()
    shutil.copytree(table / "cells/pgnn", table / "cells/pgnn@0.01")
    assert len(places(table)) == 7 and unfinished(table) == 1


def test_archives_give_the_runs_and_their_p_values(tmp_path):
    """Read as they are, and unpacked by tar."""
    run = save_cells(tmp_path / "run", {name: TASKS[name] for name in ("vqa", "caption")})
    archives = write_archives(run, tmp_path / "archives")
    for archive in archives:
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path / "again", filter="data")
    found = []
    for folder in (run, tmp_path / "archives", tmp_path / "again"):
        with saved_runs(folder) as runs:
            found.append(recompute(runs, ["gcn"])[0])
            (one,) = [run for run in runs if run.folder.match("cells/pgnn/vqa/seed1")]
            assert one.statistics(["vqa.accuracy"])[0].dtype == np.float64
    for other in found[1:]:
        assert [line["column"] for line in other] == [line["column"] for line in found[0]]
        for key in ("p", "difference"):
            assert [line[key] for line in other] == pytest.approx([line[key] for line in found[0]], abs=1e-5)
    read_result(tmp_path / "again/cells/pgnn/vqa/seed1", "pgnn", TASKS["vqa"], 1)


# ---- bad input ------------------------------------------------------------------------------------------


def config_of(**settings):
    def change(table):
        file = table / CELL / "config.json"
        content = json.loads(file.read_text())
        content["settings"] |= settings
        file.write_text(json.dumps(content))

    return change


def written(name, content):
    def change(table):
        (table / name).parent.mkdir(parents=True, exist_ok=True)
        (table / name).write_bytes(content)

    return change


def removed(*names):
    def change(table):
        for name in names:
            shutil.rmtree(table / name) if (table / name).is_dir() else (table / name).unlink()

    return change


def as_table(cells):
    def change(table):
        (table / "results.json").write_text(cells)
        (table / "cells").rename(table.parent / "cells")

    return change


#: What is done to a table's folder -> what is said.
DAMAGES = {
    "no folder": (removed("."), "is no folder"),
    "nothing finished": (
        removed(*(f"cells/{row}/vqa/seed0/scores.json" for row in ("gcn", "pgnn"))),
        r"holds no finished run \(cells/ROW/TASK/seedN/scores.json, 2 that began\)",
    ),
    "scores damaged": (written(f"{CELL}/scores.json", b"[1"), f"{CELL}/scores.json is damaged"),
    "no statistics": (removed(f"{CELL}/statistics.npz"), "seed0/statistics.npz is damaged"),
    "a pickle": (written(f"{CELL}/statistics.npz", b"\x80\x04N."), "statistics.npz is damaged"),
    "a recipe of another form": (config_of(recipe={"steps": "many"}), r"config.json is damaged \(recipe\."),
    "a row that is not known": (config_of(label="nobody"), "seed0: unknown method 'nobody'.*--plugin FILE"),
    "a task that is not known": (
        config_of(task="vee"),
        r"unknown task 'vee'.*--plugin",
    ),
    "a table without a run of it": (
        as_table('{"cells": [{"row": "gcn", "task": "vqa", "seed": 7}]}'),
        "gcn/vqa/seed7, of which .*results.json tells, is missing",
    ),
    "a table that is damaged": (as_table("{"), "results.json cannot be read"),
}


@pytest.mark.parametrize("change, said", DAMAGES.values(), ids=DAMAGES)
def test_damaged_folders_are_refused(change, said, tmp_path):
    table = save_table(tmp_path / "one" / "table", seeds=(0,), tasks=("vqa",))
    change(table)
    with pytest.raises(UserError, match=said) as caught:
        places(table)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def changed(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive, and the content of its files."""
    folder = tmp_path_factory.mktemp("archive")
    table = save_cells(folder / "run", {"vqa": TASKS["vqa"]}, seeds=(0,))
    (path,) = write_archives(table, folder / "archives")
    with tarfile.open(path) as tar:
        return path.read_bytes(), {name: tar.extractfile(name).read() for name in tar.getnames()}


BROKEN = {"truncated": lambda content: content[: len(content) // 2], "changed": changed}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_damaged_archives_are_refused(damage, archive, tmp_path):
    (tmp_path / "seed-00.tar.xz").write_bytes(damage(archive[0]))
    with pytest.raises(UserError, match=r"seed-00\.tar\.xz is damaged \(.*restore the file") as caught:
        places(tmp_path)
    assert "\n" not in str(caught.value)


#: What an archive holds besides or in the place of its files -> what is said.
FOREIGN = {
    **{
        name: ({name: b"x"}, f"'{name}' is no file of a cell")
        for name in ("/etc/config.json", "cells/../../x/seed0/config.json", f"{CELL}/model.bin")
    },
    "bad config": ({f"{CELL}/config.json": b"[1"}, rf"damaged \({CELL}/config.json is"),
    "no scores": ({f"{CELL}/scores.json": None}, "scores.json is missing"),
    "nothing": (None, "it holds no cells"),
}


@pytest.mark.parametrize("members, said", FOREIGN.values(), ids=FOREIGN)
def test_archives_of_something_else_are_refused(members, said, archive, tmp_path):
    members = {} if members is None else archive[1] | members
    path = tmp_path / "archives" / "seed-00.tar.xz"
    path.parent.mkdir()
    write_archive(path, {name: content for name, content in members.items() if content is not None})
    with pytest.raises(UserError, match=said):
        places(path.parent)
    assert [file.name for file in tmp_path.rglob("*")] == ["archives", path.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_in_archives_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "seed-00.tar.xz", "w:xz") as tar:
        about = tarfile.TarInfo(f"{CELL}/config.json")
        about.type, about.linkname = kind, "/etc/passwd"
        tar.addfile(about)
    with pytest.raises(UserError, match="is no file of a cell"):
        places(tmp_path)


def test_archives_that_are_too_large_and_a_full_disk(archive, tmp_path, monkeypatch):
    (tmp_path / "seed-00.tar.xz").write_bytes(archive[0])

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extract", full)
        with pytest.raises(OSError, match="No space left"):  # it is not the archive that is damaged
            places(tmp_path)
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="more than 1000 bytes"):
        places(tmp_path)


def test_runs_that_were_made_differently_are_counted(tmp_path):
    some = runs_on(tmp_path, {"vqa": DRAWN["vqa"]}, rows=("gcn", "pgnn"), seeds=(0, 1))
    for run in some:
        versions = {"torch": "2.13", "code": "new" if run.row == "pgnn" and run.seed else "old"}
        about = {"versions": versions, "machine": "Linux x86_64"} if run.row == "pgnn" else {}
        (run.folder / "config.json").write_text(json.dumps({"settings": {"weights": "w"}, **about}))
    shown = [*some, some[3]]  # in two rows, but made once
    assert versions_of(shown) == {
        "machine": {"unknown": 2, "Linux x86_64": 2},
        "torch": {"2.13": 2},
        "code": {"old": 1, "new": 1},
    }
