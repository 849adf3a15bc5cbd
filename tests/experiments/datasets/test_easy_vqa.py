"""easy-VQA from its package: all questions, in splits that share no image."""

import sys

import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.datasets import easy_vqa

HELD_OUT = [0, 4, 6, 50, 54]  # the first images for validation


def test_easy_vqa_is_whole():
    pytest.importorskip("easy_vqa")
    splits = {split: easy_vqa.load(split) for split in easy_vqa.SPLITS}
    assert sum(map(len, splits.values())) == 48248
    images = {split: {example.image for example in examples} for split, examples in splits.items()}
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == 5000
    assert [len(images[split]) for split in easy_vqa.SPLITS] == [3600, 400, 1000]
    assert len(splits["test"]) == 9673
    held_out = sorted(int(image.stem) for image in images["validation"])
    assert held_out[:5] == HELD_OUT  # the same in every process
    for examples in splits.values():
        assert {example.kind for example in examples} == {
            "yesno-shape",
            "yesno-color",
            "which-shape",
            "which-color",
        }
        assert len({example.id for example in examples}) == len(examples)
        assert Image.open(examples[0].image).size == (64, 64)
    with pytest.raises(UserError, match="split 'dev' is unknown"):
        easy_vqa.load("dev")


def test_easy_vqa_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(UserError, match="pip install easy-vqa"):
        easy_vqa.load("test")
