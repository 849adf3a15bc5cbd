"""Pre-training texts against an independent reading, for the wordings that one pattern each can read."""

import hashlib
import random
import re

from attngraph.experiments.scenes.scene import generator, scenes
from attngraph.experiments.studies.pretrain_texts import pretraining_texts
from tests.experiments.scenes.reading import AN, NOUN, all_are, counted, find, the, worlds, yes

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
    for scene in scenes("train", 400, 14, "pretrain"):
        for prompt, given in pretraining_texts(scene, rng, 8):
            expected = read_pretraining(prompt, scene.to_dict())
            if expected is not None:
                checked += 1
                assert expected == given, (prompt, given, scene)
    assert checked > 500


def test_a_seed_gives_the_texts_that_it_always_gave():
    """The shipped checkpoint was trained on them, and is scored on such."""
    digest = hashlib.sha256()
    for scene in scenes("train", 200, 5, "pretrain"):
        digest.update(repr(pretraining_texts(scene, generator(5, scene.id), 8)).encode())
    assert digest.hexdigest() == "eeb9f3c2c179e0fc9e739b383d1f8b2725c9d6aebb189f53a3b3a7a5917b2a81"
