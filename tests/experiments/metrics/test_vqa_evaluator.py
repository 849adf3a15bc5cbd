"""VQA accuracy against VQA v2's evaluator itself, on random texts.

Runs only where the environment variable ``VQA_EVALUATOR`` names the evaluator's file ``vqaEval.py`` (see
docs/table.md); that file is no part of this project.
"""

import os
import random
import re
import warnings
from pathlib import Path

import pytest

from experiments.metrics.vqa import normalise_answer, vqa_scores
from tests.experiments.metrics.random_texts import WORDS, text, varied

FILE = os.environ.get("VQA_EVALUATOR")
pytestmark = pytest.mark.skipif(not FILE, reason="VQA_EVALUATOR names no evaluator")


class Answers:
    """What the evaluator asks of its data: ``qa``, question id -> record."""

    def __init__(self, records: dict):
        self.qa = records

    def getQuesIds(self) -> list:
        return list(self.qa)


@pytest.fixture(scope="module")
def evaluator() -> type:
    """The evaluator's class: its Python 2 source with tabs widened and ``print`` as a function."""
    source = re.sub(r'print (".*")', r"print(\1)", Path(FILE).read_text(encoding="utf-8").expandtabs(4))
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its regular expressions are no raw strings
        exec(compile(source, FILE, "exec"), names)
    return names["VQAEval"]


def test_texts_and_questions_are_scored_alike(evaluator):
    rng = random.Random(0)
    theirs = evaluator(Answers({}), Answers({}))
    words = [*WORDS, *theirs.contractions, *theirs.contractions.values()]
    words_alone = [*words, *(word.replace("'", "") for word in words)]
    for answer in [*words_alone, *(text(rng, words) for _ in range(40_000))]:
        line = answer.replace("\n", " ").replace("\t", " ").strip()
        assert normalise_answer(answer) == theirs.processDigitArticle(theirs.processPunctuation(line))

    predictions, references = {}, {}
    for number in range(10_000):
        answers = [text(rng, words) for _ in range(rng.choice((1, 1, 2, 3)))]
        answers += [varied(rng, rng.choice(answers)) for _ in range(rng.choice((0, 0, 1, 3)))]
        references[str(number)] = [rng.choice(answers) for _ in range(10)]
        predictions[str(number)] = varied(rng, rng.choice(answers))
    asked = {
        id: {
            "question_type": "",
            "answer_type": "",
            "answers": [{"answer_id": k, "answer": answer} for k, answer in enumerate(answers)],
        }
        for id, answers in references.items()
    }
    run = evaluator(Answers(asked), Answers({id: {"answer": text} for id, text in predictions.items()}))
    scores: dict[str, float] = {}
    run.setEvalQA = scores.__setitem__  # before it rounds
    run.updateProgress = lambda share: None
    run.evaluate()
    ours = vqa_scores(predictions, references)
    assert len({round(score, 9) for score in scores.values()}) == 5  # 0, 0.3, 0.6, 0.9 and 1 all occur
    assert dict(zip(references, ours.tolist(), strict=True)) == scores
