"""Texts of the user's own, and what drawn data say of their pictures."""

import json
import os
import shutil

import pytest

from attngraph.errors import UserError
from experiments.inspect.samples import own_samples, task_samples
from experiments.scenes.write import Sizes, write_scenes


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("one\ntwo\n", ["one", "two"]),
        ("one\r\n\r\n  two", ["one", "two"]),
        ("one\r\r  two\r", ["one", "two"]),
        ("\ufeffone\ntwo", ["one", "two"]),
        ("a\u2028b\nc\x0cd\ne\x0bf\x85g\u2029h\x1ci", ["a\u2028b", "c\x0cd", "e\x0bf\x85g\u2029h\x1ci"]),
    ],
)
def test_a_text_ends_where_a_line_ends(tmp_path, content, lines):
    (tmp_path / "texts.txt").write_bytes(content.encode())
    assert [sample.answer for sample in own_samples(None, tmp_path / "texts.txt")] == lines


def test_texts_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").write_text("\ufeff \n\n")
    (tmp_path / "latin").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "zero").write_bytes(b"a ball\n\0\n")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for name, message in (
        ("empty", "holds no text"),
        ("latin", "UTF-8"),
        ("zero", "is no text .it holds a zero byte"),
        ("pipe", "is no file; give a UTF-8 file with a text per line"),
        ("", "is no file"),
        ("no", "no such file"),
    ):
        with pytest.raises(UserError, match=message) as error:
            own_samples(None, tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "data", 0, Sizes((1, 2, 1), (1, 1, 1), (1, 1, 1)))


def _first(described: dict, key: str, value) -> dict:
    """The descriptions, of which every one's ``key`` (also of its things) is another."""
    for scene in described.values():
        for part in (scene, *scene["things"]):
            if key in part:
                part[key] = value
    return described


@pytest.mark.parametrize(
    "damage",
    [
        lambda described: "{",
        lambda described: "[" * 100_000,
        lambda described: "[1, 2]",
        lambda described: json.dumps(dict.fromkeys(described, 3)),
        lambda described: json.dumps({name: {} for name in described}),
        lambda described: json.dumps(_first(described, "things", None)),
        lambda described: json.dumps(_first(described, "shape", "heptagon")),
        lambda described: json.dumps(_first(described, "x", "left")),
        lambda described: json.dumps(_first(described, "background", [])),
    ],
)
def test_damaged_descriptions_of_scenes_are_one_line(drawn, tmp_path, damage):
    data = tmp_path / "data"
    data.symlink_to(drawn)
    assert all(sample.scene is not None for sample in task_samples("vqa", "blip", "validation", data))
    copy = tmp_path / "copy"
    shutil.copytree(drawn, copy)
    file = copy / "vqa_v2" / "scenes.json"
    file.write_text(damage(json.loads(file.read_text())))
    with pytest.raises(UserError, match="scenes.json.*(download|draw)") as error:
        task_samples("vqa", "blip", "validation", copy)
    assert "\n" not in str(error.value)
