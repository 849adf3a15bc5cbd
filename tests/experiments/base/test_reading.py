"""What all readers share: one line for what is damaged, whatever it is."""

import json
import os

import pytest

from attngraph.errors import UserError
from experiments.base.reading import (
    Damaged,
    Pictures,
    Record,
    Unique,
    read_json,
    read_text,
    records,
    shown,
)

LONE = '{"question": "half \\ud83d"}'


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message.isprintable() and len(message) < 500, message
    return message


def parsed(file):
    return list(records(file))


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert read_json(tmp_path / "a.json") == {"a": "é"}
    assert parsed(tmp_path / "a.jsonl") == [("line 1", {"a": 1}), ("line 2", {"a": 2})]


def test_only_a_line_feed_ends_a_line(tmp_path):
    texts = ["a\u2028b", "c\u0085d", "e\x0cf", "g\u2029h"]
    lines = [json.dumps({"a": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "a.jsonl").write_bytes("\n\n".join(lines).replace("\x0c", "\\f").encode())
    assert [record["a"] for _, record in parsed(tmp_path / "a.jsonl")] == texts
    assert [where for where, _ in parsed(tmp_path / "a.jsonl")] == [f"line {n}" for n in (1, 3, 5, 7)]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "not valid JSON .*Expecting value"),
        ("{", "not valid JSON"),
        ('{"a": NaN}', "not valid JSON .NaN is no number in JSON"),
        ("[1, -Infinity]", "not valid JSON .-Infinity is no number in JSON"),
        ("[" * 100_000, "not valid JSON .its lists or objects are nested too deeply"),
        ('{"a":' * 100_000, "not valid JSON .its lists or objects are nested too deeply"),
        ("1" * 5000, "not valid JSON .*4300 digits"),
        ("{}{}", "not valid JSON .*Extra data"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path, content, message):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"a.json: {message}.*write the file again") as error:
        read_json(file)
    one_line(error)
    if content:
        lines = tmp_path / "a.jsonl"
        lines.write_text('{"a": 1}\n' + content)
        (_, whole), (where, damaged) = parsed(lines)
        assert whole == {"a": 1} and where == "line 2" and isinstance(damaged, Damaged)
        with pytest.raises(Damaged, match=f"a.jsonl: line 2 is {message}") as error:
            Record(damaged, lines, where).field("a", int)
        one_line(error)


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "utf16").write_text("{}", encoding="utf-16")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for name, message in (
        ("absent", "no such file; check the path"),
        ("", "is no file; check the path"),
        ("pipe", "is no file; check the path"),
        ("utf16", "is no UTF-8 text .*write the file again in UTF-8"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_text(tmp_path / name)
        assert str(tmp_path) in one_line(error)


def test_fields_are_checked(tmp_path):
    for record, message in (
        (None, "questions\\[3\\] is NoneType, not an object"),
        ([], "is list, not an object"),
        ({}, "has no field 'question'"),
        ({"question": None}, "field 'question' of questions\\[3\\] is NoneType"),
        ({"question": True}, "is bool"),
        ({"question": {"a": []}}, "is dict"),
        ({"question": ""}, "field 'question' of questions\\[3\\] is empty; write it, or leave questions"),
        ({"question": " \n\u3000"}, "is empty"),
        (json.loads(LONE), "field 'question' of questions\\[3\\] holds half a character .'half .ud83d'"),
    ):
        with pytest.raises(UserError, match=f"q.json: .*{message}") as error:
            Record(record, "q.json", "questions[3]").text("question")
        one_line(error)
    assert Record({"question": " é?"}, "q.json", "x").text("question") == " é?"
    assert Record({"id": 10**4000}, "q.json", "x").field("id", int) == 10**4000
    with pytest.raises(UserError, match="field 'id' of x is bool"):
        Record({"id": True}, "q.json", "x").field("id", int)


def test_lists_of_texts_are_checked():
    def texts(content, **options):
        return Record({"a": content}, "q.json", "x").texts("a", **options)

    assert texts(["", "b"]) == ("", "b") == texts([{"t": ""}, {"t": "b"}], item="t")
    for content, options, message in (
        (["a", None], {}, r"field 'a\[1\]' of x is NoneType"),
        (["a", "\ud800"], {}, r"field 'a\[1\]' of x holds half a character"),
        ([{"t": "a"}, "b"], {"item": "t"}, r"x.a\[1\] is str, not an object"),
        ([{"t": "a"}, {}], {"item": "t"}, r"x.a\[1\] has no field 't'"),
        (["a"], {"least": 2}, "field 'a' of x has 1 entries, at least 2 are due"),
    ):
        with pytest.raises(Damaged, match=f"q.json: {message}"):
            texts(content, **options)


def test_values_are_shown_on_one_short_line():
    assert shown("maybe") == "'maybe'" and shown(7) == "7"
    for value in ("a\nb\u2028c\x1b[0m", "\ud800", "x" * 10**6, "\n" * 10**6, 10**4000, [["x"] * 1000] * 1000):
        assert shown(value).isprintable() and len(shown(value)) < 400


def test_ids_that_occur_twice_are_refused():
    ids = Unique("q.json", "question_id")
    ids.add(1, "questions[0]")
    ids.add("1", "questions[1]")
    with pytest.raises(
        UserError,
        match=r"q.json: questions\[2\] has the question_id 1, which questions\[0\] has too; remove one",
    ):
        ids.add(1, "questions[2]")


def test_image_folders_that_cannot_be_one_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    record = Record({}, "q.json", "line 2")
    for name, fault in {
        "absent": "no such image folder; check the path or unpack",
        "null\0": "no such image folder",
        "file": "is no folder; move it away and unpack the images there",
        "loop": "cannot be read .Too many levels of symbolic links.; check the path",
        "x" * 5000: "cannot be read .File name too long.; check the path",
    }.items():
        with pytest.raises(UserError, match=fault) as error:
            Pictures(tmp_path).path(name, "a", record)
        assert not isinstance(error.value, Damaged)  # no fault of one record
    for folder in ("..", "/etc", "a/../.."):
        with pytest.raises(Damaged, match="line 2 has its image in .*, outside "):
            Pictures(tmp_path).path(folder, "a", record)
    (tmp_path / "images" / "below").mkdir(parents=True)
    (tmp_path / "images" / "below" / "b.png").touch()
    for name, remedy in {
        "a\nb": "unpack all",
        "b": "it is one folder below: move the content of .*below there",
    }.items():
        with pytest.raises(
            Damaged, match=f"no such image as .*, though line 2 of q.json needs it; {remedy}"
        ) as error:
            Pictures(tmp_path).path("images", name, record)
        one_line(error)


@pytest.mark.parametrize(
    ("there", "name"),
    [("a.jpg", "a"), ("a.JPG", "a.jpg"), ("a.png", "a.jpg"), ("a.JPEG", "a.png"), ("a.png", "a")],
)
def test_images_are_found_with_whatever_suffix_they_have(tmp_path, there, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / there).touch()
    found = Pictures(tmp_path).path("images", name, Record({}, "q.json", "line 2"))
    assert found == tmp_path / "images" / there
