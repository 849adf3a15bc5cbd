"""Captions against the scene that they are about: what they say, and how much of it is so."""

import random
import re
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from attngraph.errors import UserError
from attngraph.experiments.metrics.scene import (
    Named,
    caption_counts,
    matched,
    precision_recall_f1,
    read,
    scene_counts,
    scene_f1,
    scores_by_kind,
)
from attngraph.experiments.scenes.captions import caption_scenes, captions, ordered
from attngraph.experiments.scenes.scene import COLORS, SHAPES, SIZES, Background, Scene, Thing
from attngraph.experiments.scenes.words import all_words

GROUND = Background("plain", (250, 250, 250), (250, 250, 250), 0)
# left to right: a large red circle, and under it a small blue star; a small green circle at the right
SCENE = Scene(
    0,
    (
        Thing("circle", "green", "small", 53, 32, 5),
        Thing("star", "blue", "small", 11, 53, 5),
        Thing("circle", "red", "large", 11, 11, 9),
    ),
    GROUND,
    "bottom",
    "downstream",
)
ONE = Scene(1, (Thing("star", "red", "large", 11, 53, 9),), GROUND, None, "downstream")


def truths(count, seed=5):
    """Scenes with their five references."""
    for scene in caption_scenes("train", count, seed):
        yield scene, captions(scene, seed)


OPPOSITE = {"is to the left of": "is to the right of", "is above": "is below"}
#: Word -> words for its place, and the line of :func:`caption_counts` that one right, found tuple is lost of.
WRONG = {
    **{word: ([v for v in values if v != word], 1) for values in (COLORS, SIZES) for word in values},
    **{said: ([other], 2) for said, other in OPPOSITE.items()},
}


def test_references_say_nothing_wrong_and_what_they_name_is_found():
    """Precision 1 in each kind; recall by counting words in another way."""
    for scene, texts in truths(200):
        n = len(scene.things)
        for text in texts:
            objects, attributes, relations = caption_counts(text, scene)
            for right, claimed, _, _ in (objects, attributes, relations):
                assert right == claimed, (text, scene)
            words, curtain = re.findall(r"[a-z]+", text), "curtain" in text
            sizes = sum(word in SIZES for word in words)
            numbers = "things" in words or "only" in words
            assert objects.tolist() == [n + curtain, n + curtain, n, n]
            assert attributes.tolist() == [n + sizes + numbers] * 2 + [n + sizes, 2 * n]
            body = text.split(", beside a curtain")[0]
            said = len(re.findall("to the left of|to the right of|above|below|at the", body))
            said = n - 1 if body.startswith("from left to right") else said
            assert relations.tolist() == [said + curtain] * 2 + [said, max(n - 1, 1)]


def test_a_wrong_word_is_one_wrong_claim_of_its_kind():
    """A colour, a size, a relation."""
    rng, tried = random.Random(0), Counter()
    for scene, texts in truths(300):
        for text in texts:
            before = caption_counts(text, scene)
            for word, (others, kind) in WRONG.items():
                for found in re.finditer(rf"\b{word}\b", text):
                    wrong = text[: found.start()] + rng.choice(others) + text[found.end() :]
                    lost = [[0] * 4, [0] * 4, [0] * 4]
                    lost[kind] = [1, 0, 1, 0]
                    assert (before - caption_counts(wrong, scene)).tolist() == lost, (wrong, scene)
                    tried[word] += 1
    assert set(tried) == set(WRONG) and min(tried.values()) > 10


def test_captions_of_other_scenes_are_mostly_wrong():
    scenes = dict(enumerate(caption_scenes("test", 400, 1)))
    own = {k: captions(scene, 1)[0] for k, scene in scenes.items()}
    other = {k: own[(k + 1) % len(own)] for k in own}
    right, wrong = (scene_counts(said, scenes).sum(axis=0) for said in (own, other))
    assert scene_f1(right) > 0.8 and scene_f1(wrong) < 0.2
    precision = {name: value for name, (value, _) in scores_by_kind(wrong).items() if "precision" in name}
    assert precision["objects: precision"] < 0.35 and precision["attributes: precision"] < 0.15
    assert precision["relations: precision"] < 0.15


COUNTED = [  # caption, objects, attributes, relations
    ("", "0003", "0006", "0002"),
    ("a large red circle is above a small blue star, with a small green circle", "3333", "6666", "1112"),
    # "a circle" fits two things; one to one, so the third of them is wrong
    ("a circle, a circle and a circle", "2323", "0006", "0002"),
    # the matching gives the first circle the colour that fits, whatever the order
    ("a green circle and a red circle", "2223", "2226", "0002"),
    ("a red circle and a red circle", "2223", "1216", "0002"),
    # things further apart: right, but not asked
    ("a red circle is to the left of a green circle", "2223", "2226", "1102"),
    # both ways round is one thing found
    ("a red circle above a blue star . a green circle right of a blue star", "3433", "3436", "1212"),
    # relations without a thing at either end, a place of nothing
    ("left of a red circle is above", "1113", "1116", "0202"),
    ("at the top", "0003", "0006", "0102"),
    # attributes without a thing
    ("a small red and a large orange", "0003", "0406", "0002"),
    # things of no named shape claim attributes alone
    ("a blue thing and a purple object", "0003", "1216", "0002"),
    ("three things: a blue star", "1113", "2216", "0002"),
    ("two things: a blue star", "1113", "1216", "0002"),
    ("the only thing here is a blue star", "1113", "1216", "0002"),
    # places: of things, and of curtains
    ("a blue star at the bottom left of the picture", "1113", "1116", "1102"),
    ("a blue star at the bottom", "1113", "1116", "0102"),
    ("a blue star, beside a curtain at the bottom", "2213", "1116", "1102"),
    ("a curtain at the top beside a curtain at the bottom", "1203", "0006", "1202"),
    ("two red circles", "2223", "1216", "0002"),
    ("red circles", "2223", "1216", "0002"),
    ("a red circle, from left to right a green circle", "2223", "2226", "0002"),
    # the star is not right of both, as the words say
    ("from left to right there is a red circle, a green circle and a star", "3333", "2226", "1202"),
]
#: A single thing is asked for its place.
COUNTED_OF_ONE = [
    ("a large red star at the bottom left of the picture", "1111", "2222", "1111"),
    ("a red star at the left, beside a curtain at the top", "1211", "1112", "0201"),
]


def test_counts_by_hand():
    for scene, counted in ((SCENE, COUNTED), (ONE, COUNTED_OF_ONE)):
        for caption, *expected in counted:
            found = caption_counts(caption, scene).astype(int).tolist()
            assert ["".join(map(str, row)) for row in found] == expected, caption


def test_a_broken_caption_is_read():
    """An output of a trained model."""
    said = read("a small orange triangle at the left of the top of a curtain at the bottom")
    assert said.things == [Named("triangle", frozenset({"small", "orange"}), {"left"})]
    assert said.curtains == [{"bottom"}]
    assert not said.relations and not said.numbers and not said.loose


def test_any_text_has_counts_within_bounds():
    rng, words = random.Random(0), [*all_words(), "dog", "%", "é"]
    for scene in caption_scenes("train", 300, 2):
        text = " ".join(rng.choices(words, k=rng.randrange(30)))
        for right, claimed, found, asked in caption_counts(text, scene):
            assert 0 <= right <= claimed and 0 <= found <= asked and found <= right + asked
    assert read("A SMALL Red circle") == read("a small red circle")


def test_matching_is_the_best_of_all(seed=3):
    """Against all one-to-one matchings; of equally good ones that with the least disturbance of the order."""
    rng = random.Random(seed)
    for scene in caption_scenes("test", 300, seed):
        things = ordered(scene)
        named = [
            Named(rng.choice((*SHAPES[:2], None)), frozenset(rng.sample([*SIZES, *list(COLORS)[:2]], 2)))
            for _ in range(rng.randint(1, 4))
        ]

        def value(k, place, named=named, things=things):
            words, thing = named[k], things[place]
            if words.shape and words.shape != thing.shape:
                return 0
            return bool(words.shape) + len(words.attributes & {thing.size, thing.color})

        def total(pairs, value=value):
            return sum(value(k, place) for k, place in pairs), -sum((k - place) ** 2 for k, place in pairs)

        size = min(len(named), len(things))
        every = (
            list(zip(some, places))
            for some in permutations(range(len(named)), size)
            for places in permutations(range(len(things)), size)
        )
        best = max(total(pairs)[0] for pairs in every)
        found = matched(named, things)
        assert len(set(found.values())) == len(found) and all(value(k, place) for k, place in found.items())
        assert total(found.items())[0] == best
    assert matched([Named("star")] * 2, [ONE.things[0]] * 3) == {0: 0, 1: 1}
    assert matched([], ordered(ONE)) == {}


def test_f1_from_sums():
    totals = np.array([8, 10, 6, 12, 0, 0, 0, 0, 1, 2, 1, 4], dtype=float)
    precision, recall = 9 / 12, 7 / 16
    assert scene_f1(totals) == pytest.approx(2 * precision * recall / (precision + recall))
    assert precision_recall_f1(totals[:4]) == pytest.approx([0.8, 0.5, 0.8 / 1.3])
    assert (
        scores_by_kind(totals)["attributes: precision"] == scores_by_kind(totals)["attributes: F1"] == (0, 0)
    )
    assert scores_by_kind(totals)["relations: recall"] == (0.25, 4)
    assert scene_f1(np.zeros((2, 12))).tolist() == [0, 0]
    scenes = {"a": SCENE, "b": ONE}
    said = {"a": "a red circle", "b": "a small star"}
    rows = scene_counts(said, scenes)
    assert rows.shape == (2, 12)
    draws = np.array([[2, 0], [1, 1]])
    assert scene_f1(draws @ rows) == pytest.approx(np.stack([scene_f1(rows[0]), scene_f1(rows.sum(axis=0))]))
    with pytest.raises(UserError, match="no prediction for 1 example"):
        scene_counts({"a": ""}, scenes)
