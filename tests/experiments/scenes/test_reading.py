"""Questions, hypotheses and captions against an independent reading of text and scene."""

import re
from itertools import pairwise

from attngraph.experiments.scenes.captions import caption_scenes, captions
from attngraph.experiments.scenes.hypotheses import hypotheses
from attngraph.experiments.scenes.questions import questions
from tests.experiments.scenes.reading import (
    AN,
    BESIDE,
    NOUN,
    NUMBERS,
    all_are,
    counted,
    find,
    fits,
    stands,
    the,
    worlds,
    yes,
)

# ---- questions ---------------------------------------------------------------------------------------------


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


def test_question_answers_agree_with_the_scene():
    for scene, asked in questions("train", 2500, seed=11):
        for question in asked:
            assert answer(question.text, scene.to_dict()["things"]) == question.answer, (question, scene)


# ---- hypotheses: what the curtain might hide is tried ------------------------------------------------------

COUNTED = r"(exactly|at least|at most) (\w+)"
FACTS = [
    (rf"there is {AN}(?: in the picture)?", lambda t, n: bool(find(n, t))),
    (rf"one of the things is {AN}", lambda t, n: bool(find(n, t))),
    (rf"the picture has {AN} in it", lambda t, n: bool(find(n, t))),
    (rf"there is no {NOUN}", lambda t, n: not find(n, t)),
    (rf"no {NOUN} is in the picture", lambda t, n: not find(n, t)),
    (rf"the picture is without {AN}", lambda t, n: not find(n, t)),
    (rf"none of the things is {AN}", lambda t, n: not find(n, t)),
    (rf"there (?:is|are) {COUNTED} {NOUN}", lambda t, h, k, n: counted(h, k, n, t)),
    (rf"{COUNTED} {NOUN} (?:is|are) in the picture", lambda t, h, k, n: counted(h, k, n, t)),
    (r"not (?:every|all) (\w+) (?:is|are) (\w+)", lambda t, s, c: not all_are(s, c, t)),
    (r"some of the (\w+) are not (\w+)", lambda t, s, c: not all_are(s, c, t)),
    (r"every (\w+) is (\w+)", lambda t, s, c: all_are(s, c, t)),
    (r"all (?:of the )?(\w+) (?:in the picture )?are (\w+)", lambda t, s, c: all_are(s, c, t)),
]
HAS = rf"the {NOUN} (?:in the picture )?is (\w+)"
RELATED = rf"the {NOUN} (?:is|can be found) {BESIDE} the {NOUN}"
HIDDEN_CENTERS = {
    "left": [(10, y) for y in (10, 32, 54)],
    "right": [(54, y) for y in (10, 32, 54)],
    "top": [(x, 10) for x in (10, 32, 54)],
    "bottom": [(x, 54) for x in (10, 32, 54)],
}


def label_of(text: str, scene: dict) -> str:
    if match := re.fullmatch(RELATED, text):
        return related_label(*match.groups(), scene)
    if match := re.fullmatch(HAS, text):
        named = find(match[1], scene["things"])
        if not named:
            assert scene["curtain"]
            return "neutral"
        assert len(named) == 1
        return "entailment" if match[2] in (named[0]["color"], named[0]["size"]) else "contradiction"
    for pattern, read in FACTS:
        if match := re.fullmatch(pattern, text):
            verdicts = {read(things, *match.groups()) for things in worlds(text, scene)}
            return (
                "neutral" if len(verdicts) == 2 else "entailment" if verdicts == {True} else "contradiction"
            )
    raise AssertionError(f"no reading for '{text}'")


def related_label(first: str, beside: str, second: str, scene: dict) -> str:
    a, b = find(first, scene["things"]), find(second, scene["things"])
    assert len(a) <= 1 and len(b) <= 1
    if a and b:
        return "entailment" if stands(a[0], beside, b[0]) else "contradiction"
    assert scene["curtain"] and (a or b)
    hidden = [{"x": x, "y": y} for x, y in HIDDEN_CENTERS[scene["curtain"]]]
    axis = "x" if "left" in beside or "right" in beside else "y"
    pairs = [(a[0], other) if a else (other, b[0]) for other in hidden]
    possible = [pair for pair in pairs if abs(pair[0][axis] - pair[1][axis]) >= 12]
    return "neutral" if any(stands(one, beside, other) for one, other in possible) else "contradiction"


def test_hypothesis_labels_agree_with_what_the_curtain_may_hide():
    for scene, claimed in hypotheses("train", 1500, seed=12):
        for hypothesis in claimed:
            assert label_of(hypothesis.text, scene.to_dict()) == hypothesis.answer, (hypothesis, scene)


# ---- captions: the right things in the right order ---------------------------------------------------------

PLACES = {
    "left": (0, 1),
    "right": (2, 1),
    "top": (1, 0),
    "bottom": (1, 2),
    "middle": (1, 1),
    "top left": (0, 0),
    "top right": (2, 0),
    "bottom left": (0, 2),
    "bottom right": (2, 2),
}


def test_captions_name_the_things_in_order_and_truly():
    for scene in caption_scenes("train", 400, seed=13):
        things = sorted(scene.to_dict()["things"], key=lambda thing: (thing["x"] // 22, thing["y"]))
        texts = captions(scene, seed=13)
        assert len(set(texts)) == len(texts) == 5
        for text in texts:
            assert len(text.split()) <= 20
            body, _, side = text.partition(", beside a curtain at the ")
            assert not side or side == scene.curtain
            body = re.sub(r"^the only thing here is ", "", body)
            if match := re.match(r"(\w+) things: ", body):
                assert NUMBERS[match[1]] == len(things)
                body = body[match.end() :]
            named = re.findall(rf"\b{NOUN}\b", body)
            assert len(named) == len(things), (text, scene)
            assert all(fits(words, thing) for words, thing in zip(named, things)), (text, scene)
            if match := re.search(rf"is {BESIDE} an? ", body):
                assert stands(things[0], match[1], things[1])
            if match := re.search(r"at the ((?:top |bottom )?(?:left|middle|right)|top|bottom)", body):
                assert PLACES[match[1]] == (things[0]["x"] // 22, things[0]["y"] // 22)
            if body.startswith("from left to right"):
                assert all(stands(a, "to the left of", b) for a, b in pairwise(things))
