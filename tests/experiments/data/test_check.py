"""What ``attngraph data check`` finds besides damaged records: files, folders, pictures, and other counts."""

import pytest

from attngraph.errors import UserError
from attngraph.experiments.data.check import check
from attngraph.experiments.data.dataset import DATA_SETS, Counts
from tests.experiments.data.files import WRITERS

VIZWIZ = DATA_SETS["vizwiz_vqa"]


@pytest.fixture
def root(tmp_path):
    WRITERS["vizwiz_vqa"](tmp_path / "vizwiz_vqa")
    return tmp_path / "vizwiz_vqa"


def test_a_whole_set(root, monkeypatch):
    report = check(VIZWIZ, root, deep=True)
    assert [(one.form, one.split, one.records, one.images, one.faults) for one in report.splits] == [
        ("official", split, 2, 2, []) for split in ("train", "val", "test")
    ]
    assert report.decoded == 6 and report.damaged == {} and report.faults == 0
    assert report.verdict().endswith(
        "counts differ from the published ones: train (official), val (official), test (official)"
    )
    monkeypatch.setattr(type(VIZWIZ.readers[0]), "published", {})
    assert check(VIZWIZ, root).verdict().endswith("there are no published counts to compare with")
    monkeypatch.setattr(type(VIZWIZ.readers[0]), "published", {"val": Counts(2, 2), "test": Counts(2)})
    report = check(VIZWIZ, root)
    assert report.verdict() == "complete: no faults, and all counts equal the published ones"
    rows = [line.split() for line in report.text().splitlines()]
    assert ["train", "2", "-", "2", "-", "0"] in rows and ["val", "2", "2", "2", "2", "0"] in rows
    for counts in (Counts(2, 3), Counts(3, 2), Counts(3)):
        monkeypatch.setattr(type(VIZWIZ.readers[0]), "published", {"val": counts})
        assert check(VIZWIZ, root).differing == ["val (official)"]
    (root / "scenes.json").write_text("{}")
    assert "these are synthetic scenes, without published counts" in check(VIZWIZ, root).text()


def test_captions_are_counted_and_what_the_official_rules_leave_out(tmp_path):
    WRITERS["vizwiz_caps"](tmp_path)
    report = check(DATA_SETS["vizwiz_caps"], tmp_path)
    counts = [(one.records, one.images, one.unscored) for one in report.splits]
    assert counts == [(3, 2, 1), (3, 2, 1), (3, 3, 0)]
    assert "  val: 1 more are excluded by the official rules" in report.text()


def test_missing_files_and_folders(root):
    (root / "Annotations" / "val.json").unlink()
    (root / "Annotations" / "test.json").unlink()
    (root / "train").rename(root / "away")
    text = check(VIZWIZ, root).text()
    assert "val.json: no such file; download it, or name the other splits in --split" in text
    assert "train: not a readable image folder (No such file" in text
    assert "official, test" not in text  # nobody needs what has no annotations
    assert text.endswith("not complete: 2 faults\n")


def test_pictures(root, monkeypatch):
    """Empty, cut off, the end of a link, a folder: each is named once, and some of them are printed."""
    (root / "train" / "VizWiz_train_00000000.jpg").write_bytes(b"")
    cut = root / "val" / "VizWiz_val_00000000.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    link, folder = root / "test" / "VizWiz_test_00000000.jpg", root / "test" / "VizWiz_test_00000001.jpg"
    link.unlink(), folder.unlink()
    link.symlink_to("nowhere"), folder.mkdir()
    report = check(VIZWIZ, root, deep=True)
    said = " ".join(report.pictures)
    assert (
        said.count("is empty or not a file; download it again") == 3
        and said.count("cannot be decoded (") == 1
    )
    assert report.faults == 4 == len(report.damaged) and report.decoded == 6
    assert check(VIZWIZ, root).faults == 3, "who does not look deep does not see what is cut off"
    monkeypatch.setattr("attngraph.experiments.data.check.SHOWN", 1)
    assert "pictures: 4 faults\n" in report.text() and "  and 3 more\n" in report.text()
    report.pictures = ["a"] * 3
    assert "  a (3 times)\n" in report.text()


def test_formats_and_splits_are_named(root, tmp_path):
    WRITERS["vqa2"](tmp_path / "vqa2")
    data_set = DATA_SETS["vqa2"]
    assert [one.form for one in check(data_set, tmp_path / "vqa2").splits] == ["karpathy"] * 3 + [
        "official"
    ] * 4
    chosen = check(data_set, tmp_path / "vqa2", ["val", "test-dev"], "official").splits
    assert [one.split for one in chosen] == ["val", "test-dev"]
    for folder, splits, form, said in (
        (root, (), "xml", "'xml'"),
        (root, ["dev"], None, "'dev'"),
        (tmp_path, (), None, "annotations/train.json missing, .*data layout vizwiz_vqa"),
        (tmp_path / "none", (), None, "not a readable folder"),
    ):
        with pytest.raises(UserError, match=said):
            check(VIZWIZ, folder, splits, form)
