"""Files of pictures and texts that a user asks a run about."""

import json

import pytest

from attngraph.errors import UserError
from experiments.predictions.asks import read_asks


@pytest.mark.parametrize("name", ["image", "text"])
def test_a_missing_field_is_named(name, tmp_path):
    file = tmp_path / "asked.jsonl"
    record = {"image": "photo.jpg", "text": "is there a square ?"}
    file.write_text(json.dumps(record) + "\n" + json.dumps({k: x for k, x in record.items() if k != name}))
    with pytest.raises(UserError, match=f"line 2 has no field '{name}': give each image and text"):
        read_asks(file, with_text=True)


def test_captions_need_pictures_alone(tmp_path):
    (tmp_path / "asked.json").write_text('[{"image": "photo.jpg", "mine": 3}]')
    (ask,) = read_asks(tmp_path / "asked.json", with_text=False)
    assert (ask.image, ask.text, ask.record["mine"]) == (tmp_path / "photo.jpg", "", 3)


@pytest.mark.parametrize("name", ["image", "text", "note"])
def test_half_a_character_is_named_before_anything_is_answered(name, tmp_path):
    """JSON can write it, but no file can take it."""
    file = tmp_path / "asked.jsonl"
    file.write_text(json.dumps({"image": "photo.jpg", "text": "what ?", name: "\ud83d"}))
    with pytest.raises(UserError, match="line 1 holds half a character|of line 1 holds half a character"):
        read_asks(file, with_text=True)
