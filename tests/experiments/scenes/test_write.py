"""Scenes in the official file formats: what is written comes back through the readers."""

import errno
import hashlib
import json
import os

import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.datasets.coco import COCO
from experiments.datasets.dataset import split_examples
from experiments.datasets.snli_ve import SNLI_VE
from experiments.datasets.vqa2 import VQA2, Drawn
from experiments.progress import Progress
from experiments.scenes.drawing import draw
from experiments.scenes.scene import Scene
from experiments.scenes.write import Sizes, write_scenes

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


def test_this_seed_writes_what_it_always_wrote(folder):
    """Whoever changes the scenes or texts of a seed raises ``experiments.scenes.write.VERSION``, and this."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.json*")):
        digest.update(file.read_bytes())
    assert digest.hexdigest() == "ca923914a9e1e356f7fe819950215fa957dfbf3dda49aecd8137f2deb518522e"


def test_the_same_seed_writes_the_same_files(folder, tmp_path):
    again = write_scenes(tmp_path / "again", seed=5, sizes=SIZES)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_a_finished_folder_is_reused_and_another_one_refused(folder, tmp_path):
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert write_scenes(folder, seed=5, sizes=SIZES) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings.*choose another folder"):
        write_scenes(folder, seed=6, sizes=SIZES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="no folder of drawn scenes"):
        write_scenes(tmp_path / "mine", seed=5, sizes=SIZES)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    assert not list(folder.parent.glob(".*")) and not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="questions"):
        Sizes(questions=(0, 1, 1))


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.scenes.write._write_captions", stop)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "scenes", seed=5, sizes=SIZES)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("experiments.scenes.write._write_captions", fill)
    with pytest.raises(UserError, match="scenes: .* cannot be written .*No space left.*; make room") as error:
        write_scenes(tmp_path / "scenes", seed=5, sizes=SIZES)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_progress_bar_counts_every_example(tmp_path, monkeypatch):
    bars = []

    class Remembered(Progress):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append(self)

    monkeypatch.setattr("experiments.scenes.write.Progress", Remembered)
    write_scenes(tmp_path / "scenes", seed=5, sizes=SIZES)
    (bar,) = bars
    assert bar.n == bar.total == 60 + 45 + 21
