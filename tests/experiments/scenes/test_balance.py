"""The text alone must not give answers away. Prints the measured figures with ``pytest -s``."""

import functools
import math
import re
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from attngraph.experiments.scenes.hypotheses import TEMPLATES as CLAIMS
from attngraph.experiments.scenes.hypotheses import hypotheses
from attngraph.experiments.scenes.questions import TEMPLATES as ASKED
from attngraph.experiments.scenes.questions import questions

WORDS = {
    "COLOR": "red green blue yellow purple orange cyan brown",
    "SHAPE": "circle square triangle star cross diamond",
    "SIZE": "small large",
}

# A reader of the text alone can at best guess within each template; this is the mean over a kind's templates.
CHANCE = {
    "existence": 1 / 2,
    "count": 1 / 5,
    "attribute": (3 / 8 + 2 / 6 + 2 / 2) / 7,
    "choice": 1 / 2,
    "comparison": 1 / 2,
    "spatial": (3 / 2 + 2 / 8 + 2 / 6 + 1 / 8 + 1 / 6 + 2 / 2) / 11,
    "negation": (3 / 2 + 2 / 2 + 2 / 5 + 1 / 8 + 1 / 6) / 9,
}


@functools.cache
def with_scenes(generate, split):
    """Pairs of a scene and a sentence about it: 5,000 for training, 2,000 for testing."""
    amount = {"train": 5000, "test": 2000}[split]
    return [(scene, sentence) for scene, about in generate(split, amount, 21) for sentence in about]


def sentences(generate, split):
    return [sentence for _, sentence in with_scenes(generate, split)]


def skeleton(text):
    """The text with colours, shapes and sizes blanked out: its wording."""
    for name, words in WORDS.items():
        text = re.sub(r"\b(" + words.replace(" ", "|") + r")(es|s)?\b", name, text)
    return re.sub(r"\ban COLOR", "a COLOR", text)


def majority(asked):
    """Share of the most frequent answer of each question type."""
    answers = defaultdict(Counter)
    for sentence in asked:
        answers[sentence.kind][sentence.answer] += 1
    return {kind: max(counter.values()) / sum(counter.values()) for kind, counter in answers.items()}


def text_only_accuracy(train, test):
    """Per kind, the accuracy of naive Bayes on words and word pairs, which knows each wording's answers."""
    counts, totals, priors = defaultdict(Counter), Counter(), defaultdict(Counter)

    def features(text):
        words = ["^", *re.findall(r"\w+", text)]
        return set(words[1:]) | set(pairwise(words))

    for sentence in train:
        priors[skeleton(sentence.text)][sentence.answer] += 1
        key = sentence.kind, sentence.answer
        counts[key].update(features(sentence.text))
        totals[key] += 1
    right = defaultdict(list)
    for sentence in test:
        prior = priors[skeleton(sentence.text)]
        marks = features(sentence.text)
        options = [answer for answer in prior if totals[sentence.kind, answer]]
        best = max(
            options,
            default="",
            key=lambda answer: (
                math.log(prior[answer])
                + sum(
                    math.log((counts[sentence.kind, answer][mark] + 1) / (totals[sentence.kind, answer] + 2))
                    for mark in marks
                )
            ),
        )
        right[sentence.kind].append(best == sentence.answer)
    return {kind: sum(values) / len(values) for kind, values in right.items()}


def test_questions_of_every_kind_are_balanced():
    asked = sentences(questions, "train")
    assert len(asked) == 5000
    kinds = Counter(sentence.kind for sentence in asked)
    assert len(kinds) >= 6 and max(kinds.values()) - min(kinds.values()) <= 1
    shares = majority(asked)
    print("majority answer per question type:", {kind: round(share, 3) for kind, share in shares.items()})
    assert all(shares[kind] <= CHANCE[kind] + 0.03 for kind in shares)
    assert set(shares) == {template.kind for template in ASKED}


def test_every_wording_of_a_question_is_balanced():
    answers = defaultdict(Counter)
    for sentence in sentences(questions, "train"):
        answers[skeleton(sentence.text)][sentence.answer] += 1
    frequent = {
        wording: counter
        for wording, counter in answers.items()
        if set(counter) <= {"yes", "no"} and counter.total() >= 20
    }
    assert len(frequent) > 40
    for wording, counter in frequent.items():  # within 2.5 standard deviations of a fair coin
        excess = abs(counter["yes"] - counter["no"])
        assert excess < 2.5 * math.sqrt(counter.total()), (wording, counter)


def test_hypotheses_are_balanced_and_the_curtain_does_not_settle_them():
    claimed = with_scenes(hypotheses, "train")
    shares = majority([sentence for _, sentence in claimed])
    print("majority label per hypothesis type:", {kind: round(share, 3) for kind, share in shares.items()})
    assert all(share < 0.35 for share in shares.values())
    assert set(shares) == {template.kind for template in CLAIMS}
    behind = Counter(sentence.answer for scene, sentence in claimed if scene.curtain)
    rule = [sentence.answer == ("neutral" if scene.curtain else "entailment") for scene, sentence in claimed]
    accuracy = sum(rule) / len(rule)
    print("labels where there is a curtain:", dict(behind), "accuracy of 'curtain means neutral':", accuracy)
    assert behind["entailment"] > 0.2 * behind.total() and behind["contradiction"] > 0.2 * behind.total()
    assert accuracy < 0.55


@pytest.mark.parametrize("generate, chance", [(questions, CHANCE), (hypotheses, defaultdict(lambda: 1 / 3))])
def test_text_alone_stays_near_chance(generate, chance):
    accuracy = text_only_accuracy(sentences(generate, "train"), sentences(generate, "test"))
    print("text alone:", {kind: round(value, 3) for kind, value in accuracy.items()})
    for kind, value in accuracy.items():
        assert value < chance[kind] + 0.09, (kind, value)
