"""VizWiz-VQA accuracy: every expected value here was computed by VizWiz's own evaluator, or by hand."""

import hashlib
import json
import random
import re

import pytest

from attngraph.errors import UserError
from experiments.metrics import vizwiz
from experiments.metrics.vizwiz import normalise_prediction, vizwiz_scores
from experiments.metrics.vqa import vqa_scores
from tests.experiments.metrics.random_texts import WORDS, text, varied


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("The Red Ball.", "red ball"),
        ("two", "2"),
        ("none", "0"),
        ("t-shirt", "t shirt"),
        ("1,000 red/blue", "1000 redblue"),
        ("2.50.", "2.50"),
        ("." * 35 + "x", "...x"),
        ("x\ny\tz ", "x y z"),
        # a typographic apostrophe for most, a straight one for eight
        ("dont", "don’t"),
        ("isnt whats", "isn’t what’s"),
        ("aint arent cant couldve couldnt", "ain't aren't can't could've couldn't"),
        ("weve wheres whove", "we've where's who've"),
        ("don't", "don't"),
        ("don’t", "don’t"),
        # keys have typographic apostrophes too, but for two
        ("couldnt’ve couldnt've", "couldn’t’ve couldnt've"),
        ("couldn'tve couldn’tve", "couldn’t’ve couldn’tve"),
        ("hadn'tve hadn’tve hadnt’ve", "hadn’t’ve hadn’tve hadn’t’ve"),
        ("mightn’tve mightn'tve", "mightn’t’ve mightn'tve"),
        ("somebody’d somebody'd", "somebodyd somebody'd"),
        ("Im Ive let’s id", "im ive let’s id"),
    ],
)
def test_normalisation(answer, expected):
    assert normalise_prediction(answer) == expected


def test_the_table_is_the_evaluators():
    """The digest is of the evaluator's own table, less what never acts: capitals and equal spellings."""
    table = json.dumps([list(item) for item in sorted(vizwiz._CONTRACTIONS.items())])
    digest = hashlib.sha256(table.encode()).hexdigest()
    assert digest == "1b56f4d9fb5f9d43abaf4f338e42b384cafeba26966ca23c8eaf9814b7957343"


@pytest.mark.parametrize(
    "prediction, answers, expected, of_vqa",
    [
        # annotators' answers are never processed, the prediction always is, unanimous or not
        ("Yes", ["Yes"] * 10, 0.0, 1.0),
        ("yes", ["Yes"] * 10, 0.0, 0.0),
        ("Yes", ["yes"] * 10, 1.0, 0.0),
        ("the dog.", ["dog"] * 10, 1.0, 0.0),
        ("dog", ["the dog"] * 9 + ["dog"], 0.3, 1.0),
        ("two", ["two"] * 9 + ["2"], 0.3, 1.0),
        ("2", ["two"] * 5 + ["2"] * 5, 1.0, 1.0),
        ("t-shirt", ["t-shirt"] * 9 + ["t shirt"], 0.3, 1.0),
        ("dog", [" dog"] * 9 + ["dog\n"], 0.0, 1.0),
        ("", [""] * 10, 1.0, 1.0),
        ("a", [""] * 2 + ["the"] * 8, 0.6, 1.0),
        # contractions
        ("dont", ["don't"] * 9 + ["dont"], 0.0, 1.0),
        ("dont", ["don’t"] * 9 + ["x"], 1.0, 0.0),
        ("don't", ["don't"] * 9 + ["x"], 1.0, 1.0),
        ("cant", ["can't"] * 9 + ["x"], 1.0, 1.0),
    ],
)
def test_images(prediction, answers, expected, of_vqa):
    assert vizwiz_scores({"i": prediction}, {"i": answers})[0] == pytest.approx(expected, abs=1e-12)
    assert vqa_scores({"i": prediction}, {"i": answers})[0] == pytest.approx(of_vqa, abs=1e-12)


@pytest.mark.parametrize("matches, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_annotators_are_left_out_by_their_place(matches, expected):
    """By their value, four and more equal answers would score 0."""
    references = {"i": ["red"] * matches + ["blue"] * (10 - matches)}
    assert vizwiz_scores({"i": "red"}, references)[0] == pytest.approx(expected)


def slow_score(prediction: str, answers: list[str]) -> float:
    """The rules once more, one step and one annotator after the other."""
    asked = prediction.replace("\n", " ").replace("\t", " ").strip()
    line = asked
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        beside = re.search(f" {re.escape(mark)}|{re.escape(mark)} ", asked)
        line = line.replace(mark, "" if beside or re.search(r"\d,\d", asked) else " ")
    for _ in range(32):
        period = next(
            (k for k, c in enumerate(line) if c == "." and not re.match(r"\d", line[k + 1 :])), None
        )
        if period is None:
            break
        line = line[:period] + line[period + 1 :]
    numbers = "zero one two three four five six seven eight nine ten".split()
    words = []
    for word in line.lower().split():
        if word in numbers:
            word = str(numbers.index(word))
        elif word == "none":
            word = "0"
        if word not in ("a", "an", "the"):
            words.append(vizwiz._CONTRACTIONS.get(word, word))
    given = " ".join(words)
    shares = []
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        shares.append(min(1.0, others.count(given) / 3))
    return sum(shares) / len(shares)


def test_random_texts_score_as_the_rules_say():
    rng = random.Random(3)
    words = [*WORDS, *vizwiz._CONTRACTIONS]
    found = set()
    for _ in range(3000):
        answers = [text(rng, words) for _ in range(rng.choice((1, 2, 3)))]
        answers = [rng.choice((answer, normalise_prediction(answer))) for answer in answers]
        answers = [rng.choice(answers) for _ in range(10)]
        prediction = varied(rng, rng.choice(answers))
        (score,) = vizwiz_scores({"i": prediction}, {"i": answers})
        assert score == slow_score(prediction, answers), (prediction, answers)
        found.add(round(score, 9))
    assert found == {0, 0.3, 0.6, 0.9, 1}


def test_properties():
    """The order of annotators does not matter; one more who agrees never lowers the score; the score is that
    of the processed prediction, since processing an answer that annotators gave changes nothing further.
    """
    rng = random.Random(4)
    for _ in range(500):
        answers = [rng.choice(["red", "blue", "2", "t shirt"]) for _ in range(10)]
        prediction = rng.choice(["Red", "BLUE.", "two", "t-shirt", "green"])
        (score,) = vizwiz_scores({"i": prediction}, {"i": answers})
        mixed = rng.sample(answers, 10)
        assert vizwiz_scores({"i": prediction}, {"i": mixed})[0] == pytest.approx(score)
        given = normalise_prediction(prediction)
        assert vizwiz_scores({"i": given}, {"i": answers})[0] == pytest.approx(score)
        mixed[rng.randrange(10)] = given
        assert vizwiz_scores({"i": prediction}, {"i": mixed})[0] >= score - 1e-12


def test_the_order_is_that_of_the_references_and_ids_must_agree():
    references = {"b": ["2"] * 10, "a": ["dog"] * 10}
    assert vizwiz_scores({"a": "Dog", "b": "no"}, references).tolist() == [0.0, 1.0]
    with pytest.raises(UserError, match="no prediction for 1 example"):
        vizwiz_scores({"a": "dog"}, references)
    with pytest.raises(UserError, match="needs at least 4 annotators' answers, example a has 3"):
        vizwiz_scores({"a": "dog"}, {"a": ["dog"] * 3})
