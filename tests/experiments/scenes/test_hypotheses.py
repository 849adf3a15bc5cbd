"""Labels of hypotheses against an independent reading, which tries what the curtain might hide."""

import re

import pytest

from experiments.scenes.hypotheses import hypotheses
from tests.experiments.scenes.reading import AN, BESIDE, NOUN, all_are, counted, find, stands, worlds

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


def label(text: str, scene: dict) -> str:
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


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_hypothesis_labels_agree_with_what_the_curtain_may_hide(split):
    for scene, claimed in hypotheses(split, 900, seed=12):
        for hypothesis in claimed:
            assert label(hypothesis.text, scene.to_dict()) == hypothesis.answer, (hypothesis, scene)
