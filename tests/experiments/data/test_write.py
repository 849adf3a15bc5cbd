"""Folders of drawn scenes: a seed gives the same files for ever, whole or not at all."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.data import layouts
from experiments.data.coco import COCO
from experiments.data.dataset import split_examples
from experiments.data.drawn import Sizes, make_scenes, write_scenes
from experiments.data.snli_ve import SNLI_VE
from experiments.data.vqa2 import VQA2, Drawn
from experiments.scenes.drawing import draw
from experiments.scenes.scene import Scene

SIZES = Sizes(questions=(30, 10, 20), hypotheses=(24, 9, 12), captions=(12, 4, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", seed=5, sizes=SIZES)


def load_vqa(folder, subtype="train2014"):
    return split_examples(VQA2, folder / "vqa_v2", subtype.removesuffix("2014"), Drawn())


def load_ve(folder, split="train"):
    return split_examples(SNLI_VE, folder / "snli_ve", "val" if split == "dev" else split)


def load_captions(folder, split="train"):
    return split_examples(COCO, folder / "karpathy", split)


def test_round_trip(folder):
    assert [len(load_vqa(folder, name)) for name in ("train2014", "val2014", "test2014")] == [30, 10, 20]
    assert [len(load_ve(folder, name)) for name in ("train", "dev", "test")] == [24, 9, 12]
    assert [len(load_captions(folder, name)) for name in ("train", "val", "test")] == [12, 4, 5]
    for load, place in ((load_vqa, "vqa_v2"), (load_ve, "snli_ve"), (load_captions, "karpathy")):
        shown = json.loads((folder / place / "scenes.json").read_text())
        examples = load(folder)
        assert len({example.id for example in examples}) == len(examples)
        for example in examples:
            image = Image.open(example.image)
            assert image.size == (64, 64) and image.mode == "RGB"
            assert image.tobytes() == draw(Scene.from_dict(shown[example.image.name])).tobytes()
    assert all(len(example.references) == 10 for example in load_vqa(folder))
    assert {example.references for example in load_ve(folder)} == {
        ("entailment",),
        ("contradiction",),
        ("neutral",),
    }
    assert all(
        len(set(example.references)) == 5 and example.kind == "caption" for example in load_captions(folder)
    )


def digest(folder: Path) -> str:
    """Of the names and texts of all files, and of the pixels of PNG: other versions pack them otherwise."""
    found = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        found.update(str(file.relative_to(folder)).encode())
        if file.suffix == ".png":
            found.update(Image.open(file).tobytes())
        elif file.suffix != ".jpg":
            found.update(file.read_bytes())
    return found.hexdigest()


def test_a_seed_writes_what_it_always_wrote(folder, tmp_path):
    """Whoever changes what a seed gives raises ``experiments.data.drawn.VERSION``, and these."""
    assert digest(folder) == "40f64a7db18eda58b1649c468a52a9c1d63e93a9838326117d7607c49d463a28"
    assert digest(make_scenes(tmp_path / "six", 3, 60)) == (
        "457a8651c55ed7a315bd40eb3ad8d575f15362df9a8269dedb36de97f190aa25"
    )


def test_a_finished_folder_is_reused_and_another_one_refused(folder, tmp_path):
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert write_scenes(folder, seed=5, sizes=SIZES) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    for again in (lambda: write_scenes(folder, seed=6, sizes=SIZES), lambda: make_scenes(folder, 5, 10)):
        with pytest.raises(UserError, match="other settings.*choose another folder"):
            again()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="no folder of drawn scenes"):
        write_scenes(tmp_path / "mine", seed=5, sizes=SIZES)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    assert not list(folder.parent.glob(".*")) and not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="questions"):
        Sizes(questions=(0, 1, 1))


@pytest.mark.parametrize(
    "fault, error, said",
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            UserError,
            "scenes: .* cannot be written .*No space left.*; make room",
        ),
    ],
)
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, fault, error, said):
    def stop(*_):
        raise fault

    monkeypatch.setitem(layouts.TASKS, "karpathy", (stop, "captions"))
    with pytest.raises(error, match=said) as caught:
        write_scenes(tmp_path / "scenes", seed=5, sizes=SIZES)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
