"""What ``attngraph data check`` finds: every fault planted here is named, and nothing else is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.datasets import decoding
from experiments.datasets.check_text import as_json, as_text, verdict
from experiments.datasets.checking import check
from experiments.datasets.dataset import Archive, Counts, DataSet, Reader
from experiments.datasets.decoding import damage, damages
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.layout_text import layout
from experiments.datasets.reading import Images, Unique, read_text


class Lines(Reader):
    """A line names an image and its caption; "no caption" is a damaged record, "stop" damages the file."""

    name, title, splits, unanswered = (
        "lines",
        "one record a line",
        ("train", "val", "both", "test"),
        ("test",),
    )
    published = {"train": Counts(2, 3), "val": Counts(1), "both": Counts(3, 4)}
    suffix = "txt"

    def files(self, root: Path, split: str) -> list[Path]:
        return [
            root / f"{part}.{self.suffix}" for part in (("train", "val") if split == "both" else (split,))
        ]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / "images"]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        for file in self.files(root, split):
            images, ids = Images(root / "images"), Unique(file, "line")
            for number, line in enumerate(read_text(file).splitlines(), start=1):
                where = f"line {number}"
                name, _, caption = line.partition(" ")
                if caption == "stop":
                    raise UserError(f"{file}: {where}: not a list; download it again")
                with faults.leave_out():
                    ids.add(line, where)
                    if caption == "no caption":
                        raise UserError(f"{file}: {where} has no caption; give the official file")
                    references = () if split == "test" else (caption,)
                    yield Example(where, images.path(name, file, where), "", references, "caption")

    def notes(self, root: Path, split: str) -> list[str]:
        return ["two are rejected"] if split == "val" else []


class Others(Lines):
    name, title, suffix, splits = "others", "another suffix", "lst", ("train", "val")
    published = {}


class Lined(DataSet):
    name, title, unit, readers = "lined", "Lines", "captions", (Lines(), Others())
    homepage, licence, citation = "https://example.org", "CC BY 4.0", "Nobody (1900): Lines."
    archives = (
        Archive("lines.zip", "https://example.org/lines.zip", ("train.txt", "val.txt"), 1_230_000_000),
        Archive("images.zip", "https://example.org/images.zip", ("images/",)),
        Archive("few.zip", "https://example.org/few.zip", ("few/",), 4_200),
    )
    tree = (("train.txt", "the captions"), ("images/", "the pictures"))


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "sets" / "lined"
    (folder / "images").mkdir(parents=True)
    for name in "abc":
        Image.effect_noise((40, 40), 50).save(folder / "images" / f"{name}.jpg")
    Image.effect_noise((40, 40), 50).save(folder / "images" / "nobody needs me.jpg")
    (folder / "train.txt").write_text("a.jpg one\na.jpg two\nb.jpg three\n")
    (folder / "val.txt").write_text("c.jpg four\n")
    (folder / "test.txt").write_text("c.jpg \n")
    return folder


def faults_of(report) -> list[str]:
    return [fault for split in report.splits for fault in split.faults]


def test_a_whole_set(root):
    report = check(Lined(), root, deep=True)
    assert [(s.split, s.records, s.images, s.faults, s.differs) for s in report.splits] == [
        ("train", 3, 2, [], False),
        ("val", 1, 1, [], False),
        ("test", 1, 1, [], False),
    ]
    assert report.faults == 0 and not report.differs
    assert report.decoded == 3 and report.damaged == {}  # not the one that nobody needs
    assert verdict(report) == "whole: no faults, and no counts but the published ones"
    lines = as_text(report).splitlines()
    assert lines[0] == f"Lines (lined) in {root}"
    assert lines[3].split() == ["split", "captions", "published", "images", "published", "faults"]
    assert [line.split() for line in lines[4:7]] == [
        ["train", "3", "3", "2", "2", "0"],
        ["val", "1", "-", "1", "1", "0"],
        ["test", "1", "-", "1", "-", "0"],
    ]
    assert "  val: two are rejected" in lines and "3 pictures decoded" in lines
    assert "lst" not in as_text(report)  # the format without files is passed over
    assert check(Lined(), root).damaged is None


def test_every_fault_is_named(root):
    (root / "train.txt").write_text("a.jpg one\na.jpg one\nx.jpg two\nb.jpg no caption\nb.jpg three\n")
    (root / "val.txt").write_text("c.jpg four\nc.jpg stop\nc.jpg five\n")
    (root / "test.txt").unlink()
    report = check(Lined(), root)
    train, val, test = (split.faults for split in report.splits)
    assert len(train) == 3 and len(val) == len(test) == 1 and report.faults == 5
    for fault, said in zip(
        train, ("line 2 has the line 'a.jpg one'", "no such image as 'x.jpg'", "line 4 has no caption")
    ):
        assert said in fault and "train.txt" in fault
    assert "val.txt: line 2: not a list" in val[0] and report.splits[1].records == 1
    assert "test.txt: no such file" in test[0]
    assert verdict(report) == "not whole: 5 faults"
    text = as_text(report, shown=2)
    assert "lines, train: 3 faults" in text and text.count("and 1 more") == 1
    assert train[1] in text and train[2] not in text and train[2] in as_text(report, shown=None)
    told = as_json(report)
    assert [split["faults"] for split in told["formats"][0]["splits"]] == [train, val, test]
    assert told["verdict"] == verdict(report) and told["damaged"] is None


def test_other_counts_are_no_fault(root):
    (root / "train.txt").write_text("a.jpg one\n")
    report = check(Lined(), root)
    assert report.differs and not report.faults
    assert verdict(report) == "no faults, but other counts than the published ones: train (lines)"
    (root / "scenes.json").write_text("{}")
    report = check(Lined(), root)
    assert report.drawn and not report.differs and verdict(report).startswith("whole")
    (root / "val.txt").write_text("")
    (fault,) = faults_of(check(Lined(), root, ["val"]))
    assert "val.txt" in fault and fault.endswith("give the official file")


def test_damaged_pictures_are_named(root):
    whole = (root / "images" / "a.jpg").read_bytes()
    (root / "images" / "a.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "images" / "b.jpg").write_text("<html>404</html>")
    report = check(Lined(), root, deep=True)
    a, b = report.damaged.items()
    assert a[0] == str(root / "images" / "a.jpg") and "truncated" in a[1]
    assert b[0] == str(root / "images" / "b.jpg") and "cannot identify" in b[1]
    assert report.faults == 2 and "pictures: 2 faults" in as_text(report)
    assert not check(Lined(), root).faults
    (root / "images" / "c.jpg").write_bytes(b"")
    assert [fault.endswith("c.jpg: is empty; get it again") for fault in faults_of(check(Lined(), root))] == [
        True,
        True,
    ]


def test_what_stands_in_a_pictures_place_is_named(root):
    for name in "abc":
        (root / "images" / f"{name}.jpg").unlink()
    (root / "images" / "a.jpg").symlink_to("nowhere")
    (root / "images" / "b.jpg").mkdir()
    (root / "images" / "c.jpg").symlink_to("c.jpg")
    train = [
        f"{root}/images/a.jpg: is a link that leads nowhere; get it again",
        f"{root}/images/b.jpg: is no file; get it again",
    ]
    for deep in (False, True):
        report = check(Lined(), root, ["train"], deep=deep)
        assert report.splits[0].faults == train and report.faults == 2, "none is counted twice"
    (fault,) = faults_of(check(Lined(), root, ["val"]))
    assert fault.startswith(f"{root}/images/c.jpg: ") and fault.endswith("; get it again")


def test_what_stands_in_an_annotation_files_place_is_named(root):
    for change, fault in (
        (lambda file: file.unlink(), "no such file"),
        (lambda file: file.mkdir(), "is no file"),
        (lambda file: (file.rmdir(), file.symlink_to("nowhere")), "is a link that leads nowhere"),
    ):
        change(root / "val.txt")
        assert check(Lined(), root).splits[1].faults == [
            f"{root}/val.txt: {fault}; get it, or name the other splits in --split"
        ]


def test_equal_faults_are_printed_once(root):
    report = check(Lined(), root, ["train"])
    report.splits[0].faults[:] = ["same", "other", "same", "same", "last"]
    text = as_text(report, shown=2)
    assert "\n  same (3 times)\n  other\n  and 1 more\n" in text and "5 faults" in text
    assert "\n  last\n" in as_text(report, shown=None)


def test_many_processes_find_what_one_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "FEW", 0)
    monkeypatch.setattr(decoding, "AT_A_TIME", 2)
    files = [tmp_path / f"{number}.jpg" for number in range(7)]
    for number, file in enumerate(files[:-1]):
        Image.effect_noise((40, 40), 50).save(file)
        if number % 3 == 1:
            os.truncate(file, 600)
    alone = list(damages(files, 1))
    assert [wrong is not None for wrong in alone] == [False, True, False, False, True, False, True]
    assert list(damages(files, 2)) == alone == [damage(file) for file in files]
    assert alone[-1] == "no such file"


def test_splits_and_formats_are_chosen(root):
    (root / "train.lst").write_text("a.jpg one\n")
    report = check(Lined(), root)
    assert [form.name for form in report.formats] == ["lines", "others"]
    said = "tasks read the first format that has all splits, those with an annotated test split first"
    assert said in as_text(report).splitlines() and said not in as_text(check(Lined(), root, form="lines"))
    assert ["val.lst: no such file" in fault for fault in faults_of(report)] == [True]
    report = check(Lined(), root, ["train"])
    assert [(form.name, [s.split for s in form.splits]) for form in report.formats] == [
        ("lines", ["train"]),
        ("others", ["train"]),
    ]
    report = check(Lined(), root, ["val", "both"])  # a split that joins others is read where it is asked for
    assert [[s.split for s in form.splits] for form in report.formats] == [["val", "both"]]
    assert report.splits[1].records == 4 and not report.faults
    assert [form.name for form in check(Lined(), root, form="others").formats] == ["others"]
    for splits, form, said in (
        (["dev"], None, "has no split 'dev': choose from train, val, both, test"),
        (["test"], "others", "has no split 'test' in the format others: choose from train, val$"),
        (["val"], "others", "val.lst missing"),
        ([], "json", "not read in the format 'json': choose from lines, others"),
    ):
        with pytest.raises(UserError, match=said):
            check(Lined(), root, splits, form)


def test_a_missing_image_folder_is_one_fault(root):
    (root / "images").rename(root / "pictures")
    assert [
        fault.endswith("images: no such image folder; unpack the images there")
        for fault in faults_of(check(Lined(), root))
    ] == [True] * 3


def test_a_wrong_root_is_told_from_what_is_there(root, tmp_path):
    (root.parent / "readme.txt").write_text("")
    for wrong, said in (
        (root.parent, f"one folder below; give --root {root}$"),
        (root / "images", f"one folder above; give --root {root}$"),
        (tmp_path, "no file of Lines, such as train.txt; it holds sets: `attngraph data layout lined`"),
        (root / "train.txt", "is no folder; give the folder of Lines"),
        (root / "nowhere", "no such folder; give the folder of Lines"),
    ):
        with pytest.raises(UserError, match=said):
            check(Lined(), wrong)
    (root / "renamed").mkdir()
    for number in range(12):
        (root / "renamed" / f"{number:02}").write_text("")
    with pytest.raises(UserError, match="above"):
        check(Lined(), root / "renamed")
    (root / "renamed").rename(tmp_path / "other")
    with pytest.raises(UserError, match="it holds 00, 01, 02, 03, 04, 05, 06, 07 and 4 more"):
        check(Lined(), tmp_path / "other")


def test_layout_tells_everything(root):
    text = layout(Lined())
    for said in (
        "Lines, https://example.org",
        "DIR/lined/",
        "  train.txt  the captions",
        "  lines.zip (1.2 GB)",
        "  images.zip (size not known)",
        "  few.zip (4.2 kB)",
        "    https://example.org/lines.zip",
        "    unpacks to val.txt",
        "  lines: one record a line",
        "    splits: train, val, both, test*",
        "* without annotations",
        "licence: CC BY 4.0",
        "citation: Nobody (1900): Lines.",
    ):
        assert said in text
