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
        (
            json.dumps({**pair, "gold_label": "maybe"}),
            "'gold_label' of line 2 is 'maybe'; give one of entailment",
        ),
        (json.dumps({**pair, "Flickr30K_ID": "2"}), "images: no such image as '2', though line 2 of"),
        (json.dumps(pair), "line 2 has the pairID 'p', which line 1 has too; remove one"),
        (json.dumps({**pair, "pairID": "q", "sentence2": " "}), "'sentence2' of line 2 is empty"),
        (
            json.dumps({**pair, "pairID": "q", "captionID": "2.jpg#0"}),
            "line 2 is about two images, 'Flickr30K_ID' '1' and 'captionID' '2.jpg#0'",
        ),
        (
            json.dumps({**pair, "pairID": "q", "hypothesis_kind": None}),
            "'hypothesis_kind' of line 2 is NoneType",
        ),
        (json.dumps({"gold_label": "neutral"}), "line 2 has no field 'Flickr30K_ID'"),
    ):
        file.write_text(json.dumps(pair) + "\n" + line)
        with pytest.raises(UserError, match=message):
            snli_ve.load(file, tmp_path / "images")
    for content in ("", "\n\n", json.dumps({**pair, "gold_label": "-"})):
        file.write_text(content)
        with pytest.raises(UserError, match="snli_ve_test.jsonl: no pair with a gold label"):
            snli_ve.load(file, tmp_path / "images")


def test_separators_inside_a_hypothesis_end_no_line(tmp_path):
    save_image(tmp_path / "images" / "1.jpg")
    file = tmp_path / "snli_ve_test.jsonl"
    pair = {
        "Flickr30K_ID": "1",
        "captionID": "1.jpg#0",
        "gold_label": "neutral",
        "sentence2": "a\u2028b\u0085c",
    }
    lines = [json.dumps({**pair, "pairID": f"1.jpg#0r{k}"}, ensure_ascii=False) for k in range(2)]
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert [e.prompt for e in snli_ve.load(file, tmp_path / "images")] == ["a\u2028b\u0085c"] * 2
