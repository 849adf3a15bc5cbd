"""Answers of questions against an independent reading of question and scene."""

import re

import pytest

from experiments.scenes.questions import questions
from tests.experiments.scenes.reading import AN, BESIDE, NOUN, find, fits, stands, the, yes


def negated(phrase: str):
    """The things that are "red", "circles" or "a circle"."""
    return lambda thing: fits(phrase.removeprefix("a ").removeprefix("an "), thing)


def extreme(most: str, things: list[dict]) -> dict:
    axis, sign = {"leftmost": ("x", 1), "rightmost": ("x", -1), "highest": ("y", 1), "lowest": ("y", -1)}[
        most
    ]
    order = sorted(things, key=lambda thing: sign * thing[axis])
    assert abs(order[0][axis] - order[1][axis]) >= 8
    return order[0]


def only_beside(beside: str, noun: str, things: list[dict]) -> dict:
    anchor = the(noun, things)
    axis = "x" if "left" in beside or "right" in beside else "y"
    fitting = [
        thing for thing in things if abs(thing[axis] - anchor[axis]) >= 12 and stands(thing, beside, anchor)
    ]
    assert len(fitting) == 1
    return fitting[0]


def side_of(thing: dict, first: str) -> str:
    names, value = (
        (("left", "right"), thing["x"]) if first in ("left", "right") else (("top", "bottom"), thing["y"])
    )
    assert abs(value - 31.5) > 8
    return names[value > 31.5]


def only_not(phrase: str, things: list[dict]) -> dict:
    rest = [thing for thing in things if not negated(phrase)(thing)]
    assert len(rest) == 1
    return rest[0]


PHRASE = r"((?:an? )?[a-z]+(?: things)?)"
QUESTIONS = [  # pattern, answer from (things, *groups)
    (rf"is there no {NOUN} in the picture", lambda t, n: yes(not find(n, t))),
    (rf"is the picture without any {NOUN}", lambda t, n: yes(not find(n, t))),
    (rf"does the picture not show {AN}", lambda t, n: yes(not find(n, t))),
    (
        rf"(?:are there things that are|is there a thing that is) not {PHRASE}",
        lambda t, p: yes(any(not negated(p)(thing) for thing in t)),
    ),
    (
        rf"(?:how many things are not|what is the number of things that are not) {PHRASE}",
        lambda t, p: str(sum(not negated(p)(thing) for thing in t)),
    ),
    (rf"what (color|shape) is the only thing that is not {PHRASE}", lambda t, a, p: only_not(p, t)[a]),
    (
        rf"(?:is there|does the picture show|can you see) {AN}(?: in the picture| here)?",
        lambda t, n: yes(find(n, t)),
    ),
    (rf"are there any {NOUN}", lambda t, n: yes(find(n, t))),
    (rf"how many {NOUN} (?:are there|does the picture show)", lambda t, n: str(len(find(n, t)))),
    (rf"what is the number of {NOUN} in the picture", lambda t, n: str(len(find(n, t)))),
    (rf"what (color|shape) is the thing {BESIDE} the {NOUN}", lambda t, a, b, n: only_beside(b, n, t)[a]),
    (
        rf"what is the (color|shape) of the thing {BESIDE} the {NOUN}",
        lambda t, a, b, n: only_beside(b, n, t)[a],
    ),
    (r"what (color|shape) is the (\w+most|\w+est) thing", lambda t, a, m: extreme(m, t)[a]),
    (r"what is the (color|shape) of the (\w+most|\w+est) thing", lambda t, a, m: extreme(m, t)[a]),
    (rf"(?:what|which) (color|shape|size) is the {NOUN}", lambda t, a, n: the(n, t)[a]),
    (rf"what is the (color|shape) of the {NOUN}(?: in the picture)?", lambda t, a, n: the(n, t)[a]),
    (rf"the {NOUN} is what (shape)", lambda t, n, a: the(n, t)[a]),
    (rf"is the {NOUN} (small|large) or (small|large)", lambda t, n, a, b: the(n, t)["size"]),
    (rf"is the {NOUN} in the (\w+) half or the (\w+) half", lambda t, n, a, b: side_of(the(n, t), a)),
    (rf"on which side is the {NOUN}, (\w+) or (\w+)", lambda t, n, a, b: side_of(the(n, t), a)),
    (
        rf"(?:are there|does the picture show) more {NOUN} than {NOUN}",
        lambda t, a, b: yes(len(find(a, t)) > len(find(b, t))),
    ),
    (rf"are there as many {NOUN} as {NOUN}", lambda t, a, b: yes(len(find(a, t)) == len(find(b, t)))),
    (
        rf"is the number of {NOUN} the same as the number of {NOUN}",
        lambda t, a, b: yes(len(find(a, t)) == len(find(b, t))),
    ),
    (
        rf"(?:are there more|which are there more of,) {NOUN} or (?:more )?{NOUN}",
        lambda t, a, b: most(a, b, t),
    ),
    (rf"is the {NOUN} bigger than the {NOUN}", lambda t, a, b: yes(size_order(the(a, t), the(b, t)) > 0)),
    (rf"is the {NOUN} smaller than the {NOUN}", lambda t, a, b: yes(size_order(the(a, t), the(b, t)) < 0)),
    (
        rf"do the {NOUN} and the {NOUN} have the same (color|shape)",
        lambda t, a, b, w: yes(the(a, t)[w] == the(b, t)[w]),
    ),
    (
        rf"is the {NOUN} the same (color|shape) as the {NOUN}",
        lambda t, a, w, b: yes(the(a, t)[w] == the(b, t)[w]),
    ),
    (
        rf"(?:is|can) the {NOUN} (?:be found )?{BESIDE} the {NOUN}",
        lambda t, a, r, b: yes(stands(the(a, t), r, the(b, t))),
    ),
    (rf"is the {NOUN} (?:an? )?(\w+) or (?:an? )?(\w+)", lambda t, n, a, b: one_of(the(n, t), a, b)),
]


def most(a: str, b: str, things: list[dict]) -> str:
    m, n = len(find(a, things)), len(find(b, things))
    assert m != n
    return a if m > n else b


def size_order(a: dict, b: dict) -> int:
    return a["radius"] - b["radius"]


def one_of(thing: dict, a: str, b: str) -> str:
    values = [value for value in (a, b) if value in (thing["color"], thing["shape"])]
    assert len(values) == 1
    return values[0]


def answer(question: str, things: list[dict]) -> str:
    for pattern, read in QUESTIONS:
        match = re.fullmatch(pattern + r"\?", question)
        if match:
            return read(things, *match.groups())
    raise AssertionError(f"no reading for '{question}'")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_question_answers_agree_with_the_scene(split):
    for scene, asked in questions(split, 1500, seed=11):
        for question in asked:
            assert answer(question.text, scene.to_dict()["things"]) == question.answer, (question, scene)
