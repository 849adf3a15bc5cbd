"""Records of JSON files one after the other: the same as all at once, and the same faults."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraph.errors import UserError
from experiments.datasets.streams import records

# A test before this one may have told the processor to take subnormal numbers for 0.
FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    content=st.lists(VALUES, max_size=5),
    others=st.dictionaries(st.text().filter(lambda name: name != "it"), VALUES, max_size=3),
    layout=st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}]),
    first=st.booleans(),
)
def test_the_same_as_all_at_once(tmp_path_factory, content, others, layout, first):
    file = tmp_path_factory.mktemp("records") / "file.json"
    whole = {"it": content, **others} if first else {**others, "it": content}
    file.write_bytes(json.dumps(content, **layout).encode("utf-8", "surrogatepass"))
    try:
        assert list(records(file)) == [(f"record {k}", value) for k, value in enumerate(content)]
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps(whole, **layout).encode("utf-8", "surrogatepass"))
        assert list(records(file, "it")) == [(f"it[{k}]", value) for k, value in enumerate(content)]
    except UserError as error:  # half a character cannot be written in UTF-8
        assert "no UTF-8 text" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("it", "", "Expecting value"),
        ("it", "{", "not valid JSON"),
        ("it", '{"it": [1, 2]', "Expecting ',' delimiter: line 1 column 14"),
        ("it", '{"it": [1, 2', "not valid JSON"),
        ("it", '{"it": [1, 2,]}', "not valid JSON .*line 1 column 1[34]"),
        ("it", '{"it": [1 2]}', "Expecting ',' delimiter: line 1 column 11"),
        ("it", '{"it": [1],}', "not valid JSON"),
        ("it", '{"it": [1]} {}', "Extra data"),
        ("it", '{"it" [1]}', "not valid JSON"),
        ("it", "{1: [1]}", "not valid JSON"),
        ("it", '{"it": [NaN]}', "NaN is no number"),
        ("it", '{"it": [' + "1" * 5000 + "]}", "not valid JSON"),
        ("it", '{"it": ' + "[" * 100_000, "nested too deeply"),
        ("it", '{"it": 3}', "field 'it' of the file is int"),
        ("it", "{}", "the file has no field 'it'"),
        ("it", "[1]", "the file is list, not an object"),
        (None, "{}", "the file is dict, not a list"),
        (None, "", "Expecting value"),
        (None, "[1,\n 2", "line 2 column 3"),
        (None, "[1]]", "Extra data"),
    ],
)
def test_faults_name_the_file_and_the_place(tmp_path, name, content, message):
    file = tmp_path / "file.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"^{file}: .*{message}"):
        list(records(file, name))


@pytest.mark.parametrize("content", ['{"it": [1]}'.encode("utf-16"), b'{"it": ["\xff"]}', b'{"it": [1]}\0'])
def test_other_encodings(tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(UserError, match="file.json: is no "):
        list(records(tmp_path / "file.json", "it"))


def test_crlf(tmp_path):
    (tmp_path / "file.json").write_bytes(b'{\r\n"it": [\r\n1,\r\n2\r\n]\r\n}\r\n')
    assert [value for _, value in records(tmp_path / "file.json", "it")] == [1, 2]
