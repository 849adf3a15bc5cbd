"""Tables of examples: equal to what the reader gives, made once, made anew when something has changed."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.datasets.dataset import DataSet, Reader, split_examples
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.tables import Examples, table


class Lines(Reader):
    """A line is an example; one that says "bad" is damaged."""

    name, title, splits = "lines", "one example a line", ("train", "test")
    unanswered = ("test",)

    def __init__(self):
        self.reads = 0

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / f"{split}.txt"]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / "images"]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        self.reads += 1
        for number, line in enumerate(self.files(root, split)[0].read_text().splitlines()):
            with faults.leave_out():
                if line == "bad":
                    raise UserError(f"line {number} is bad")
                answers = () if split in self.unanswered else (line, "")
                image = root / "images" / f"{number % 3}.png"
                yield Example(str(number), image, line, answers, "kind", groups={"parity": str(number % 2)})


class Lined(DataSet):
    name, title, unit = "lined", "Lines", "lines"
    homepage = licence = citation = ""
    archives = tree = ()

    def __init__(self):
        self.readers = (Lines(),)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "lined"
    (folder / "images").mkdir(parents=True)
    (folder / "train.txt").write_text("".join(f"is it {k} ½ ?\u00a0\n" for k in range(25_001)))
    (folder / "test.txt").write_text("what\nwhere\n")
    return folder


def test_table_gives_what_the_reader_gives(root):
    data = Lined()
    read = split_examples(data, root, "train", Faults())
    kept = table(data, root, "train")
    assert list(kept) == read
    assert [kept[k] for k in (0, 9_999, 10_000, 25_000, -1)] == [
        read[k] for k in (0, 9_999, 10_000, 25_000, -1)
    ]
    assert list(kept[9_998:10_003:2]) == read[9_998:10_003:2]
    assert list(kept.take([7, 3, 7])) == [read[7], read[3], read[7]]
    assert kept.images() == [root / "images" / f"{k}.png" for k in range(3)]
    assert isinstance(kept[:3], Examples) and len(kept[:3]) == 3
    with pytest.raises(IndexError):
        kept[len(read)]


def test_examples_without_answers(root):
    assert [example.references for example in table(Lined(), root, "test")] == [(), ()]


def test_reads_once_and_again_after_a_change(root):
    data = Lined()
    table(data, root, "test"), table(data, root, "test")
    assert data.readers[0].reads == 1
    (root / "test.txt").write_text("who\n")
    assert [example.prompt for example in table(data, root, "test")] == ["who"]
    (root / "images" / "new.png").write_text("")
    os.utime(root / "images", ns=(1, 1))
    table(data, root, "test")
    assert data.readers[0].reads == 3


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "json"])
def test_damaged_table_is_made_anew(root, cache, harm):
    data = Lined()
    before = list(table(data, root, "test"))
    (file,) = cache.rglob("*.arrow")
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[content.index(b"where")] ^= 1
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-20])
    elif harm == "remove":
        file.unlink()
    else:
        file.with_suffix(".json").write_text("[1]")
    assert list(table(data, root, "test")) == before
    assert data.readers[0].reads == 2


def test_bad_records(root, cache):
    (root / "train.txt").write_text("one\nbad\ntwo\nbad\n")
    data = Lined()
    with pytest.raises(UserError, match="^line 1 is bad$"):
        table(data, root, "train")
    with pytest.raises(UserError, match="--skip-bad 1 is too few: 2 damaged records so far.*line 3 is bad"):
        table(data, root, "train", Faults(1))
    assert not list(cache.rglob("*.arrow"))
    for _ in range(2):  # from the file, and from the table
        faults = Faults(2)
        assert [example.prompt for example in table(data, root, "train", faults)] == ["one", "two"]
        assert faults.messages == ["line 1 is bad", "line 3 is bad"]
    with pytest.raises(UserError, match="^line 1 is bad$"):  # the table knows what was left out
        table(data, root, "train")


def test_split_without_examples_is_an_error(root):
    (root / "test.txt").write_text("")
    with pytest.raises(UserError, match="test.txt: split 'test' has no lines; give the official file"):
        table(Lined(), root, "test")
    (root / "test.txt").write_text("bad\n")
    with pytest.raises(UserError, match="has no lines that can be used .line 0 is bad."):
        table(Lined(), root, "test", Faults(5))


def test_missing_file_and_unknown_split_or_format(root):
    (root / "test.txt").unlink()
    with pytest.raises(UserError, match="test.txt missing.*attngraph data layout lined"):
        table(Lined(), root, "test")
    with pytest.raises(UserError, match="no split 'val': choose from train, test"):
        table(Lined(), root, "val")
    with pytest.raises(UserError, match="format 'blip': choose from lines"):
        table(Lined(), root, "train", form="blip")


def test_several_writers(root):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(len(table(Lined(), root, "train")))) for _ in range(4)
    ]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert results == [25_001] * 4


def test_cache_that_cannot_be_written(root, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written .*ATTNGRAPH_CACHE"):
        table(Lined(), root, "train")


def test_state_names_files_in_json(root, cache):
    table(Lined(), root, "test")
    (file,) = cache.rglob("*.json")
    assert [about[0] for about in json.loads(file.read_text())["state"][3:]] == ["test.txt", "images"]


def test_a_root_may_be_spelled_in_several_ways(root, monkeypatch):
    """They share a table: else two runs that spell it differently would make it anew in turn."""
    data = Lined()
    monkeypatch.chdir(root)
    for folder in (root, Path("."), root):
        table(data, folder, "test")
    assert data.readers[0].reads == 1


def test_a_digest_is_that_of_the_content_wherever_it_lies(root, tmp_path):
    data, moved = Lined(), tmp_path / "elsewhere" / "lined"
    moved.parent.mkdir()
    shutil.copytree(root, moved)
    first = table(data, root, "test").digest
    assert len(first) == 64 and first == table(data, moved, "test").digest == table(data, root, "test").digest
    (moved / "test.txt").write_text("what\nwhere?\n")
    changed = table(data, moved, "test").digest
    (moved / "test.txt").write_text("what\nwhere\nbad\n")
    assert table(data, moved, "test", Faults(1)).digest == first != changed


def test_places_of_images(root, monkeypatch):
    monkeypatch.chdir(root)
    for folder in (root, Path("."), Path("..", "lined")):
        rows = table(Lined(), folder, "test")
        assert rows.table.column("image").to_pylist() == ["images/0.png", "images/1.png"]
        assert [example.image for example in rows] == [folder / "images" / f"{k}.png" for k in range(2)]
