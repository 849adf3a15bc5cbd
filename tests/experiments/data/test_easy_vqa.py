"""easy-VQA from its package: all questions, in splits that share no image."""

import sys

import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.data import easy_vqa

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


@pytest.mark.parametrize("split", easy_vqa.SPLITS)
@pytest.mark.parametrize(
    "content, images",
    [
        ("", 4000),
        ("[" * 100_000, 4000),
        ("null", 4000),
        ("[[1]]", 4000),
        ('[["?", "yes", 4001]]', 4000),
        ('[[null, "yes", 0]]', 4000),
        ('[["?", 1, 0]]', 4000),
        ('[[null, "red", 0]]', 4000),
        ('[["?", "yes", 0]]', 0),
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
    with pytest.raises(
        UserError, match="easy-vqa is damaged .*; run: pip install --force-reinstall"
    ) as error:
        easy_vqa.load(split)
    assert "\n" not in str(error.value)
