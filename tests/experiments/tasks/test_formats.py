"""Files of predictions, and files that ask: what is written is read back, and every fault is one line that
names its place.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attngraph.errors import UserError
from experiments.tasks.formats import (
    ANSWERABILITY,
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

#: Format, ids, values, and the file's content as the server takes it.
WRITTEN = [
    (
        VQA_RESULTS,
        {"262148000": "yes", "7": "2"},
        [{"question_id": 262148000, "answer": "yes"}, {"question_id": 7, "answer": "2"}],
    ),
    (VIZWIZ, {"VizWiz_val_00000000.jpg": "no"}, [{"image": "VizWiz_val_00000000.jpg", "answer": "no"}]),
    (ANSWERABILITY, {"a.jpg": 0.25, "b.jpg": 1}, [{"image": "a.jpg", "answerable": 0.25},
                                                {"image": "b.jpg", "answerable": 1}]),
    (SNLI_VE, {"1.jpg#0r1e": "neutral"}, [{"pairID": "1.jpg#0r1e", "label": "neutral"}]),
    (CAPTIONS, {"42": "a red ball"}, [{"image_id": 42, "caption": "a red ball"}]),
    (TEXTCAPS, {"00000000000000aa": "x"}, [{"image_id": "00000000000000aa", "caption": "x"}]),
    (PLAIN, {"test-0": "red"}, [{"id": "test-0", "answer": "red"}]),
]  # fmt: skip


@pytest.mark.parametrize("form, predictions, content", WRITTEN, ids=lambda value: getattr(value, "name", ""))
def test_the_servers_formats(form, predictions, content, tmp_path):
    file = write_predictions(tmp_path / "results.json", form, predictions, list(predictions))
    assert json.loads(file.read_text()) == content
    assert read_predictions(file, form, list(predictions)) == predictions
    assert json.loads(form.sample).keys() == content[0].keys()
    (value,) = (json.loads(form.sample)[form.value_field],)
    assert form.fault(value, False) is None and type(json.loads(form.sample)[form.id_field]) is form.id_type


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=6))
def test_any_text_comes_back(tmp_path_factory, texts):
    said = {str(number): f"{text}x" for number, text in enumerate(texts)}
    file = tmp_path_factory.mktemp("texts") / "file.json"
    for form in (VQA_RESULTS, TEXTCAPS):
        write_predictions(file, form, said, list(said)[::-1])
        found = read_predictions(file, form, list(said))
        assert found == said and list(found) == list(said)
        assert [str(record[form.id_field]) for record in json.loads(file.read_text())] == list(said)[::-1]


def test_generated_texts_become_labels(tmp_path):
    said = {"a": "Correct", "b": " incorrect.", "c": "maybe", "d": "neutral", "e": "a dog", "f": ""}
    file = write_predictions(tmp_path / "file.json", SNLI_VE, said, list(said))
    labels = dict(zip(said, ["entailment", "contradiction", "neutral", "neutral", "-", "-"], strict=True))
    assert read_predictions(file, SNLI_VE, list(said)) == labels
    (tmp_path / "cell.json").write_text(json.dumps(said))
    assert read_predictions(tmp_path / "cell.json", SNLI_VE, list(said)) == labels


def test_more_fields_and_another_order_do_not_matter(tmp_path):
    """As in TextCaps' files of MMF, whose records have two more, which its own evaluator leaves aside too."""
    (tmp_path / "x.json").write_text('[{"id": "b", "answer": "2", "x": 1}, {"answer": "1", "id": "a"}]\r\n')
    assert list(read_predictions(tmp_path / "x.json", PLAIN, ["a", "b"]).items()) == [("a", "1"), ("b", "2")]
    (tmp_path / "mmf.json").write_text('[{"image_id": 54, "caption_id": 7, "caption": "a <sign>"}]')
    with pytest.raises(UserError, match="field 'image_id' of .0. is a whole number; give a record such as"):
        read_predictions(tmp_path / "mmf.json", TEXTCAPS, ["54"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from([VQA_RESULTS, VIZWIZ, ANSWERABILITY, SNLI_VE, CAPTIONS, TEXTCAPS, PLAIN]),
    place=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 3),
    put=st.sampled_from([b"", b",", b"]", b"{", b'"', b"NaN", b"1", b"-", b"\xff", b"\r\n", b"\xef\xbb\xbf",
                         b"\\ud800", b"\x00", b"null", b"1e999", b"true", b"\xe2\x80\xa8"]),
)  # fmt: skip
def test_a_file_with_a_broken_place_is_read_or_refused_in_one_line(form, place, length, put, tmp_path):
    sample = json.loads(form.sample)
    records = [sample | {form.id_field: form.id_type(number)} for number in (1, 22, 333)]
    content = json.dumps(records).encode()
    at = int(place * (len(content) + 1))
    file = tmp_path / "mine.json"
    file.write_bytes(content[:at] + put + content[at + length :])
    try:
        found = read_predictions(file, form, ["1", "22", "333"])
    except UserError as error:
        assert str(error).startswith(f"{file}: ") and len(str(error).splitlines()) == 1
        assert "\n" not in str(error) and ";" in str(error)
    else:
        assert list(found) == ["1", "22", "333"]
        assert all(form.fault(value, False) is None for value in found.values())
        again = write_predictions(tmp_path / "again.json", form, found, list(found))
        assert read_predictions(again, form, list(found)) == found


FAULTS = [
    (PLAIN, '[{"id": "a", "answer": "1"}]', "no prediction for 1 of 2 examples, first 'b'; give one"),
    (PLAIN, '[{"id": "c", "answer": "1"}]', r"\[0\] is about id 'c', which these data do not have; give"),
    (PLAIN, '{"c": "1"}', "the entry 'c' is about id 'c', which these data do not have"),
    (PLAIN, '[{"id": "a", "answer": "1"}, {"id": "a", "answer": "1"}]',
     r"\[1\] has the id 'a', which \[0\] has too; remove one"),
    (PLAIN, '[{"id": "a", "answer": 1}]', r"field 'answer' of \[0\] is a whole number, not text; write"),
    (PLAIN, '{"a": 1}', "the entry 'a' is a whole number, not text"),
    (PLAIN, '[{"id": "a", "answer": " "}]', r"field 'answer' of \[0\] is empty; write an answer, or allow"),
    (PLAIN, '{"a": ""}', "the entry 'a' is empty"),
    (PLAIN, '{"a": "1", "b": "2", "a": "3"}', "has the entry 'a' twice; remove one"),
    (PLAIN, r'[{"id": "a", "answer": "\ud800"}]', r"field 'answer' of \[0\] holds half a character"),
    (PLAIN, r'[{"id": "\ud800", "answer": "1"}]', r"field 'id' of \[0\] holds half a character"),
    (PLAIN, '[{"id": 1, "answer": "1"}]', r"field 'id' of \[0\] is a whole number; give a record such as"),
    (PLAIN, '[{"answer": "1"}]', r"\[0\] has no field 'id'; give answers, records such as"),
    (PLAIN, '[["a", "1"]]', r"\[0\] is a list; give a record such as"),
    (PLAIN, '"a"', "holds text, no list; write answers as a list of records"),
    (PLAIN, "", "not valid JSON"),
    (PLAIN, '\ufeff[{"id": "a", "answer": "1"}, {"id": "b", "answer": "1"}]', "byte order mark"),
    (VQA_RESULTS, '[{"question_id": "1", "answer": "1"}]', r"field 'question_id' of \[0\] is text; give"),
    (VQA_RESULTS, '[{"question_id": true, "answer": "1"}]', r"field 'question_id' of \[0\] is true or false"),
    (ANSWERABILITY, '[{"image": "a", "answerable": 1.5}]', r"'answerable' of \[0\] is 1.5; give"),
    (ANSWERABILITY, '[{"image": "a", "answerable": "1"}]', r"'answerable' of \[0\] is text; give"),
    (ANSWERABILITY, '[{"image": "a", "answerable": true}]', r"'answerable' of \[0\] is true or false; give"),
    (ANSWERABILITY, '[{"image": "a", "answerable": 1' + "0" * 500 + "}]", "give a number from 0 to 1"),
    (SNLI_VE, '[{"pairID": "a", "label": "Entailment"}]', r"'label' of \[0\] is 'Entailment'; give one"),
    (SNLI_VE, '[{"pairID": "a", "label": 2}]', r"'label' of \[0\] is a whole number; give one of"),
]  # fmt: skip


@pytest.mark.parametrize("form, content, message", FAULTS)
def test_faults_are_named(form, content, message, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_predictions(file, form, ["a", "b"])
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)


def test_empty_answers_can_be_allowed(tmp_path):
    file = tmp_path / "mine.json"
    with pytest.raises(UserError, match="field 'answer' of the example 'a' is empty"):
        write_predictions(file, PLAIN, {"a": ""}, ["a"])
    assert not file.exists()
    write_predictions(file, PLAIN, {"a": ""}, ["a"], allow_empty=True)
    assert read_predictions(file, PLAIN, ["a"], allow_empty=True) == {"a": ""}


@pytest.mark.parametrize(
    "form, predictions, message",
    [
        (PLAIN, {"a": "1"}, "no prediction for 1 of 2 examples, first 'b'; give one"),
        (PLAIN, {"a": "1", "b": "2", "c": "3"}, "1 predictions are about no example, first 'c'"),
        (PLAIN, {"a": "1", "b": 2}, "field 'answer' of the example 'b' is a whole number, not text"),
        (VQA_RESULTS, {"a": "1", "b": "2"}, "the example 'a' cannot stand in a file of VQA v2 results"),
        (ANSWERABILITY, {"a": 0.5, "b": 2}, "field 'answerable' of the example 'b' is 2; give a number"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(form, predictions, message, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text("old")
    with pytest.raises(UserError, match=message):
        write_predictions(file, form, predictions, ["a", "b"])
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("id", ["01", " 1", "1_0", "１", "1.0", ""])
def test_an_id_that_would_come_back_as_another_is_refused(id, tmp_path):
    with pytest.raises(UserError, match="cannot stand in a file of COCO caption results"):
        write_predictions(tmp_path / "x.json", CAPTIONS, {id: "a"}, [id])


def test_what_the_official_evaluation_leaves_out_may_be_there(tmp_path):
    file = tmp_path / "theirs.json"
    file.write_text('[{"id": "a", "answer": "1"}, {"id": "left out", "answer": ""}]')
    assert read_predictions(file, PLAIN, ["a"], unscored={"left out"}) == {"a": "1"}
    with pytest.raises(UserError, match=r"\[1\] is about id 'left out', which these data do not have"):
        read_predictions(file, PLAIN, ["a"])


# ---- files of pictures and texts that a user asks a run about --------------------------------------------


def test_captions_need_pictures_alone(tmp_path):
    (tmp_path / "asked.json").write_text('[{"image": "photo.jpg", "mine": 3}]')
    (ask,) = read_asks(tmp_path / "asked.json", with_text=False)
    assert (ask.image, ask.text, ask.record["mine"]) == (tmp_path / "photo.jpg", "", 3)


GOOD = '{"image": "photo.jpg", "text": "is there a square ?"}\n'


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("asked.jsonl", GOOD + '{"text": "what ?"}', "line 2 has no field 'image': give each image and text"),
        ("asked.jsonl", GOOD + '{"image": "photo.jpg"}', "line 2 has no field 'text'"),
        ("asked.jsonl", GOOD + GOOD.replace("{", '{"answer": "no", '), "line 2 has a field 'answer', where"),
        *(("asked.jsonl", f'{{"image": "a.jpg", "text": "what ?", "{name}": "\\ud83d"}}',
           "line 1 holds half a character|of line 1 holds half a character")
          for name in ("image", "text", "note")),
        ("asked.json", GOOD, "is dict, not a list"),
        ("asked.json", "[]", "holds no records: write one for each picture, with image and text"),
        ("asked.csv", "image,text\na.jpg\n", "row 2 has not as many cells as the first row"),
        ("asked.csv", 'image,text\na.jpg,"x', "is no CSV"),
        ("asked.txt", GOOD, "is no file of records: give one that ends with .json, .jsonl, .csv"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_asks(tmp_path / name, with_text=True)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
