"""The word list finds phrases where they are read, and only there."""

import pytest

from tests.docs.words import found


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.md", "# A picture\n\nIt goes\non, `beside` it.\n", [(1, "picture"), (3, "goes on")]),
        ("b.md", "[x](beside.md) $beside$\n```text\nbeside\n```\nthe p\nvalue\n", [(5, "p value")]),
        ("c.md", "There is no such file, and it is no longer there. This is no file.\n", [(1, "is no")]),
        ("d.py", 'def f():\n    """What is."""\n    beside = "beside"  # beside\n', [(2, "What")]),
        (
            "f.ipynb",
            '{"cells": [{"cell_type": "code", "source": ["a picture"]}, '
            '{"cell_type": "markdown", "source": ["# x\\n", "\\n", "a picture"]}]}',
            [(2, "picture")],
        ),
        (
            "g.py",
            '"""Sum.\n\n    Args:\n        cells: a cell.\n"""\nf"{cells} it is None"\n',
            [(4, "cell")],
        ),
        ("e.py", 'raise ValueError(f"{1} lies in\\nthe way of it", "a  file of its own")\n', None),
    ],
)
def test_phrases_are_found_in_prose(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    shown = sorted((line, phrase) for line, phrase, _ in found(tmp_path / name))
    assert shown == (expected or [(1, "lies in"), (1, "of its own")])
