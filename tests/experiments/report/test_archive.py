"""Archives of cells: the same bytes, the same numbers, nothing lost, nothing foreign let in."""

import io
import json
import lzma
import os
import tarfile

import numpy as np
import pytest

from attngraph.errors import UserError
from experiments.report.archive import FILES, finished_cells, pack, read_archive, restore
from experiments.report.recomputed import recompute, saved_runs
from experiments.tasks import TASKS
from experiments.training.saved import read_result
from tests.experiments.report.made import save_cells

TASKS_HERE = ("vqa", "caption")


@pytest.fixture
def run(tmp_path):
    """A run folder with two rows, two tasks and two seeds."""
    return save_cells(tmp_path / "run", {name: TASKS[name] for name in TASKS_HERE})


def test_cells_come_back(run, tmp_path):
    paths = pack(run, tmp_path / "archives")
    assert [path.name for path in paths] == ["seed-00.tar.xz", "seed-01.tar.xz"]
    again = tmp_path / "again"
    assert restore(paths, again) == 8
    for cell in finished_cells(run):
        copy = again / cell.relative_to(run)
        assert sorted(file.name for file in copy.iterdir()) == sorted(FILES)
        for name in FILES:
            if name.endswith(".json"):
                assert (copy / name).read_bytes() == (cell / name).read_bytes()
        with np.load(cell / "statistics.npz") as one, np.load(copy / "statistics.npz") as other:
            assert one.files and set(one.files) == set(other.files)
            for key in one.files:
                assert other[key].dtype == np.float64
                assert np.abs(one[key] - other[key]).max() <= 1e-6
        row, task, seed = cell.parent.parent.name, cell.parent.name, int(cell.name[4:])
        assert read_result(copy, row, TASKS[task], seed) == read_result(cell, row, TASKS[task], seed)
    assert not [name for name in os.listdir(again) if name.startswith(".attngraph")]


def test_bytes_are_the_same_whenever_and_from_whatever_copy(run, tmp_path):
    first = pack(run, tmp_path / "one")
    for file in run.rglob("*.json"):
        os.utime(file, (1e9, 1e9))
    restore(first, tmp_path / "copy")
    for second in (pack(run, tmp_path / "two"), pack(tmp_path / "copy", tmp_path / "three")):
        assert [path.read_bytes() for path in second] == [path.read_bytes() for path in first]
    with tarfile.open(first[0]) as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_p_values_are_the_same_from_archives(run, tmp_path):
    pack(run, tmp_path / "archives")
    with saved_runs(run) as runs:
        expected, *_ = recompute(runs, ["gcn"])
    with saved_runs(tmp_path / "archives") as runs:
        found, *_ = recompute(runs, ["gcn"])
    assert [line["column"] for line in found] == [line["column"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["p"] == pytest.approx(other["p"], abs=1e-5)
        assert one["difference"] == pytest.approx(other["difference"], abs=1e-6)


def test_unfinished_cells_are_left_out(run, tmp_path):
    (run / "cells/pgnn/vqa/seed1/scores.json").unlink()
    paths = pack(run, tmp_path / "archives")
    assert len(read_archive(paths[0])) == 16 and len(read_archive(paths[1])) == 12


def test_a_name_that_no_archive_takes_is_an_error(run, tmp_path):
    (run / "cells" / "gcn").rename(run / "cells" / "gcn+mine")
    with pytest.raises(UserError, match=r"cells/gcn\+mine/.*only letters, digits"):
        pack(run, tmp_path / "archives")
    assert not (tmp_path / "archives").exists()


def test_an_unknown_row_is_named_with_its_archive(run, tmp_path, monkeypatch):
    (archive, _) = pack(run, tmp_path / "archives")
    monkeypatch.setattr("experiments.report.recomputed.method_named", _unknown)
    with pytest.raises(UserError, match=rf"^{archive}/cells/\w+/\w+/seed0: no such row, or load"):
        with saved_runs(archive.parent):
            pass


def _unknown(name):
    raise UserError("no such row")


def test_what_is_there_stays(run, tmp_path):
    paths = pack(run, tmp_path / "archives")
    assert restore(paths, run) == 0, "the same cells are there"
    scores = run / "cells/gcn/vqa/seed0/scores.json"
    scores.write_text(scores.read_text().replace('"loss": 0.5', '"loss": 0.6'))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    (run / "cells/pgnn/vqa/seed1/scores.json").unlink()
    before.pop(run / "cells/pgnn/vqa/seed1/scores.json")
    with pytest.raises(UserError, match=r"seed0 is there already"):
        restore(paths[:1], run)
    with pytest.raises(UserError, match=r"seed1 is there already"):
        restore(paths[1:], run)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_cell_may_stand_in_two_archives_if_it_is_the_same(run, tmp_path):
    (path, _) = pack(run, tmp_path / "archives")
    scores = run / "cells/gcn/vqa/seed0/scores.json"
    scores.write_text(scores.read_text().replace('"loss": 0.5', '"loss": 0.6'))
    (other, _) = pack(run, tmp_path / "others")
    assert restore([path, path], tmp_path / "again") == 4
    with pytest.raises(UserError, match="hold different runs for .*gcn/vqa/seed0: keep one"):
        restore([path, other], tmp_path / "nothing")
    assert not list((tmp_path / "nothing").glob("*"))


@pytest.mark.parametrize("place", ["cells", "cells/gcn/vqa", "cells/gcn/vqa/seed0"])
def test_a_file_in_the_place_of_a_folder_is_named(place, run, tmp_path):
    paths, again = pack(run, tmp_path / "archives"), tmp_path / "again"
    (again / place).parent.mkdir(parents=True)
    (again / place).write_text("mine")
    with pytest.raises(UserError, match=f"{place} is (a file|there already)"):
        restore(paths, again)
    assert [file for file in again.rglob("*") if file.is_file()] == [again / place]


def test_a_damaged_cell_that_is_there_is_named(run, tmp_path):
    paths = pack(run, tmp_path / "archives")
    (run / "cells/gcn/vqa/seed0/statistics.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"seed0/statistics.npz is damaged"):
        restore(paths, run)


def test_an_archive_grows_and_never_loses(run, tmp_path):
    scores = run / "cells/pgnn/vqa/seed0/scores.json"
    content = scores.read_text()
    scores.unlink()
    (path, _) = pack(run, tmp_path / "archives")
    few = path.read_bytes()
    scores.write_text(content)
    pack(run, tmp_path / "archives")
    assert len(path.read_bytes()) > len(few) and len(read_archive(path)) == 16
    scores.unlink()
    with pytest.raises(UserError, match="which .* lacks or has otherwise"):
        pack(run, tmp_path / "archives")
    assert len(read_archive(path)) == 16


def test_rows_that_share_texts_take_little_room(tmp_path):
    tasks = {"vqa": TASKS["vqa"]}
    sizes = []
    for rows in (("gcn",), ("gcn", "pgnn", "appnp", "gcnii")):
        run = save_cells(tmp_path / str(len(rows)), tasks, rows=rows, seeds=(0,), images=2000, same=True)
        (path,) = pack(run, tmp_path / f"archives{len(rows)}")
        sizes.append(path.stat().st_size)
    assert sizes[1] < 1.5 * sizes[0]


def member(name, content=b"x", **fields):
    about = tarfile.TarInfo(name)
    about.size = len(content)
    for key, value in fields.items():
        setattr(about, key, value)
    return about, content


def write(path, members):
    with lzma.open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for about, content in members:
            tar.addfile(about, io.BytesIO(content))
    return path


CELL = "cells/gcn/vqa/seed0"


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside.json"),
        member("/etc/config.json"),
        member("cells/../../x/seed0/config.json"),
        member("cells/gcn/../seed0/config.json"),
        member(f"{CELL}/model.bin"),
        member(f"{CELL}/config.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(f"{CELL}/config.json", b"", type=tarfile.LNKTYPE, linkname="x"),
        member(CELL, b"", type=tarfile.DIRTYPE),
        member(f"{CELL}/config.json", b"", type=tarfile.FIFOTYPE),
    ],
    ids=lambda bad: f"{bad[0].name}-{bad[0].type.decode()}",
)
def test_foreign_members_are_refused(bad, run, tmp_path):
    (path, _) = pack(run, tmp_path / "archives")
    good = [member(name, content) for name, content in read_archive(path).items()]
    write(path, [bad, *good] if bad[0].name.startswith(f"{CELL}/config") else [*good, bad])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is no file of a cell, or is there twice"):
        restore([path], tmp_path / "again")
    assert sorted(tmp_path.rglob("*")) == before


def test_too_much_is_refused(run, tmp_path, monkeypatch):
    (path, _) = pack(run, tmp_path / "archives")
    monkeypatch.setattr("experiments.report.archive.MOST_BYTES", 1000)
    with pytest.raises(UserError, match="more than 1000 bytes"):
        read_archive(path)


@pytest.mark.parametrize(
    "how", ["truncated", "changed", "no xz", "empty", "no cells", "a file less", "a folder"]
)
def test_damaged_archives(how, run, tmp_path):
    path = pack(run, tmp_path / "archives")[0]
    content, members = path.read_bytes(), read_archive(path)
    if how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "no cells":
        write(path, [])
    elif how == "a file less":
        members.pop(f"{CELL}/scores.json")
        write(path, [member(*item) for item in members.items()])
    else:
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        path.write_bytes(
            {"truncated": content[:middle], "changed": changed, "no xz": b"x" * 99, "empty": b""}[how]
        )
    with pytest.raises(UserError, match=r"seed-00\.tar\.xz is (damaged|no file)") as caught:
        restore([path], tmp_path / "again")
    assert "\n" not in str(caught.value) and not (tmp_path / "again").exists()


@pytest.mark.parametrize("file", FILES)
def test_damaged_cells_in_whole_archives(file, run, tmp_path):
    path = pack(run, tmp_path / "archives")[0]
    members = read_archive(path) | {f"{CELL}/{file}": b"[1"}
    write(path, [member(*item) for item in members.items()])
    with pytest.raises(UserError, match=rf"seed-00\.tar\.xz is damaged \(.*{file}") as caught:
        restore([path], tmp_path / "again")
    assert "\n" not in str(caught.value) and not (tmp_path / "again").exists()


def test_scores_that_statistics_contradict(run, tmp_path):
    path = pack(run, tmp_path / "archives")[0]
    members = read_archive(path)
    result = json.loads(members[f"{CELL}/scores.json"])
    result["scores"]["vqa.accuracy"] += 0.01
    members[f"{CELL}/scores.json"] = json.dumps(result).encode()
    write(path, [member(*item) for item in members.items()])
    with pytest.raises(UserError, match="they give"):
        restore([path], tmp_path / "again")
    with pytest.raises(UserError, match="holds no finished cells"):
        pack(tmp_path, tmp_path / "out")
