"""easy-VQA from its package: all questions, in splits that share no image."""

import re
import sys
from collections import Counter

import pytest
from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.data import easy_vqa

HELD_OUT = [0, 4, 6, 50, 54]  # the first images for validation
SHAPES, COLORS = "circle|rectangle|triangle", "black|gray|red|green|blue|yellow|teal|brown"


def test_easy_vqa_is_whole():
    pytest.importorskip("easy_vqa")
    splits = {split: easy_vqa.load(split) for split in easy_vqa.SPLITS}
    assert sum(map(len, splits.values())) == 48248 and len(splits["test"]) == 9673
    images = {split: {example.image for example in examples} for split, examples in splits.items()}
    assert [len(images[split]) for split in easy_vqa.SPLITS] == [3600, 400, 1000]
    assert len(set.union(*images.values())) == 5000
    held_out = sorted(int(image.stem) for image in images["validation"])
    assert held_out[:5] == HELD_OUT  # the same in every process
    assert Image.open(splits["test"][0].image).size == (64, 64)
    assert all(len({example.id for example in examples}) == len(examples) for examples in splits.values())
    # a question about a shape names one, or is answered by one; the others are about colours
    for example in splits["test"]:
        (answer,) = example.references
        about = example.prompt if example.kind.startswith("yesno") else answer
        assert (answer in ("yes", "no")) == example.kind.startswith("yesno")
        named = "shape" if re.search(SHAPES, about) else "color"
        assert example.kind.endswith(named) and bool(re.search(COLORS, about)) == (named == "color")
    kinds = Counter(example.kind for example in splits["test"])
    assert len(kinds) == 4 and min(kinds.values()) > 900


def test_easy_vqa_says_how_to_install_it(monkeypatch):
    with pytest.raises(UserError, match="unknown split 'dev'"):
        easy_vqa.load("dev")
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(UserError, match=r"pip install 'attngraph\[experiments\]'"):
        easy_vqa.load("test")
