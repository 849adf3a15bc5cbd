"""SNLI-VE: a file as the real one looks, and damaged ones."""

import json

import pytest

from attngraph.errors import UserError
from experiments.datasets import snli_ve
from experiments.datasets.dataset import split_examples
from experiments.datasets.faults import Faults
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


def pair(number, **more):
    about = {"gold_label": "neutral", "sentence2": f"Hypothesis {number}.", "pairID": f"11.jpg#{number}r1n"}
    return about | more


@pytest.fixture
def root(tmp_path):
    save_image(tmp_path / "flickr30k_images" / "11.jpg")
    return tmp_path


def read(root, split="val", form=None, faults=None):
    return split_examples(snli_ve.SNLI_VE, root, split, Faults() if faults is None else faults, form)


def write_lines(root, *lines, name="snli_ve_dev.jsonl"):
    (root / name).write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


@pytest.mark.parametrize("more", [{}, {"Flickr30K_ID": "11"}, {"Flikr30kID": "11.jpg"}, {"Flickr30kID": 11}])
def test_spellings_of_the_image(root, more):
    """Three names of the field, with and without suffix; else the pair's id tells the image."""
    write_lines(root, pair(0, **more))
    (example,) = read(root)
    assert example.image == root / "flickr30k_images" / "11.jpg" and example.groups == {"label": "neutral"}
    (root / "flickr30k_images").rename(root / "flickr30k-images")
    assert read(root)[0].image == root / "flickr30k-images" / "11.jpg"


def test_the_image_folder_of_an_archive_that_has_it_twice(root):
    (root / "flickr30k_images").rename(root / "inner")
    (root / "flickr30k_images").mkdir()
    (root / "inner").rename(root / "flickr30k_images" / "flickr30k_images")
    write_lines(root, pair(0))
    (example,) = read(root)
    assert example.image == root / "flickr30k_images" / "flickr30k_images" / "11.jpg"


def test_pairs_without_gold_label_are_no_fault(root):
    write_lines(root, pair(0, gold_label="-"), pair(1))
    faults = Faults(0)
    assert [example.id for example in read(root, faults=faults)] == ["11.jpg#1r1n"] and not faults
    assert snli_ve.SNLI_VE.reader(root, "val").notes(root, "val") == [
        "snli_ve_dev.jsonl: 1 pairs have no gold label and are left out"
    ]


def test_faults_are_left_out_and_counted(root):
    write_lines(root, pair(0), "{", pair(1, sentence2=""), pair(0), pair(2, Flickr30K_ID="12"), pair(3))
    faults = Faults(4)
    assert len(read(root, faults=faults)) == 2
    assert "line 2 is not valid JSON" in faults.messages[0] and "of line 3 is empty" in faults.messages[1]
    assert len(faults) == 4


LISTS = {
    "albef": ("ve_dev.json", lambda k, label: {"image": "11", "sentence": f"h {k}", "label": label}),
    "p-adapter": (
        "snli_ve_dev.json",
        lambda k, label: {"img": "11.jpg", "hypothesis": "h", "label_s": label},
    ),
}
WORDS = {"albef": list(snli_ve.LABELS), "p-adapter": ["Correct", "Incorrect", "Ambiguous"]}


@pytest.mark.parametrize("form", LISTS)
def test_lists(root, form):
    name, made = LISTS[form]
    (root / name).write_text(json.dumps([made(k, label) for k, label in enumerate(WORDS[form])]))
    examples = read(root, form=form)
    assert [example.references for example in examples] == [(label,) for label in snli_ve.LABELS]
    assert [example.id for example in examples] == ["0", "1", "2"]
    for label in (0, "yes", None):
        (root / name).write_text(json.dumps([made(0, label)]))
        with pytest.raises(UserError, match=f"{name}: field 'label(_s)?' of record 0 is "):
            read(root, form=form)


def test_another_set_is_refused_by_name(root):
    (root / "esnlive_dev.csv").write_text("")
    for file in root.glob("snli_ve_*"):
        file.unlink()
    with pytest.raises(UserError, match="esnlive_dev.csv is of e-SNLI-VE, whose pairs and labels are others"):
        read(root)
    for split, form in (("dev", None), ("val", "nope")):
        with pytest.raises(UserError, match=f"'{split if form is None else form}'.*: choose from"):
            snli_ve.SNLI_VE.reader(root, split, form)
