"""Checks the generator's answers against an independent reading of text and scene.

The reader below parses finished sentences and looks at the scene as a plain dict. It shares no code with the
modules that write the sentences. Hypotheses are judged by trying what the curtain might hide.
"""

import itertools
import random
import re

import pytest

from experiments.pretraining.texts import pretraining_texts
from experiments.scenes.captions import caption_scenes, captions
from experiments.scenes.hypotheses import hypotheses
from experiments.scenes.questions import questions
from experiments.scenes.scene import scenes

COLORS = "red green blue yellow purple orange cyan brown black gray teal".split()
SHAPES = "circle square triangle star cross diamond rectangle".split()
SIZES = "small large huge".split()
NUMBERS = {"no": 0, "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
ANYTHING = {"thing", "object", "item", "shape"}
NOUN = rf"((?:(?:{'|'.join(SIZES + COLORS)}) )*(?:{'|'.join(SHAPES)}|thing|object|item|shape)(?:es|s)?)"
AN = rf"(?:an? )?{NOUN}"
BESIDE = r"(to the left of|to the right of|above|below)"


def fits(words: str, thing: dict) -> bool:
    """Whether "small red circles" describes the thing."""
    for word in words.split():
        single = (
            word[:-2] if word == "crosses" else word[:-1] if word.endswith("s") and word != "cross" else word
        )
        if word in COLORS:
            ok = thing["color"] == word
        elif word in SIZES:
            ok = thing["size"] == word
        elif single in SHAPES:
            ok = thing["shape"] == single
        else:
            assert single in ANYTHING, word
            ok = True
        if not ok:
            return False
    return True


def find(words: str, things: list[dict]) -> list[dict]:
    return [thing for thing in things if fits(words, thing)]


def the(words: str, things: list[dict]) -> dict:
    found = find(words, things)
    assert len(found) == 1, f"'the {words}' is not unique in {things}"
    return found[0]


def stands(first: dict, beside: str, second: dict) -> bool:
    """Whether the relation holds; the text must not ask where the eye cannot tell."""
    axis = "x" if "left" in beside or "right" in beside else "y"
    gap = first[axis] - second[axis]
    assert abs(gap) >= 8, f"'{beside}' is not clear between {first} and {second}"
    return gap < 0 if beside in ("to the left of", "above") else gap > 0


def yes(value: bool) -> str:
    return "yes" if value else "no"


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
    there = [
        thing for thing in things if abs(thing[axis] - anchor[axis]) >= 12 and stands(thing, beside, anchor)
    ]
    assert len(there) == 1
    return there[0]


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


# Hypotheses: a reading says for one world whether the text is true; the worlds are what the curtain may hide.

COUNTED = r"(exactly|at least|at most) (\w+)"


def counted(how: str, number: str, noun: str, things: list[dict]) -> bool:
    total, wanted = len(find(noun, things)), NUMBERS[number]
    return {"exactly": total == wanted, "at least": total >= wanted, "at most": total <= wanted}[how]


def all_are(shape: str, color: str, things: list[dict]) -> bool:
    return all(thing["color"] == color for thing in find(shape, things))


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


def worlds(text: str, scene: dict):
    """What there may be in all: the visible things and up to three hidden ones that matter for the text."""
    yield scene["things"]
    if scene["curtain"]:
        words = text.replace("crosses", "cross").split()
        colors = [word for word in words if word in COLORS][:1] + ["gray"]
        shapes = [word for word in SHAPES if word in words or word + "s" in words][:1] + ["rectangle"]
        kinds = [
            dict(zip(("color", "shape", "size"), kind))
            for kind in itertools.product(colors, shapes, SIZES[:2])
        ]
        for amount in (1, 2, 3):
            for hidden in itertools.combinations_with_replacement(kinds, amount):
                yield [*scene["things"], *hidden]


def label(text: str, scene: dict) -> str:
    if match := re.fullmatch(RELATED, text):
        return related_label(*match.groups(), scene)
    if match := re.fullmatch(HAS, text):
        found = find(match[1], scene["things"])
        if not found:
            assert scene["curtain"]
            return "neutral"
        assert len(found) == 1
        return "entailment" if match[2] in (found[0]["color"], found[0]["size"]) else "contradiction"
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


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_hypothesis_labels_agree_with_what_the_curtain_may_hide(split):
    for scene, claimed in hypotheses(split, 900, seed=12):
        for hypothesis in claimed:
            assert label(hypothesis.text, scene.to_dict()) == hypothesis.answer, (hypothesis, scene)


# Captions

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
                assert all(stands(a, "to the left of", b) for a, b in zip(things, things[1:]))


# Pre-training: the wordings that one pattern each can read

EXISTS = (
    rf"(?:any {NOUN} here|do you see {AN}|can you find {AN}|have they drawn {AN}|do these contain {AN}|"
    rf"does {AN} show up)"
)
CLAIMS = [
    (rf"(?:one can find |here we have ){AN}", lambda t, n: bool(find(n, t))),
    (rf"{AN} has been drawn", lambda t, n: bool(find(n, t))),
    (rf"at least one {NOUN} exists", lambda t, n: bool(find(n, t))),
    (rf"{AN} is missing", lambda t, n: not find(n, t)),
    (rf"(?:not one|no) {NOUN} (?:exists|has been drawn)", lambda t, n: not find(n, t)),
    (rf"none of these is {AN}", lambda t, n: not find(n, t)),
    (rf"the number of {NOUN} is exactly (\w+)", lambda t, n, k: counted("exactly", k, n, t)),
    (rf"(\w+) or more {NOUN} exist", lambda t, k, n: counted("at least", k, n, t)),
    (rf"no more than (\w+) {NOUN} can be found", lambda t, k, n: counted("at most", k, n, t)),
    (rf"you find (\w+) {NOUN} at most", lambda t, k, n: counted("at most", k, n, t)),
    (r"(?:all|every) (\w+) ha(?:ve|s) the color (\w+)", lambda t, s, c: all_are(s, c, t)),
    (r"some (\w+) has another color than (\w+)", lambda t, s, c: not all_are(s, c, t)),
]


def cell(thing: dict) -> str:
    """The cell of a grid of three by three in which a thing's centre lies."""
    row = "top" if thing["y"] < 64 / 3 else "bottom" if thing["y"] > 128 / 3 else "middle"
    return row + (" left" if thing["x"] < 64 / 3 else " right" if thing["x"] > 128 / 3 else " middle")


def read_pretraining(prompt: str, scene: dict) -> str | None:
    """The answer by the independent reading, None where no pattern covers the wording."""
    things, prompt = scene["things"], prompt.removesuffix(" ?")
    if match := re.fullmatch(r"do you see a curtain", prompt):
        return yes(scene["curtain"])
    if match := re.fullmatch(EXISTS, prompt):
        return yes(find(next(filter(None, match.groups())), things))
    if match := re.fullmatch(
        rf"(?:count the |number of |how many |give the number of |total ){NOUN}(?: do you see)?", prompt
    ):
        return str(len(find(match[1], things)))
    if match := re.fullmatch(
        rf"(?:name the|say the|which) (color|shape|size) (?:of|does) the (?:only )?{NOUN}(?: have)?", prompt
    ):
        return the(match[2], things)[match[1]]
    if match := re.fullmatch(
        rf"(?:where does the {NOUN} lie|the {NOUN} : where|find the {NOUN} . where have they drawn it|"
        rf"say where the {NOUN} is)",
        prompt,
    ):
        return cell(the(next(filter(None, match.groups())), things))
    if match := re.fullmatch(
        r"(?:what have they drawn )?((?:top|middle|bottom) (?:left|middle|right))(?: : what is here)?", prompt
    ):
        return next((f"{t['color']} {t['shape']}" for t in things if cell(t) == match[1]), "none")
    if re.fullmatch(r"what is where|where is every \w+|name all \w+ and where they are", prompt):
        in_reading_order = sorted(things, key=lambda thing: (thing["y"] // (64 / 3), thing["x"]))
        return " , ".join(f"{t['color']} {t['shape']} {cell(t)}" for t in in_reading_order)
    for frame in (
        r"true or false : (.*)",
        r"(.*) \. true , false or unknown",
        r"verify : (.*)",
        r"judge this : (.*)",
    ):
        if claim := re.fullmatch(frame, prompt):
            for pattern, read in CLAIMS:
                if match := re.fullmatch(pattern, claim[1]):
                    verdicts = {read(world, *match.groups()) for world in worlds(claim[1], scene)}
                    return "unknown" if len(verdicts) == 2 else "true" if True in verdicts else "false"
    return None


def test_pretraining_answers_agree_with_the_scene():
    rng = random.Random(14)
    checked = 0
    for scene in scenes("train", 800, 14, "pretrain"):
        for prompt, given in pretraining_texts(scene, rng, 8):
            expected = read_pretraining(prompt, scene.to_dict())
            if expected is not None:
                checked += 1
                assert expected == given, (prompt, given, scene)
    assert checked > 1000
