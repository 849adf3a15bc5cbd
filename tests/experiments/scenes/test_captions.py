"""Captions against an independent reading: the right things in the right order."""

import re
from itertools import pairwise

from experiments.scenes.captions import caption_scenes, captions
from tests.experiments.scenes.reading import BESIDE, NOUN, NUMBERS, fits, stands

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
