"""Each data set's official files give their examples, with the quirks that each of them has."""

import json

import pytest

from attngraph.errors import UserError
from experiments.data.damaged import Reading
from experiments.data.dataset import DATA_SETS, split_examples
from experiments.data.vqa2 import Drawn
from tests.experiments.data.files import TEN, WRITERS, change, dump, load, save_image

#: Data set, format, split -> ids of the examples; then the first one without its id.
EXPECTED = {
    ("vqa2", "karpathy", "train"): (
        ["1000", "1001", "2000", "2001"],
        "train2014/COCO_train2014_000000000001.jpg",
        "What is 1000?",
        tuple(TEN),
        "what is",
        {"question type": "what is", "answer type": "other"},
    ),
    ("vqa2", "karpathy", "val"): (["3000", "3001", "6000", "6001"],),
    ("vqa2", "karpathy", "test"): (["4000", "4001"],),
    ("vqa2", "official", "train"): (["1000", "1001"],),
    ("vqa2", "official", "val"): (["2000", "2001", "3000", "3001", "4000", "4001", "6000", "6001"],),
    ("vqa2", "official", "test"): (
        ["5000", "5001"],
        "test2015/COCO_test2015_000000000005.jpg",
        "What is 5000?",
        (),
        "question",
        {},
    ),
    ("vqa2", "official", "test-dev"): (["5000"], "test2015/COCO_test2015_000000000005.jpg"),
    ("vizwiz_vqa", "official", "val"): (
        ["VizWiz_val_00000000.jpg", "VizWiz_val_00000001.jpg"],
        "val/VizWiz_val_00000000.jpg",
        "What is 0?",
        tuple(TEN),
        "other",
        {"answer type": "other", "answerable": "0"},
    ),
    ("vizwiz_vqa", "official", "test"): (
        ["VizWiz_test_00000000.jpg", "VizWiz_test_00000001.jpg"],
        "test/VizWiz_test_00000000.jpg",
        "What is 0?",
        (),
    ),
    ("snli_ve", "official", "val"): (
        [f"11.jpg#2r{k}n" for k in range(4)],  # the fifth has no gold label
        "flickr30k_images/11.jpg",
        "The sisters\u2028say 0.",
        ("entailment",),
        "hypothesis",
        {"label": "entailment"},
    ),
    ("coco", "karpathy", "train"): (
        ["101", "102"],  # restval belongs to train
        "train2014/COCO_train2014_000000000001.jpg",
        "",
        tuple(f"Caption {n}." for n in range(5)),
        "caption",
        {},
    ),
    ("coco", "karpathy", "val"): (["103", "106"], "val2014/COCO_val2014_000000000003.jpg"),
    ("textcaps", "official", "val"): (
        ["val00000000000", "val00000000001"],
        "train_images/val00000000000.jpg",
        "",
        ("A sign 0 0.", "A sign 0 1."),
        "caption",
        {},
    ),
    ("textcaps", "official", "test"): (
        ["test00000000000", "test00000000001"],
        "test_images/test00000000000.jpg",
        "",
        (),
    ),
    ("vizwiz_caps", "official", "val"): (
        ["3", "4"],  # all captions of the third image are precanned
        "val/VizWiz_val_00000000.jpg",
        "",
        ("Can 0.", "Can 1."),
        "caption",
        {},
    ),
    ("vizwiz_caps", "official", "test"): (["6", "7", "8"], "test/VizWiz_test_00000000.jpg", "", ()),
}


def written(name, tmp_path):
    WRITERS[name](tmp_path / name)
    return tmp_path / name


def read(name, root, split="val", form=None):
    data_set = DATA_SETS[name]
    return split_examples(data_set, root, split, data_set.reader(root, split, form))


@pytest.mark.parametrize(("name", "form", "split"), EXPECTED)
def test_a_split_gives_its_examples(name, form, split, tmp_path):
    root = written(name, tmp_path)
    ids, *first = EXPECTED[name, form, split]
    examples = read(name, root, split, form)
    assert [example.id for example in examples] == ids
    one = examples[0]
    found = one.image.relative_to(root).as_posix(), one.prompt, one.references, one.kind, one.groups
    assert found[: len(first)] == tuple(first)


@pytest.mark.parametrize("name", WRITERS)
def test_the_first_format_is_the_default(name, tmp_path):
    root = written(name, tmp_path)
    assert DATA_SETS[name].reader(root, "val") is DATA_SETS[name].readers[0]


def test_without_karpathys_file_the_official_splits_are_read(tmp_path):
    root = written("vqa2", tmp_path)
    (root / "dataset_coco.json").unlink()
    assert DATA_SETS["vqa2"].reader(root, "val").name == "official"


def test_karpathys_splits_need_no_folder_of_another_split(tmp_path):
    root = written("vqa2", tmp_path)
    for image in (root / "train2014").iterdir():
        image.unlink()
    (root / "train2014").rmdir()
    assert len(read("vqa2", root, "test")) == 2


def test_drawn_scenes_have_an_annotated_test_split(tmp_path):
    root = written("vqa2", tmp_path)
    for file in root.glob("*val2014*.json"):
        file.rename(root / file.name.replace("val2014", "test2014"))
    (root / "val2014").rename(root / "test2014")
    for image in (root / "test2014").iterdir():
        image.rename(root / "test2014" / image.name.replace("val2014", "test2014"))
    assert len(split_examples(DATA_SETS["vqa2"], root, "test", Drawn())[0].references) == 10


def test_places_of_annotations(tmp_path):
    """The archives' folders, and none."""
    for name in ("vizwiz_vqa", "vizwiz_caps"):
        root = written(name, tmp_path)
        before = read(name, root)
        (folder,) = {file.parent for file in root.rglob("*.json")}
        for file in folder.iterdir():
            file.rename(root / file.name)
        assert read(name, root) == before


def test_folders_of_flickr30k(tmp_path):
    root = written("snli_ve", tmp_path)
    (root / "flickr30k_images").rename(root / "flickr30k-images")
    assert read("snli_ve", root)[0].image == root / "flickr30k-images" / "11.jpg"
    (root / "flickr30k_images").mkdir()
    (root / "flickr30k-images").rename(root / "flickr30k_images" / "flickr30k_images")
    assert read("snli_ve", root)[0].image.parent == root / "flickr30k_images" / "flickr30k_images"


def test_a_kind_of_hypothesis_that_drawn_data_have(tmp_path):
    root = written("snli_ve", tmp_path)
    change(root / "snli_ve_dev.jsonl", (0, "hypothesis_kind"), "color")
    assert read("snli_ve", root)[0].kind == "color"


def test_what_the_official_rules_leave_out_is_known(tmp_path):
    for name, ids in {"snli_ve": {"11.jpg#2r4n"}, "vizwiz_caps": {"5"}}.items():
        root = written(name, tmp_path)
        reading = Reading(name, root)
        list(DATA_SETS[name].readers[0].examples(root, "val", reading))
        assert reading.unscored == ids and reading.left_out == 0


def test_releases_that_cannot_be_compared_are_refused_by_name(tmp_path):
    root = written("vizwiz_vqa", tmp_path)
    for file in root.glob("val/*"):
        file.rename(file.with_name("VizWiz_val_000000000000.jpg"))
    change(root / "Annotations" / "val.json", (0, "image"), "VizWiz_val_000000000000.jpg")
    with pytest.raises(UserError, match="twelve digits, as in the release of 2018"):
        read("vizwiz_vqa", root)
    root = written("snli_ve", tmp_path)
    (root / "snli_ve_dev.jsonl").rename(root / "esnlive_dev.csv")
    with pytest.raises(UserError, match="esnlive_dev.csv is of e-SNLI-VE, whose pairs and labels are others"):
        read("snli_ve", root)


@pytest.mark.parametrize("name", WRITERS)
def test_byte_order_marks_and_windows_lines_are_fine(name, tmp_path):
    root = written(name, tmp_path)
    before = read(name, root)
    for file in [*root.rglob("*.json"), *root.rglob("*.jsonl")]:
        content = json.dumps(load(file), indent=1) if file.suffix == ".json" else file.read_text()
        file.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    assert read(name, root) == before


def test_line_breaks_inside_captions_stay(tmp_path):
    root = written("coco", tmp_path)
    change(root / "dataset_coco.json", ("images", 2, "sentences", 0, "raw"), " a\rb\u2028c ")
    assert read("coco", root)[0].references[0] == "a\rb\u2028c"


def test_an_image_without_cocoid_has_its_imgid(tmp_path):
    root = written("coco", tmp_path)
    content = load(root / "dataset_coco.json")
    for image in content["images"]:
        del image["cocoid"]
    dump(root / "dataset_coco.json", content)
    assert [example.id for example in read("coco", root, "train")] == ["1", "2"]


def test_textcaps_items_without_references_are_fine(tmp_path):
    root = written("textcaps", tmp_path)
    content = load(root / "TextCaps_0.1_val.json")
    for item in content["data"]:
        del item["reference_strs"]
    dump(root / "TextCaps_0.1_val.json", content)
    assert [len(example.references) for example in read("textcaps", root)] == [2, 2]


def test_pictures_that_no_record_names_are_fine(tmp_path):
    root = written("vizwiz_vqa", tmp_path)
    save_image(root / "val" / "VizWiz_val_00000007.jpg")
    assert len(read("vizwiz_vqa", root)) == 2


def test_unknown_formats_and_splits(tmp_path):
    root = written("coco", tmp_path)
    for split, form, said in (
        ("dev", None, "no split 'dev': choose from train, val, test, val2014"),
        ("val", "xml", "format 'xml': choose from karpathy, hub"),
        ("train", "hub", "no split 'train' in the format hub: choose from val2014"),
        ("val2014", None, "hub/val/state.json missing.*data layout coco"),
    ):
        with pytest.raises(UserError, match=said):
            DATA_SETS["coco"].reader(root, split, form)
