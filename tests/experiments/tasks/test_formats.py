"""Files of predictions, and files that ask: what is written is read back, and every fault is one line that
names its place.
"""

import json

import pytest

from attngraph.errors import UserError
from attngraph.experiments.tasks.formats import (
    CAPTIONS,
    PLAIN,
    SNLI_VE,
    TEXTCAPS,
    VIZWIZ,
    VQA_RESULTS,
    read_asks,
    read_predictions,
    write_predictions,
)

#: Format, predictions, and the file's content as the server takes it.
WRITTEN = [
    (
        VQA_RESULTS,
        {"262148000": "yes", "7": "2"},
        [{"question_id": 262148000, "answer": "yes"}, {"question_id": 7, "answer": "2"}],
    ),
    (VIZWIZ, {"VizWiz_val_00000000.jpg": "no"}, [{"image": "VizWiz_val_00000000.jpg", "answer": "no"}]),
    (SNLI_VE, {"1.jpg#0r1e": "neutral"}, [{"pairID": "1.jpg#0r1e", "label": "neutral"}]),
    (CAPTIONS, {"42": "a red ball"}, [{"image_id": 42, "caption": "a red ball"}]),
    (TEXTCAPS, {"00000000000000aa": "x"}, [{"image_id": "00000000000000aa", "caption": "x"}]),
    (PLAIN, {"test-0": "red"}, [{"id": "test-0", "answer": "red"}]),
]


@pytest.mark.parametrize("form, predictions, content", WRITTEN, ids=lambda value: getattr(value, "name", ""))
def test_the_servers_formats(form, predictions, content, tmp_path):
    file = write_predictions(tmp_path / "results.json", form, predictions, list(predictions))
    assert json.loads(file.read_text()) == content
    assert read_predictions(file, form, list(predictions)) == predictions


def test_generated_texts_become_labels(tmp_path):
    said = {"a": "Correct", "b": " incorrect.", "c": "maybe", "d": "neutral", "e": "a dog", "f": ""}
    file = write_predictions(tmp_path / "file.json", SNLI_VE, said, list(said))
    labels = dict(zip(said, ["entailment", "contradiction", "neutral", "neutral", "-", "-"], strict=True))
    assert read_predictions(file, SNLI_VE, list(said)) == labels
    (tmp_path / "predictions.json").write_text(json.dumps(said))
    assert read_predictions(tmp_path / "predictions.json", SNLI_VE, list(said)) == labels


def test_what_may_be_in_a_file(tmp_path):
    """More fields (as in files of MMF), another order, what the official evaluation leaves out, and
    empty answers where they are allowed."""
    file = tmp_path / "x.json"
    file.write_text('[{"id": "b", "answer": "2", "x": 1}, {"answer": "1", "id": "a"}, {"id": "c"}]\r\n')
    assert list(read_predictions(file, PLAIN, ["a", "b"], unscored={"c"}).items()) == [("a", "1"), ("b", "2")]
    write_predictions(file, PLAIN, {"a": ""}, ["a"])
    assert read_predictions(file, PLAIN, ["a"], allow_empty=True) == {"a": ""}


@pytest.mark.parametrize(
    "form, content, message",
    [
        (PLAIN, '[{"id": "a", "answer": "1"}]', "no prediction for 1 of 2 examples, first 'b'; provide one"),
        (PLAIN, '{"c": "1"}', "the entry 'c' is about id 'c', which is not in these data; use"),
        (PLAIN, '[{"id": "a", "answer": "1"}, {"id": "a", "answer": "1"}]', r"\[1\] has the id of \[0\]"),
        (PLAIN, '[{"id": "a", "answer": 1}]', r"field 'answer' of \[0\] is int; use answers, a list of"),
        (PLAIN, '[{"id": "a", "answer": " "}]', r"field 'answer' of \[0\] is empty; add an answer, or"),
        (PLAIN, '[{"answer": "1"}]', r"\[0\] has no field 'id'; use answers, a list of records such as"),
        (PLAIN, '"a"', "the file is str, not a list; use answers"),
        (VQA_RESULTS, '[{"question_id": true, "answer": "1"}]', r"field 'question_id' of \[0\] is bool"),
        (SNLI_VE, '[{"pairID": "a", "label": "Entailment"}]', r"'label' of \[0\] is 'Entailment'; use ent"),
    ],
)
def test_faults_are_named(form, content, message, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_predictions(file, form, ["a", "b"])
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)


def test_nothing_is_written_where_an_id_is_of_another_format(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text("old")
    with pytest.raises(UserError, match="the example 'b' cannot be in a file of VQA v2 results"):
        write_predictions(file, VQA_RESULTS, {"1": "1", "b": "2"}, ["1", "b"])
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


# ---- files of pictures and texts that a user asks a run about --------------------------------------------


GOOD = '{"image": "photo.jpg", "text": "is there a square ?"}\n'


def test_captions_need_pictures_alone(tmp_path):
    file = tmp_path / "asked.jsonl"
    file.write_text('{"image": "photo.jpg", "mine": 3, "text": ""}')
    assert read_asks(file, with_text=False) == [{"image": "photo.jpg", "mine": 3, "text": ""}]
    file.write_text(GOOD)
    assert len(read_asks(file, with_text=True)) == 1
    with pytest.raises(UserError, match="line 1 has a field 'text'; remove it"):
        read_asks(file, with_text=False)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("asked.jsonl", GOOD + '{"text": "what ?"}', "line 2 has no field 'image'; each record needs image"),
        ("asked.jsonl", GOOD + GOOD.replace("{", '{"answer": "no", '), "line 2 has a field 'answer'; remove"),
        ("asked.json", "[]", "has no records; add one for each image, with image and text"),
        ("asked.txt", GOOD, "is not a file of records; use a file that ends with .json or .jsonl"),
    ],
)
def test_what_cannot_be_asked_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_asks(tmp_path / name, with_text=True)
    assert str(tmp_path / name) in str(error.value)
