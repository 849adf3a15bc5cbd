"""What all readers share: one line for what is damaged, whatever it is."""

import json
import os

import pytest

from attngraph.errors import UserError
from attngraph.experiments.base.reading import (
    Damaged,
    Pictures,
    Record,
    Unique,
    read_json,
    read_text,
    records,
    shown,
)


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message.isprintable() and len(message) < 500, message
    return message


def test_lines_of_json(tmp_path):
    """A byte order mark is no fault, and only a line feed ends a line."""
    texts = ["a\u2028b", "c\u0085d", "g\u2029h", "\U0001f600"]
    lines = [json.dumps({"a": text}, ensure_ascii=text == texts[-1]) for text in texts]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(lines).encode())
    found = list(records(tmp_path / "a.jsonl"))
    assert found == [(f"line {n}", {"a": text}) for n, text in zip((1, 3, 5, 7), texts)]
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    assert read_json(tmp_path / "a.json") == {"a": "é"}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "Expecting property name"),
        ("[1, -Infinity]", "-Infinity is not a number in JSON"),
        ("[" * 100_000, "lists or objects are nested too deeply"),
        ("1" * 5000, ".*4300 digits"),
        ('{"a": "half \\ud83d"}', r"half a character: '\\ud83d'"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path, content, message):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"a.json: not valid JSON .{message}.*write the file again") as error:
        read_json(file)
    one_line(error)
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"a": 1}\n' + content)
    (_, whole), (where, damaged) = records(lines)
    assert whole == {"a": 1} and where == "line 2" and isinstance(damaged, Damaged)
    with pytest.raises(Damaged, match=f"a.jsonl: line 2 is not valid JSON .{message}"):
        Record(damaged, lines, where).field("a", int)


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "utf16").write_text("{}", encoding="utf-16")
    (tmp_path / "zero").write_bytes(bytes(9))
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for name, message in (
        ("absent", "no such file; check the path"),
        ("", "is not a file; check the path"),
        ("pipe", "is not a file; check the path"),
        ("utf16", "is not UTF-8 text .*write the file again in UTF-8"),
        ("zero", "is not text .it contains a zero byte"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_text(tmp_path / name)
        assert str(tmp_path) in one_line(error)


def test_fields_are_checked():
    def record(content) -> Record:
        return Record({"a": content}, "q.json", "x")

    assert record(["", "b"]).texts("a") == ("", "b") == record([{"t": ""}, {"t": "b"}]).texts("a", item="t")
    assert record([" b\n"]).captions("a") == ("b",)
    for field, message in (
        (lambda: Record([], "q.json", "x").text("a"), "x is list, not an object"),
        (lambda: Record({}, "q.json", "x").text("a"), "x has no field 'a'"),
        (lambda: record(True).text("a"), "field 'a' of x is bool"),
        (lambda: record(" \n\u3000").text("a"), "field 'a' of x is empty; fill it in, or remove x"),
        (lambda: record("c").one_of("a", ("a", "b")), "field 'a' of x is 'c'; use a, b"),
        (lambda: record(["a", None]).texts("a"), r"'a\[1\]' of x is NoneType, not a text"),
        (lambda: record([{"t": "a"}, []]).texts("a", item="t"), r"'a\[1\]' of x is list, not a text"),
        (lambda: record(["a"]).texts("a", least=2), "field 'a' of x has 1 entries, at least 2 are required"),
        (lambda: record(["a", " "]).captions("a"), r"'a\[1\]' of x is empty"),
    ):
        with pytest.raises(Damaged, match=f"q.json: {message}"):
            field()


def test_values_are_shown_on_one_short_line():
    assert shown("maybe") == "'maybe'" and shown(7) == "7"
    for value in ("a\nb\u2028c\x1b[0m", "\ud800", "x" * 10**6, 10**4000, [["x"] * 1000] * 1000):
        assert shown(value).isprintable() and len(shown(value)) < 400


def test_ids_that_occur_twice_are_refused():
    ids = Unique("q.json", "id")
    ids.add(1, "questions[0]")
    ids.add("2", "questions[1]")
    for value in (1, "1"):  # files of predictions have both as texts
        with pytest.raises(UserError, match=rf"questions\[2\] has the id of questions\[0\], {value!r}; rem"):
            ids.add(value, "questions[2]")


def test_image_folders_that_cannot_be_read_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    record = Record({}, "q.json", "line 2")
    for name, fault in {"absent": "No such file", "null\0": "null", "file": "Not a directory"}.items():
        with pytest.raises(UserError, match=f"not a readable image folder .*{fault}") as error:
            Pictures(tmp_path).path(name, "a", record)
        assert not isinstance(error.value, Damaged), "no fault of one record"
    for folder in ("..", "/etc", "a/../.."):
        with pytest.raises(Damaged, match="line 2 has its image in .*, outside "):
            Pictures(tmp_path).path(folder, "a", record)


@pytest.mark.parametrize(
    ("there", "name"), [("a.jpg", "a"), ("a.JPG", "a.jpg"), ("a.png", "a.jpg"), ("a.JPEG", "a.png")]
)
def test_images_are_found_with_whatever_suffix_they_have(tmp_path, there, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / there).touch()
    found = Pictures(tmp_path).path("images", name, Record({}, "q.json", "line 2"))
    assert found == tmp_path / "images" / there
