"""Each data set's official files give their examples, with the quirks that each of them has."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.data.dataset import DATA_SETS, Reading, split_examples
from attngraph.experiments.tasks import TASKS
from tests.experiments.data.files import TEN, WRITERS, change
from tests.experiments.examples.example_data import convert

DOCS = Path(__file__).parents[3] / "docs"
TYPES = {"question type": "what is", "answer type": "other"}
#: Data set, format, split -> ids of the examples; the first one: picture, prompt, references, kind, groups.
EXPECTED = {
    ("vqa2", "karpathy", "train"): (
        "1000 1001 2000 2001",
        ("train2014/COCO_train2014_000000000001.jpg", "What is 1000?", tuple(TEN), "what is", TYPES),
    ),
    ("vqa2", "official", "val"): (
        "2000 2001 3000 3001 4000 4001 6000 6001",
        ("val2014/COCO_val2014_000000000002.jpg", "What is 2000?", tuple(TEN), "what is", TYPES),
    ),
    ("vqa2", "official", "test-dev"): (
        "5000",
        ("test2015/COCO_test2015_000000000005.jpg", "What is 5000?", (), "question", {}),
    ),
    ("vizwiz_vqa", "official", "val"): (
        "VizWiz_val_00000000.jpg VizWiz_val_00000001.jpg",
        (
            "val/VizWiz_val_00000000.jpg",
            "What is 0?",
            tuple(TEN),
            "other",
            {"answer type": "other", "answerable": "0"},
        ),
    ),
    ("snli_ve", "official", "val"): (  # the fourth has no gold label
        "11.jpg#2r0n 11.jpg#2r1n 11.jpg#2r2n",
        (
            "flickr30k_images/11.jpg",
            "They\u2028say 0.",
            ("entailment",),
            "hypothesis",
            {"label": "entailment"},
        ),
    ),
    ("coco", "karpathy", "train"): (  # restval belongs to train
        "101 102",
        (
            "train2014/COCO_train2014_000000000001.jpg",
            "",
            tuple(f"Caption {n}." for n in range(5)),
            "caption",
            {},
        ),
    ),
    ("textcaps", "official", "val"): (
        "val00000000000 val00000000001",
        ("train_images/val00000000000.jpg", "", ("A sign 0 0.", "A sign 0 1."), "caption", {}),
    ),
    ("textcaps", "official", "test"): (
        "test00000000000 test00000000001",
        ("test_images/test00000000000.jpg", "", (), "caption", {}),
    ),
    ("vizwiz_caps", "official", "val"): (  # all captions of the third image are precanned
        "3 4",
        ("val/VizWiz_val_00000000.jpg", "", ("Can 0.", "Can 1."), "caption", {}),
    ),
    ("vizwiz_caps", "official", "test"): (
        "6 7 8",
        ("test/VizWiz_test_00000000.jpg", "", (), "caption", {}),
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All files, which no test changes."""
    folder = tmp_path_factory.mktemp("whole")
    for name, write in WRITERS.items():
        write(folder / name)
    return folder


def written(name, tmp_path):
    WRITERS[name](tmp_path / name)
    return tmp_path / name


def read(name, root, split="val", form=None):
    data_set = DATA_SETS[name]
    return split_examples(data_set, root, split, data_set.reader(root, split, form))


@pytest.mark.parametrize(("name", "form", "split"), EXPECTED)
def test_a_split_gives_its_examples(name, form, split, whole):
    ids, first = EXPECTED[name, form, split]
    examples = read(name, whole / name, split, form)
    assert [example.id for example in examples] == ids.split()
    one = examples[0]
    place = one.image.relative_to(whole / name).as_posix()
    assert (place, one.prompt, one.references, one.kind, one.groups) == first


def test_the_first_format_whose_files_exist_is_the_default(whole, tmp_path):
    for name, data_set in DATA_SETS.items():
        assert data_set.reader(whole / name, "val") is data_set.readers[0]
    root = written("vqa2", tmp_path)
    (root / "dataset_coco.json").unlink()
    assert DATA_SETS["vqa2"].reader(root, "val").name == "official"


def test_annotations_may_lie_in_their_folder_or_not(tmp_path):
    for name in ("vizwiz_vqa", "vizwiz_caps"):
        root = written(name, tmp_path)
        before = read(name, root)
        (folder,) = {file.parent for file in root.rglob("*.json")}
        for file in folder.iterdir():
            file.rename(root / file.name)
        assert read(name, root) == before


def test_what_the_official_rules_leave_out_is_known(whole):
    for name, ids in {"snli_ve": {"11.jpg#2r3n"}, "vizwiz_caps": {"5"}}.items():
        reading = Reading(DATA_SETS[name], whole / name)
        list(reading.examples(DATA_SETS[name].readers[0], "val"))
        assert reading.unscored == ids and reading.left_out == 0


def test_texts_stay_as_they_are(tmp_path):
    root = written("coco", tmp_path)
    change(root / "dataset_coco.json", ("images", 2, "sentences", 0, "raw"), " a\rb\u2028c ")
    assert read("coco", root)[0].references[0] == "a\rb\u2028c"
    root = written("snli_ve", tmp_path)
    change(root / "snli_ve_dev.jsonl", (0, "hypothesis_kind"), "color")
    assert read("snli_ve", root)[0].kind == "color"


def test_unknown_formats_and_splits(whole):
    for split, form, said in (
        ("dev", None, "unknown split of COCO Captions 'dev': choose from train, val, test, val2014"),
        ("val", "xml", "unknown format of COCO Captions 'xml': choose from karpathy, hub"),
        ("train", "hub", "unknown split of COCO Captions 'train': choose from val2014"),
        ("val2014", None, "hub/val.parquet missing.*data layout coco"),
    ):
        with pytest.raises(UserError, match=said):
            DATA_SETS["coco"].reader(whole / "coco", split, form)


def test_a_csv_file_of_a_user_becomes_a_task(tmp_path, monkeypatch):
    """The example of docs/extending: read as the benchmark whose files it was written in."""
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    lines = [("split", "image", "question", "answer")]
    for k, color in enumerate(("red", "blue", "green", "red")):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{k}.png")
        lines.append(("val" if k == 3 else "train", f"{k}.png", f"what color is {k} ?", color))
    with open(tmp_path / "mine.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    convert(tmp_path / "mine.csv", tmp_path / "data")
    (example,) = TASKS["vizwiz_vqa"].examples(tmp_path / "data", "test")
    assert (example.prompt, set(example.references), example.image.name) == (
        "what color is 3 ?",
        {"red"},
        "3.png",
    )


def test_published_counts_are_those_of_the_docs():
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    published = [reader.published for data_set in DATA_SETS.values() for reader in data_set.readers]
    numbers = [
        n for splits in published for counts in splits.values() for n in (counts.images, counts.records)
    ]
    missing = [number for number in numbers if number is not None and f"{number:,}" not in text]
    assert missing == [202_654], "of COCO's val2014, on the hub alone"
