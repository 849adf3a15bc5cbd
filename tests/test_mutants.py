"""The measurement of the tests by changes of the code, on a project of one file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import near, sites_of, wilson, with_notes

TOOL = Path(__file__).parent / "mutants.py"
HOUSE = '''from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    LIMIT = 3 < 4


def area(width, height: "int" = 2):
    """Width times 2, that is."""
    return width * height


def first(items: tuple[int, 3]):
    for number, item in enumerate(items):
        if number > -1 and item:
            return f"{item * 1}"


def unused(x):
    x += 1
    return not x
'''
TESTS = """from functools import cache

from rooms.house import area, first


@cache
def made():
    return area(3)


def test_it_is_made():
    made()


def test_area():
    assert made() == 6


def test_first():
    assert first(["a"]) == first(["", "a"]) == "a"


def test_that_fails():
    assert first([0, 1]) == 1
"""
EXPECTED = {
    (9, "2", "3"): "killed",
    (11, "width * height", "width / height"): "killed",
    (16, "number > -1 and item", "not (number > -1 and item)"): "killed",
    (16, "number > -1 and item", "number > -1 or item"): "killed",
    (16, "number > -1", "number >= -1"): "survived",
    (16, "1", "2"): "survived",
    (21, "x += 1", "x -= 1"): "not reached",
    (21, "1", "2"): "not reached",
    (22, "not x", "x"): "not reached",
}


def test_what_is_changed_in_a_file():
    found = sites_of("rooms", "rooms/house.py", HOUSE)
    assert {(site.line, site.original, site.mutated) for site in found} == set(EXPECTED)
    assert len(found) == len(EXPECTED)


def test_notes_leave_a_file_as_it_is_otherwise():
    sites = sites_of("rooms", "rooms/house.py", HOUSE)
    noted = with_notes(HOUSE.encode(), dict(enumerate(sites)))
    assert noted.count(b"\n") == HOUSE.count("\n")
    seen: list[int] = []
    names = {"__site__": seen.append}
    exec(noted, names)
    assert [sites[k].line for k in seen] == [9]
    assert names["area"](4) == 8 and names["first"](["a"]) == "a" and names["unused"](-1)
    assert sorted(seen) == list(range(len(sites)))


def test_changes_are_killed_or_survive(tmp_path):
    for name, text in (("rooms/house.py", HOUSE), ("tests/test_house.py", TESTS)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    words = [sys.executable, TOOL, "--root", tmp_path, "--package", "rooms", "--out", tmp_path / "out"]
    for _ in range(2):  # the second time nothing is left to do
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "| rooms | 9 | 4 | 2 | 3 | 44.4% (18.9% to 73.3%) |" in done.stdout
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["left_out"] == ["tests/test_house.py::test_that_fails"]
    found = {(each["line"], each["original"], each["mutated"]): each for each in result["changes"]}
    assert {place: each["outcome"] for place, each in found.items()} == EXPECTED
    # The test that reaches the place passes; the other one has its result from the cache.
    assert found[9, "2", "3"]["by"] == "tests/test_house.py::test_area"
    assert (tmp_path / "rooms/house.py").read_text() == HOUSE


def test_near_tests():
    for test, shared in (
        ("tests/rooms/cellar/test_wine.py", 3),
        ("tests/rooms/cellar/test_beer.py", 2),
        ("tests/rooms/test_wine.py", 2),
        ("tests/roofs/test_tiles.py", 0),
    ):
        assert near(test, "rooms/cellar/wine.py") == shared


def test_interval_of_a_share():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
