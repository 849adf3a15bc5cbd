"""easy-VQA from its package: all questions, in splits that share no image."""

import re
import sys
from collections import Counter

import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.data import easy_vqa

HELD_OUT = [0, 4, 6, 50, 54]  # the first images for validation
SHAPES, COLORS = "circle|rectangle|triangle", "black|gray|red|green|blue|yellow|teal|brown"


@pytest.fixture(scope="module")
def splits():
    pytest.importorskip("easy_vqa")
    return {split: easy_vqa.load(split) for split in easy_vqa.SPLITS}


def test_easy_vqa_is_whole(splits):
    assert sum(map(len, splits.values())) == 48248
    images = {split: {example.image for example in examples} for split, examples in splits.items()}
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == 5000
    assert [len(images[split]) for split in easy_vqa.SPLITS] == [3600, 400, 1000]
    assert len(splits["test"]) == 9673
    held_out = sorted(int(image.stem) for image in images["validation"])
    assert held_out[:5] == HELD_OUT  # the same in every process
    assert Image.open(splits["test"][0].image).size == (64, 64)
    assert all(len({example.id for example in examples}) == len(examples) for examples in splits.values())
    with pytest.raises(UserError, match="unknown split 'dev'"):
        easy_vqa.load("dev")


def test_kinds_are_what_the_question_names_and_what_the_answer_is(splits):
    """A question about a shape names one, or is answered by one; the others are about colours."""
    examples = splits["test"]
    for example in examples:
        (answer,) = example.references
        about = example.prompt if example.kind.startswith("yesno") else answer
        assert (answer in ("yes", "no")) == example.kind.startswith("yesno")
        named = "shape" if re.search(SHAPES, about) else "color"
        assert example.kind.endswith(named) and bool(re.search(COLORS, about)) == (named == "color")
    assert min(Counter(example.kind for example in examples).values()) > 900
    assert len({example.kind for example in examples}) == 4


def test_easy_vqa_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(UserError, match="pip install easy-vqa"):
        easy_vqa.load("test")


@pytest.mark.parametrize(
    "split, content, images",
    [
        ("train", "[" * 100_000, 4000),
        ("validation", "null", 4000),
        ("test", "[[1]]", 4000),
        ("test", '[["?", "yes", 4001]]', 4000),
        ("train", '[[null, "yes", 0]]', 4000),
        ("train", '[["?", "yes", 0]]', 0),
    ],
)
def test_a_damaged_package_is_one_line(monkeypatch, tmp_path, split, content, images):
    package = pytest.importorskip("easy_vqa.easy_vqa")
    for part in ("train", "test"):
        folder = tmp_path / "data" / part / "images"
        folder.mkdir(parents=True)
        folder.with_name("questions.json").write_text(content)
    monkeypatch.setattr(package, "BASE_PATH", str(tmp_path))
    monkeypatch.setattr(package.os, "listdir", lambda folder: [f"{k}.png" for k in range(images)])
    with pytest.raises(UserError, match="easy-vqa is damaged .*; run: pip install --force") as error:
        easy_vqa.load(split)
    assert "\n" not in str(error.value)
