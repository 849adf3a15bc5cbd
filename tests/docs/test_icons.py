"""docs/examples/icons.py: its regions are where the named icons are, and its answers are true."""

import random

import numpy as np

from docs.examples import icons


def test_regions_and_answers_are_those_of_the_image():
    """Would catch quarters that are swapped, and patches of another icon."""
    shades = {name: shade for shade, name in enumerate("abcdef", start=1)}  # of one colour each
    drawn = {}
    for name, shade in shades.items():
        drawn[name] = np.full((1, icons.SIZE, icons.SIZE, 4), shade, np.uint8)
        drawn[name][..., 3] = 255
    chance = random.Random(0)
    for _ in range(50):
        shown = icons.compose(drawn, chance)
        halves = shown.pixels[..., 0].reshape(2, 32, 2, 32).transpose(0, 2, 1, 3).reshape(4, -1)
        for quarter, word in zip(halves, shown.words, strict=True):
            seen = {name for name, shade in shades.items() if (quarter == shade).sum() >= icons.SIZE**2}
            assert word is None or word in seen
        patches = shown.pixels[..., 0].reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(64, 64)
        for pixels, number in zip(patches, shown.patches, strict=True):
            assert number == 0 or (pixels == shades["abcdef"[number - 1]]).mean() > 0.1
        answers = dict(icons.questions(shown, list(drawn), chance))
        there = [word for word in shown.words if word]
        assert answers["how many things are there ?"] == icons.NUMBERS[len(there)]
        for place, word in zip(icons.PLACES, shown.words, strict=True):
            assert answers[f"what is at the {place} ?"] == (word or "nothing")
            assert word is None or answers[f"where is the {word} ?"] == f"at the {place}"
        assert all(
            (answer == "yes") == (question.split()[3] in there)
            for question, answer in answers.items()
            if question.startswith("is there")
        )
        assert icons.caption(shown)[1].count(" , ") == len(there) - 1
