"""Tables of examples: equal to what the reader gives, made once, made again when something has changed."""

import json
import os
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from attngraph.errors import UserError
from attngraph.experiments.data import tables
from attngraph.experiments.data.dataset import DATA_SETS, LIST, split_examples
from attngraph.experiments.data.tables import table
from tests.experiments.data.files import WRITERS, change

DATA = DATA_SETS["vizwiz_vqa"]
FILE = "Annotations/train.json"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tables, "ROWS", 1)
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    WRITERS["vizwiz_vqa"](tmp_path / "vizwiz_vqa")
    return tmp_path / "vizwiz_vqa"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The splits that are read from their files."""
    found, read = [], type(DATA.readers[0]).examples
    monkeypatch.setattr(
        type(DATA.readers[0]),
        "examples",
        lambda self, split, way: found.append(split) or read(self, split, way),
    )
    return found


def test_table_gives_what_the_reader_gives(root):
    first, second = split_examples(DATA, root, "train")
    kept = table(DATA, root, "train")
    assert list(kept) == [first, second] == [kept[0], kept[1]] and kept[-1] == second
    some = kept.take([1, 0, 1])
    assert list(some) == [second, first, second] and some[-1] == second and list(some.take([1])) == [first]
    assert list(some[1:]) == [first, second] and list(some[:0]) == []
    assert kept.images() == [first.image, second.image] and some.images() == [second.image, first.image]
    with pytest.raises(IndexError):
        kept[2]
    assert [example.references for example in table(DATA, root, "test")] == [(), ()]


def test_reads_once_and_again_after_a_change(root, reads):
    table(DATA, root, "train"), table(DATA, root, "train")
    assert reads == ["train"]
    change(root / FILE, (0, "question"), "Who?")
    assert [example.prompt for example in table(DATA, root, "train")] == ["Who?", "What is 1?"]
    (root / "train" / "new.png").write_text("")
    os.utime(root / "train", ns=(1, 1))
    table(DATA, root, "train")
    assert reads == ["train"] * 3


def test_damaged_table_is_made_again(root, cache, reads):
    before = list(table(DATA, root, "train"))
    (file,) = cache.rglob("*.arrow")
    for harm in (
        lambda: file.write_bytes(file.read_bytes()[:-20]),
        file.unlink,
        lambda: file.with_suffix(".json").write_text("[1]"),
    ):
        harm()
        assert list(table(DATA, root, "train")) == before
    assert len(reads) == 4


def test_damaged_records(root, cache):
    change(root / FILE, (0, "question"), "")
    with pytest.raises(UserError, match="'question' of record 0 is empty.*attngraph data check vizwiz_vqa"):
        table(DATA, root, "train")
    assert not list(cache.rglob("*.arrow"))
    (root / LIST).write_text(json.dumps({f"{FILE}: record 0": "bad"}))
    for _ in range(2):  # from the file, and from the table
        found = table(DATA, root, "train")
        assert [example.prompt for example in found] == ["What is 1?"] and found.about.left_out == 1
    (root / LIST).write_text(json.dumps({f"{FILE}: record {k}": "" for k in range(2)}))
    with pytest.raises(UserError, match="train.json: split 'train' has no questions; use the official file"):
        table(DATA, root, "train")  # a change of the list makes the table again


def test_what_cannot_be_read_or_written(root, monkeypatch, tmp_path):
    (root / FILE).unlink()
    with pytest.raises(UserError, match="train.json missing.*attngraph data layout vizwiz_vqa"):
        table(DATA, root, "train")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        table(DATA, root, "val")


def test_several_writers(root):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(len(table(DATA, root, "val")))) for _ in range(4)
    ]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert results == [2] * 4


def test_a_root_may_be_spelled_in_several_ways(root, monkeypatch, reads):
    """They share a table: else two runs that spell it differently would make it in turn."""
    monkeypatch.chdir(root)
    for folder in (root, Path("."), root):
        found = table(DATA, folder, "train")
        assert found.images() == [folder / "train" / f"VizWiz_train_0000000{k}.jpg" for k in range(2)]
    assert reads == ["train"]


def test_a_digest_is_that_of_the_content_wherever_it_is(root, tmp_path):
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    first = table(DATA, root, "train").about.digest
    assert len(first) == 64 and first == table(DATA, moved, "train").about.digest
    for field, value in (("question", "Who?"), ("answer_type", "number"), ("answerable", 1)):
        change(moved / FILE, (0, field), value)
        again = table(DATA, moved, "train").about.digest
        assert again != first, field
        first = again


def test_an_open_table_takes_no_memory(root):
    """All processes share its pages."""
    table(DATA, root, "train")
    before = pa.total_allocated_bytes()
    found = table(DATA, root, "train")
    assert pa.total_allocated_bytes() == before and found.rows.nbytes > 100
