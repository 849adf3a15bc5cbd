"""What is drawn: reproducible scenes, pixels that show them, and the words of all texts."""

import functools
import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest

from attngraph.experiments.scenes.captions import caption_scenes, captions
from attngraph.experiments.scenes.drawing import draw
from attngraph.experiments.scenes.hypotheses import hypotheses
from attngraph.experiments.scenes.questions import questions
from attngraph.experiments.scenes.scene import COLORS, HELD_OUT, SHAPES, Scene, scenes
from attngraph.experiments.scenes.words import all_words
from attngraph.experiments.studies.pretrain_texts import pretraining_texts

DOMAINS = ("pretrain", "downstream")


def pairs(drawn):
    return {(thing.color, thing.shape) for scene in drawn for thing in scene.things}


def test_scenes_depend_on_the_seed_alone():
    for domain in DOMAINS:
        first = list(scenes("train", 50, 3, domain))
        assert first == [*scenes("train", 20, 3, domain), *scenes("train", 30, 3, domain, start=20)]
        assert first != list(scenes("train", 50, 4, domain))
        assert [Scene.from_dict(scene.to_dict()) for scene in first] == first


def test_descriptions_of_no_scene_are_refused():
    """Every part of a description, missing or of another kind."""
    (right,) = scenes("train", 1, 0, "downstream")
    told = right.to_dict()
    wrong = [None, *({key: part for key, part in told.items() if key != name} for name in told)]
    for value in (True, -1, 10**30, "x"):
        wrong += [told | {name: value} for name in told]
        wrong += [told | {"background": told["background"] | {name: value}} for name in told["background"]]
        wrong += [told | {"things": [told["things"][0] | {name: value}]} for name in told["things"][0]]
    for description in wrong:
        with pytest.raises(ValueError, match="not a scene"):
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
    kinds = [{scene.background.kind for scene in scenes("train", 100, 0, domain)} for domain in DOMAINS]
    assert kinds == [{"plain"}, {"gradient", "noise", "checker"}]


#: What a curtain hides: lines and columns of the picture.
PANELS = {
    "left": np.s_[:, :20],
    "right": np.s_[:, 44:],
    "top": np.s_[:20],
    "bottom": np.s_[44:],
}


def test_things_are_apart_inside_the_picture_and_outside_the_curtain():
    curtains = Counter()
    for scene in itertools.chain(*(scenes("test", 200, 1, domain) for domain in DOMAINS)):
        curtains[scene.curtain is not None] += 1
        for a, b in itertools.combinations(scene.things, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius
        hidden = np.zeros((64, 64), bool)
        hidden[PANELS.get(scene.curtain, np.s_[:0])] = True
        for thing in scene.things:
            x, y, r = thing.x, thing.y, thing.radius
            assert 0 <= x - r <= x + r < 64 and 0 <= y - r <= y + r < 64
            assert not hidden[y - r : y + r + 1, x - r : x + r + 1].any()
    assert 0.3 < curtains[True] / 400 < 0.5


def test_pixels_show_what_the_scene_says():
    for scene in scenes("test", 150, 2, "downstream"):
        pixels = np.asarray(draw(scene))
        assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
        for thing in scene.things:
            shown = (pixels[:, thing.x] == COLORS[thing.color]).all(-1)
            assert shown[thing.y]
            above = np.argmin([*shown[thing.y :: -1], False])
            below = np.argmin([*shown[thing.y :], False])
            assert (above + below > 14) == (thing.size == "large"), thing
        if scene.curtain:
            panel = pixels[PANELS[scene.curtain]].reshape(-1, 3)
            assert set(map(tuple, panel.tolist())) == {(170, 170, 170), (90, 90, 90)}


def test_shapes_look_different():
    masks = {}
    for scene in scenes("test", 400, 3, "pretrain"):
        for thing in scene.things:
            if thing.size != "huge":
                near = np.asarray(draw(scene))[
                    thing.y - thing.radius : thing.y + thing.radius + 1,
                    thing.x - thing.radius : thing.x + thing.radius + 1,
                ]
                masks[thing.size, thing.shape] = (near == COLORS[thing.color]).all(-1)
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
