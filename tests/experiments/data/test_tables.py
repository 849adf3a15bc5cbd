"""Tables of examples: equal to what the reader gives, made once, made again when something has changed."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from attngraph.errors import UserError
from experiments.base.reading import Record
from experiments.data import tables
from experiments.data.dataset import LIST, DataSet, Reader, Reading, split_examples
from experiments.data.example import Example
from experiments.data.tables import table


class Lines(Reader):
    """A line is an example; one that says "bad" is damaged."""

    name, title, splits, unanswered = "lines", "one example a line", ("train", "test"), ("test",)

    def __init__(self):
        self.reads = 0

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / f"{split}.txt"]

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        self.reads += 1
        (file,) = self.files(reading.root, split)

        def example(record: Record) -> Example:
            number, line = record.content["number"], record.content["line"]
            if line == "bad":
                raise record.fault("line is bad")
            answers = () if split in self.unanswered else (line, "")
            image = reading.root / "images" / f"{number % 3}.png"
            return Example(str(number), image, line, answers, "kind", groups={"parity": str(number % 2)})

        lines = enumerate(file.read_text().splitlines())
        found = ((f"line {k}", {"number": k, "line": line}) for k, line in lines)
        yield from reading.each(file, found, example, "number")


@pytest.fixture
def data() -> DataSet:
    return DataSet("lined", "Lines", "lines", (Lines(),))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tables, "ROWS", 400)
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "lined"
    (folder / "images").mkdir(parents=True)
    (folder / "train.txt").write_text("".join(f"is it {k} ½ ?\u00a0\n" for k in range(1_001)))
    (folder / "test.txt").write_text("what\nwhere\n")
    return folder


def test_table_gives_what_the_reader_gives(data, root):
    read = split_examples(data, root, "train")
    kept = table(data, root, "train")
    assert list(kept) == read
    assert [kept[k] for k in (0, 399, 400, 1_000, -1)] == [read[k] for k in (0, 399, 400, 1_000, -1)]
    some = kept.take([7, 3, 7, 1])
    assert list(some) == [read[7], read[3], read[7], read[1]] and some[-1] == read[1]
    assert list(some.take([3, 0])) == [read[1], read[7]] and len(some.images()) == 2
    assert kept.images() == [root / "images" / f"{k}.png" for k in range(3)]
    with pytest.raises(IndexError):
        kept[len(read)]
    assert [example.references for example in table(data, root, "test")] == [(), ()]


def test_reads_once_and_again_after_a_change(data, root):
    table(data, root, "test"), table(data, root, "test")
    assert data.readers[0].reads == 1
    (root / "test.txt").write_text("who\n")
    assert [example.prompt for example in table(data, root, "test")] == ["who"]
    (root / "images" / "new.png").write_text("")
    os.utime(root / "images", ns=(1, 1))
    table(data, root, "test")
    assert data.readers[0].reads == 3


def test_damaged_table_is_made_again(data, root, cache):
    before = list(table(data, root, "test"))
    (file,) = cache.rglob("*.arrow")
    for harm in (
        lambda: file.write_bytes(file.read_bytes()[:-20]),
        file.unlink,
        lambda: file.with_suffix(".json").write_text("[1]"),
    ):
        harm()
        assert list(table(data, root, "test")) == before
    assert data.readers[0].reads == 4


def test_damaged_records(data, root, cache):
    (root / "train.txt").write_text("one\nbad\ntwo\n")
    with pytest.raises(UserError, match="line is bad.*attngraph data check lined"):
        table(data, root, "train")
    assert not list(cache.rglob("*.arrow"))
    (root / LIST).write_text('{"train.txt: line 1": "bad"}')
    for _ in range(2):  # from the file, and from the table
        found = table(data, root, "train")
        assert [example.prompt for example in found] == ["one", "two"] and found.about.left_out == 1
    (root / LIST).write_text(json.dumps({f"train.txt: line {k}": "" for k in range(3)}))
    with pytest.raises(UserError, match="train.txt: split 'train' has no lines; give the official file"):
        table(data, root, "train")  # a change of the list makes the table again


def test_what_cannot_be_read_or_written(data, root, monkeypatch, tmp_path):
    (root / "test.txt").unlink()
    with pytest.raises(UserError, match="test.txt missing.*attngraph data layout lined"):
        table(data, root, "test")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        table(data, root, "train")


def test_several_writers(data, root):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(len(table(data, root, "train")))) for _ in range(4)
    ]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert results == [1_001] * 4


def test_a_root_may_be_spelled_in_several_ways(data, root, monkeypatch):
    """They share a table: else two runs that spell it differently would make it in turn."""
    monkeypatch.chdir(root)
    for folder in (root, Path("."), root):
        rows = table(data, folder, "test")
        assert rows.rows["image"].to_pylist() == ["images/0.png", "images/1.png"]
        assert [example.image for example in rows] == [folder / "images" / f"{k}.png" for k in range(2)]
    assert data.readers[0].reads == 1


def test_a_digest_is_that_of_the_content_wherever_it_is(data, root, tmp_path):
    moved = shutil.copytree(root, tmp_path / "elsewhere" / "lined")
    first = table(data, root, "test").about.digest
    assert len(first) == 64 and first == table(data, moved, "test").about.digest
    (moved / "test.txt").write_text("what\nwhere?\n")
    assert table(data, moved, "test").about.digest != first


def test_an_open_table_takes_no_memory(data, root):
    """All processes share its pages."""
    table(data, root, "train")
    before = pa.total_allocated_bytes()
    found = table(data, root, "train")
    assert pa.total_allocated_bytes() == before and found.rows.nbytes > 30_000
