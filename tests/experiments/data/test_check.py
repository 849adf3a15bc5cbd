"""What ``attngraph data check`` finds beside damaged records: files, folders, pictures, and other counts."""

import shutil

import pytest

from attngraph.errors import UserError
from experiments.data import check as checking
from experiments.data.check import check, damage
from experiments.data.dataset import DATA_SETS, Counts
from tests.experiments.data.files import WRITERS, save_image

COCO, VIZWIZ = DATA_SETS["coco"], DATA_SETS["vizwiz_vqa"]


@pytest.fixture
def root(tmp_path):
    WRITERS["vizwiz_vqa"](tmp_path / "vizwiz_vqa")
    return tmp_path / "vizwiz_vqa"


def told(root, data_set=VIZWIZ, **options):
    return check(data_set, root, **options).text(data_set)


def test_a_whole_set(root, monkeypatch):
    report = check(VIZWIZ, root, deep=True)
    assert [(one.form, one.split, one.records, one.images, one.faults) for one in report.splits] == [
        ("official", split, 2, 2, []) for split in ("train", "val", "test")
    ]
    assert report.differs and report.decoded == 6 and report.damaged == {}
    assert report.verdict().endswith(
        "counts than the published ones: train (official), val (official), test (official)"
    )
    monkeypatch.setattr(type(VIZWIZ.readers[0]), "published", {"val": Counts(2, 2), "test": Counts(2)})
    assert check(VIZWIZ, root).verdict() == "whole: no faults, and no counts but the published ones"
    text = told(root)
    assert "  split  questions  published  images  published  faults\n" in text
    assert "  train          2          -       2          -       0\n" in text
    assert report.json()["splits"][0]["published"] == {"images": 20_523, "records": 20_523}


def test_drawn_scenes_have_counts_of_their_own(root):
    (root / "scenes.json").write_text("{}")
    assert "these are drawn scenes, with counts of their own" in told(root)


def test_captions_are_counted_and_what_the_official_rules_leave_out(tmp_path):
    WRITERS["vizwiz_caps"](tmp_path)
    report = check(DATA_SETS["vizwiz_caps"], tmp_path)
    assert [(one.records, one.images, one.unscored) for one in report.splits] == [
        (3, 2, 1),
        (3, 2, 1),
        (3, 3, 0),
    ]
    assert "  val: 1 more are left out, as the official rules say" in report.text(DATA_SETS["vizwiz_caps"])


def test_missing_files_and_folders(root):
    (root / "Annotations" / "val.json").unlink()
    (root / "Annotations" / "val.json").mkdir()
    (root / "Annotations" / "test.json").unlink()
    shutil.move(root / "train", root / "deep" / "train")
    text = told(root)
    assert "Annotations/val.json: is no file; get it, or name the other splits in --split" in text
    assert f"train: no such image folder; move {root / 'deep' / 'train'} there" in text
    assert "official, test" not in text  # nobody needs what has no annotations
    assert text.endswith("not whole: 2 faults\n")


def test_pictures(root):
    """Missing, empty, no link's end, a folder, cut off: each is named once."""
    for split, harm in {
        "train": lambda image: image.write_bytes(b""),
        "val": lambda image: image.write_bytes(image.read_bytes()[:-100]),
    }.items():
        harm(root / split / f"VizWiz_{split}_00000000.jpg")
    link, folder = root / "test" / "VizWiz_test_00000000.jpg", root / "test" / "VizWiz_test_00000001.jpg"
    link.unlink(), folder.unlink()
    link.symlink_to("nowhere"), folder.mkdir()
    report = check(VIZWIZ, root, deep=True, jobs=2)
    said = " ".join([fault for split in report.splits for fault in split.faults] + report.pictures)
    for what in (
        "train_00000000.jpg: is empty",
        "val_00000000.jpg: cannot be decoded (",
        "leads nowhere",
        "is no file",
    ):
        assert what in said
    assert report.faults == 4 == len(report.damaged) and report.decoded == 3


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "cannot be decoded"), (b"text", "cannot be decoded"), (None, None)]
)
def test_damage_of_a_picture(tmp_path, content, said):
    save_image(tmp_path / "a.png")
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    assert (damage(tmp_path / "a.png") or "").partition(" (")[0] == (said or "")


def test_ten_faults_of_a_split_are_printed_and_equal_ones_once(root, monkeypatch):
    monkeypatch.setattr(checking, "SHOWN", 1)
    for image in (root / "val").iterdir():
        image.unlink()
    report = check(VIZWIZ, root, ["val"])
    text = report.text(VIZWIZ, 1)
    assert "official, val: 2 faults" in text and "and 1 more" in text
    assert "(3 times)" in "".join(checking._listed("x", ["a"] * 3, None))


def test_a_format_is_named(tmp_path):
    WRITERS["vqa2"](tmp_path)
    data_set = DATA_SETS["vqa2"]
    assert [one.form for one in check(data_set, tmp_path).splits] == ["karpathy"] * 3 + ["official"] * 4
    assert [one.split for one in check(data_set, tmp_path, ["val", "test-dev"], "official").splits] == [
        "val",
        "test-dev",
    ]
    assert "tasks read the first format that has all splits" in told(tmp_path, data_set)
    for splits, form, said in (((), "xml", "'xml'"), (["dev"], None, "'dev'")):
        with pytest.raises(UserError, match=said):
            check(data_set, tmp_path, splits, form)


def test_a_root_that_is_wrong(root, tmp_path):
    for place, said in (
        (tmp_path, f"one folder below; give --root {root}"),
        (root / "val", f"one folder above; give --root {root}"),
        (tmp_path / "none", "no folder that can be read"),
        (root / "Annotations" / "val.json", "no folder that can be read"),
    ):
        with pytest.raises(UserError, match=said):
            check(VIZWIZ, place)
    with pytest.raises(
        UserError, match="no file of COCO Captions, such as dataset_coco.json: `attngraph data layout"
    ):
        check(COCO, root)
