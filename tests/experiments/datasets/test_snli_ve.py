"""SNLI-VE: a file as the real one looks, and damaged ones."""

import json

import pytest

from attngraph.errors import UserError
from experiments.datasets import snli_ve
from tests.experiments.datasets.tiny_images import save_image


def test_reads_the_real_snli_ve_shape(tmp_path):
    save_image(tmp_path / "images" / "4705552913.jpg")
    pair = {
        "annotator_labels": ["neutral"],
        "captionID": "4705552913.jpg#2",
        "gold_label": "neutral",
        "pairID": "4705552913.jpg#2r1n",
        "sentence1": "Two women are hugging.",
        "sentence1_parse": "(ROOT)",
        "sentence2": "The sisters are hugging goodbye.",
        "sentence2_parse": "(ROOT)",
        "Flickr30K_ID": "4705552913",
    }
    lines = [pair, {**pair, "gold_label": "-"}, {**pair, "Flickr30K_ID": "4705552913.jpg", "pairID": "other"}]
    (tmp_path / "snli_ve_dev.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    first, second = snli_ve.load(tmp_path / "snli_ve_dev.jsonl", tmp_path / "images")
    assert (
        first.id == "4705552913.jpg#2r1n" and first.references == ("neutral",) and first.kind == "hypothesis"
    )
    assert first.prompt == "The sisters are hugging goodbye." and first.image == second.image


def test_snli_ve_errors_name_file_line_and_field(tmp_path):
    save_image(tmp_path / "images" / "1.jpg")
    file = tmp_path / "snli_ve_test.jsonl"
    pair = {"Flickr30K_ID": "1", "gold_label": "neutral", "sentence2": "x", "pairID": "p"}
    for line, message in (
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 is list, not an object"),
        (json.dumps({**pair, "gold_label": "maybe"}), "'gold_label' of line 2 is 'maybe'; known: entailment"),
        (json.dumps({**pair, "Flickr30K_ID": "2"}), "2: no such image, though line 2 of"),
        (json.dumps({"gold_label": "neutral"}), "line 2 has no field 'Flickr30K_ID'"),
    ):
        file.write_text(json.dumps(pair) + "\n" + line)
        with pytest.raises(UserError, match=message):
            snli_ve.load(file, tmp_path / "images")
