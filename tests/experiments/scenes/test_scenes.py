"""What is drawn: reproducible scenes, pixels that show them, and the words of all texts."""

import functools
import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest

from experiments.scenes.captions import caption_scenes, captions
from experiments.scenes.drawing import draw
from experiments.scenes.hypotheses import hypotheses
from experiments.scenes.questions import questions
from experiments.scenes.scene import COLORS, HELD_OUT, SHAPES, Scene, scenes
from experiments.scenes.words import all_words
from experiments.studies.pretrain_texts import pretraining_texts

RGB = {
    "red": (225, 35, 40),
    "green": (35, 160, 55),
    "blue": (45, 75, 225),
    "yellow": (250, 225, 40),
    "purple": (150, 50, 185),
    "orange": (250, 135, 20),
    "cyan": (60, 215, 235),
    "brown": (140, 80, 35),
}


def pairs(drawn):
    return {(thing.color, thing.shape) for scene in drawn for thing in scene.things}


@pytest.mark.parametrize("domain", ["pretrain", "downstream"])
def test_scenes_depend_on_the_seed_alone(domain):
    first, again = list(scenes("train", 50, 3, domain)), list(scenes("train", 50, 3, domain))
    assert (
        first
        == again
        == list(scenes("train", 20, 3, domain)) + list(scenes("train", 30, 3, domain, start=20))
    )
    assert first != list(scenes("train", 50, 4, domain))
    assert [Scene.from_dict(scene.to_dict()) for scene in first] == first


@pytest.mark.parametrize("value", [None, True, -1, 10**30, "x", {"shape": 1}])
def test_descriptions_of_no_scene_are_refused(value):
    """Every part of a description, missing or of another kind."""
    (right,) = scenes("train", 1, 0, "downstream")
    told = right.to_dict()
    wrong = [value] + [{key: part for key, part in told.items() if key != name} for name in told]
    wrong += [told | {name: value} for name in told if (name, value) != ("curtain", None)]
    wrong += [told | {"background": told["background"] | {name: value}} for name in told["background"]]
    wrong += [told | {"things": [told["things"][0] | {name: value}]} for name in told["things"][0]]
    for description in wrong:
        with pytest.raises(ValueError, match="no scene"):
            Scene.from_dict(description)


def test_splits_and_domains_share_no_scene():
    drawn = [
        [draw(scene).tobytes() for scene in scenes(split, 100, 0, domain)]
        for split in ("train", "validation", "test")
        for domain in ("pretrain", "downstream")
    ]
    for first, second in itertools.combinations(drawn, 2):
        assert not set(first) & set(second)
    assert len(set(drawn[0])) == 100


def test_held_out_pairs_occur_downstream_only():
    assert not pairs(scenes("train", 2000, 0, "pretrain")) & HELD_OUT
    everything = set(itertools.product(COLORS, SHAPES))
    for split in ("train", "test"):
        assert pairs(scene for scene, _ in questions(split, 600, 0)) == everything
    assert everything > HELD_OUT
    for color in COLORS:
        assert 0 < sum(pair[0] == color for pair in HELD_OUT) < len(SHAPES)
    for shape in SHAPES:
        assert 0 < sum(pair[1] == shape for pair in HELD_OUT) < len(COLORS)


def test_backgrounds_differ_between_domains():
    assert {scene.background.kind for scene in scenes("train", 100, 0, "pretrain")} == {"plain"}
    assert {scene.background.kind for scene in scenes("train", 100, 0, "downstream")} == {
        "gradient",
        "noise",
        "checker",
    }


def test_things_are_apart_inside_the_picture_and_outside_the_curtain():
    hidden = {
        "left": lambda x, y: x < 20,
        "right": lambda x, y: x > 43,
        "top": lambda x, y: y < 20,
        "bottom": lambda x, y: y > 43,
    }
    curtains = Counter()
    for scene in itertools.chain(scenes("test", 200, 1, "pretrain"), scenes("test", 200, 1, "downstream")):
        curtains[scene.curtain is not None] += 1
        for a, b in itertools.combinations(scene.things, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius
        for thing in scene.things:
            corners = list(
                itertools.product(
                    (thing.x - thing.radius, thing.x + thing.radius),
                    (thing.y - thing.radius, thing.y + thing.radius),
                )
            )
            assert all(0 <= value < 64 for corner in corners for value in corner)
            assert not scene.curtain or not any(hidden[scene.curtain](*corner) for corner in corners)
    assert 0.3 < curtains[True] / 400 < 0.5


def test_pixels_show_what_the_scene_says():
    for scene in scenes("test", 150, 2, "downstream"):
        pixels = np.asarray(draw(scene))
        assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
        for thing in scene.things:
            assert tuple(pixels[thing.y, thing.x]) == RGB[thing.color]
            column = (pixels[:, thing.x] == RGB[thing.color]).all(-1)
            top, bottom = (
                next(
                    k
                    for k in range(1, 20)
                    if not 0 <= thing.y + step * k < 64 or not column[thing.y + step * k]
                )
                for step in (-1, 1)
            )
            assert (top + bottom > 14) == (thing.size == "large"), thing
        if scene.curtain:
            panel = {
                "left": pixels[:, :20],
                "right": pixels[:, 44:],
                "top": pixels[:20],
                "bottom": pixels[44:],
            }[scene.curtain]
            assert {tuple(pixel) for pixel in panel.reshape(-1, 3)} == {(170, 170, 170), (90, 90, 90)}


def test_shapes_look_different():
    masks = {}
    for scene in scenes("test", 400, 3, "pretrain"):
        for thing in scene.things:
            if thing.size != "huge":
                near = np.asarray(draw(scene))[
                    thing.y - thing.radius : thing.y + thing.radius + 1,
                    thing.x - thing.radius : thing.x + thing.radius + 1,
                ]
                masks[thing.size, thing.shape] = (near == RGB[thing.color]).all(-1)
    assert len(masks) == 12
    for (size, a), (other, b) in itertools.combinations(masks, 2):
        if size == other:
            assert (masks[size, a] != masks[size, b]).mean() > 0.1, (size, a, b)


@functools.cache
def pretraining_pairs():
    """Ten texts about each of 800 scenes."""
    rng = random.Random(0)
    return [pretraining_texts(scene, rng, 10) for scene in scenes("train", 800, 9, "pretrain")]


@functools.cache
def downstream_sentences():
    """2,000 questions and 2,000 hypotheses."""
    about = itertools.chain(questions("train", 2000, 9), hypotheses("train", 2000, 9))
    return [sentence for _, sentences in about for sentence in sentences]


def tokens(texts):
    return {token for text in texts for token in re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text)}


def test_vocabulary_holds_every_word():
    before = tokens(text for pairs in pretraining_pairs() for pair in pairs for text in pair)
    texts = [text for sentence in downstream_sentences() for text in (sentence.text, sentence.answer)]
    texts += [text for scene in caption_scenes("train", 300, 9) for text in captions(scene, 9)]
    downstream = tokens(texts)
    labels = {"entailment", "contradiction", "neutral"}
    assert before | downstream <= set(all_words())
    assert downstream - labels <= before  # a frozen model has met every word
    assert list(all_words()) == sorted(set(all_words()))


def test_pretraining_wording_is_not_the_downstream_wording():
    prompts = {prompt.replace(" ", "") for pairs in pretraining_pairs() for prompt, _ in pairs}
    assert not prompts & {sentence.text.replace(" ", "") for sentence in downstream_sentences()}


def test_pretraining_texts_are_varied_and_their_answers_balanced():
    pairs = [pair for pairs in pretraining_pairs() for pair in pairs[1:]]
    answers = Counter(answer for _, answer in pairs)
    assert 0.4 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.6
    assert 0.45 < answers["true"] / (answers["true"] + answers["false"]) < 0.55
    assert answers["unknown"] > 0.08 * answers["true"]
    attributes = re.compile(r"\b(" + "|".join([*COLORS, *SHAPES]) + r")(es|s)?\b")
    assert len({attributes.sub("_", prompt) for prompt, _ in pairs}) > 300
