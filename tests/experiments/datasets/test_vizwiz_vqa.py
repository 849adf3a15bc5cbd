"""VizWiz-VQA: files as the real ones look, and each fault."""

import json

import pytest

from attngraph.errors import UserError
from experiments.datasets.dataset import split_examples
from experiments.datasets.faults import Faults
from experiments.datasets.vizwiz_vqa import VIZWIZ_VQA
from tests.experiments.datasets.tiny_images import save_image

TEN = [{"answer": text, "answer_confidence": "yes"} for text in ["unanswerable"] * 6 + ["beach"] * 4]


def record(number=0, **more):
    return {
        "image": f"VizWiz_val_{number:08d}.jpg",
        "question": "What is this?",
        "answers": TEN,
        "answer_type": "unanswerable",
        "answerable": 0,
        **more,
    }


@pytest.fixture
def root(tmp_path):
    for number in range(2):
        save_image(tmp_path / "val" / f"VizWiz_val_{number:08d}.jpg")
    save_image(tmp_path / "test" / "VizWiz_test_00000000.jpg")
    (tmp_path / "Annotations").mkdir()
    write(tmp_path, [record(), record(1, answerable=1, answer_type="other")])
    asked = [{"image": "VizWiz_test_00000000.jpg", "question": "Ok?"}]
    write(tmp_path, asked, "Annotations/test.json")
    return tmp_path


def write(root, content, name="Annotations/val.json"):
    (root / name).write_text(json.dumps(content))


def read(root, split="val", faults=None):
    return split_examples(VIZWIZ_VQA, root, split, Faults() if faults is None else faults)


def test_the_real_shape(root):
    first, second = read(root)
    assert first.id == "VizWiz_val_00000000.jpg" and first.image == root / "val" / first.id
    assert first.references == ("unanswerable",) * 6 + ("beach",) * 4 and first.prompt == "What is this?"
    assert first.kind == "unanswerable"
    assert first.groups == {"answer type": "unanswerable", "answerable": "0"}
    assert second.groups == {"answer type": "other", "answerable": "1"}


def test_test_has_no_answers(root):
    (example,) = read(root, "test")
    assert example.references == () and example.groups == {} and example.prompt == "Ok?"


@pytest.mark.parametrize("folder", ["", "annotations"])
def test_other_places_of_the_annotations(root, folder):
    before = read(root)
    (root / folder).mkdir(exist_ok=True)
    (root / "Annotations" / "val.json").rename(root / folder / "val.json")
    assert read(root) == before


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (record(1, answers=[]), "'answers' of record 1 has 0 entries"),
        (record(1, answers=TEN[:9]), "'answers' of record 1 has 9 entries"),
        (record(1, answers=None), "'answers' of record 1 is NoneType"),
        (record(1, question="\t"), "'question' of record 1 is empty"),
        (record(0), "record 1 has the image 'VizWiz_val_00000000.jpg', which record 0 has too"),
        (record(7), "no such image as 'VizWiz_val_00000007.jpg'"),
        (record(1, answerable=2), "'answerable' of record 1 is 2; give 0 or 1"),
        (record(1, answerable=True), "'answerable' of record 1 is bool"),
        (record(1, answer_type=""), "'answer_type' of record 1 is empty"),
        (record(1, image="VizWiz_val_000000000001.jpg"), "twelve digits, as in the release of 2018"),
        ({"image": "VizWiz_val_00000001.jpg", "question": "x"}, "record 1 has no field 'answers'"),
        ("x", "record 1 is str, not an object"),
    ],
)
def test_faults(root, damaged, message):
    write(root, [record(), damaged])
    with pytest.raises(UserError, match=f"val.json.*{message}|{message}.*val.json"):
        read(root)
    faults = Faults(1)
    assert len(read(root, faults=faults)) == 1 and len(faults) == 1


@pytest.mark.parametrize("content", ["", "[", "{}", "[1,]", "[]"])
def test_damaged_files(root, content):
    (root / "Annotations" / "val.json").write_text(content)
    with pytest.raises(UserError, match="val.json"):
        read(root, faults=Faults(None))
