"""VizWiz's scores against VizWiz's evaluator itself, on random texts and confidences.

Runs only where the environment variable ``VIZWIZ_EVALUATOR`` names the evaluator's file ``vqaEval.py`` (see
docs/scoring.md); that file is no part of this project.
"""

import os
import random
import re
import warnings
from pathlib import Path

import pytest

from experiments.metrics.vizwiz import answerability_scores, normalise_prediction, vizwiz_scores
from tests.experiments.metrics.random_texts import WORDS, text, varied

FILE = os.environ.get("VIZWIZ_EVALUATOR")
pytestmark = pytest.mark.skipif(not FILE, reason="VIZWIZ_EVALUATOR names no evaluator")


class Records:
    """What the evaluator asks of its data: ``imgToQA``, image -> record."""

    def __init__(self, records: dict):
        self.imgToQA = records

    def getImgs(self) -> list:
        return list(self.imgToQA)


@pytest.fixture(scope="module")
def evaluator() -> type:
    """The evaluator's class, without the caption metrics that stand below it in the file."""
    source = Path(FILE).read_text(encoding="utf-8").expandtabs(4)
    source = re.split(r"^from \.?pycocoevalcap", source, flags=re.MULTILINE)[0]
    source = re.sub(r'print (".*")', r"print(\1)", source)
    names: dict = {"__name__": "evaluator"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its regular expressions are no raw strings
        exec(compile(source, FILE, "exec"), names)
    return names["VQAEval"]


def test_texts_and_images_are_scored_alike(evaluator):
    rng = random.Random(0)
    theirs = evaluator(Records({}), Records({}))
    table = [*theirs.contractions, *theirs.contractions.values()]
    words = [*WORDS, *table, *(word.replace("’", "'") for word in table)]
    alone = [*words, *(re.sub("['’]", "", word) for word in words)]
    for answer in [*alone, *(text(rng, words) for _ in range(40_000))]:
        line = answer.replace("\n", " ").replace("\t", " ").strip()
        assert normalise_prediction(answer) == theirs.processDigitArticle(theirs.processPunctuation(line))

    predictions, references = {}, {}
    for number in range(10_000):
        answers = [text(rng, words) for _ in range(rng.choice((1, 1, 2, 3)))]
        answers = [rng.choice((answer, normalise_prediction(answer))) for answer in answers]
        answers += [varied(rng, rng.choice(answers)) for _ in range(rng.choice((0, 0, 1, 3)))]
        references[f"{number}.jpg"] = [rng.choice(answers) for _ in range(10)]
        predictions[f"{number}.jpg"] = varied(rng, rng.choice(answers))
    truth = Records(
        {
            image: {"answer_type": "", "answers": [{"answer": answer} for answer in answers]}
            for image, answers in references.items()
        }
    )
    run = evaluator(truth, Records({image: {"answer": text} for image, text in predictions.items()}))
    scores: dict[str, float] = {}
    run.setEvalQA = scores.__setitem__  # before it rounds
    run.updateProgress = lambda share: None
    with pytest.raises((NameError, KeyError)):  # its caption metrics, which follow, are left out here
        run.evaluate()
    ours = vizwiz_scores(predictions, references)
    assert len({round(score, 9) for score in scores.values()}) == 5  # 0, 0.3, 0.6, 0.9 and 1 all occur
    assert dict(zip(references, ours.tolist(), strict=True)) == scores


def test_answerability_is_scored_alike(evaluator):
    rng = random.Random(1)
    for round_number in range(300):
        size = rng.choice((2, 5, 40, 400))
        truth = {f"{k}.jpg": int(rng.random() < 0.7) for k in range(size)}
        truth["0.jpg"] = 0
        steps = rng.choice((1, 2, 10, 10**9))  # ties, and values at the threshold
        given = {image: rng.randrange(steps + 1) / steps for image in truth}
        run = evaluator(
            Records({image: {"answerable": value} for image, value in truth.items()}),
            Records({image: {"answerable": value} for image, value in given.items()}),
        )
        run.n = 12  # decimals of a percentage
        run.evaluate_unanswerability()
        ours = answerability_scores(given, truth)
        assert 100 * ours.average_precision == pytest.approx(run.unanswerability["average_precision"])
        assert 100 * ours.f1 == pytest.approx(run.unanswerability["f1_score"]), round_number
