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

FILE = os.environ.get("VQA_EVALUATOR")
pytestmark = pytest.mark.skipif(not FILE, reason="VQA_EVALUATOR names no evaluator")

WORDS = "a an the The none zero one Two TEN twelve yes no Yes red dog im its well hell dont don't".split()
MARKS = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "’", "“", "…", "¿", "。"]
SPACES = [
    " ",
    "  ",
    "\n",
    "\t",
    "\r",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\xa0",
    "\u2028",
    "\u3000",
    "\u200b",
    "",
]
NUMBERS = [*"0123456789", "1,000", "2.5", ".5", "5.", "3.14.15", "1,2,3", "٣", "٣,٤", "²", "１,２"]
LETTERS = ["é", "İ", "ß", "Σ", "ΑΣ", "ǅ", "\ud800", "🙂", "\u0301", "ﬁ"]


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


def text(rng: random.Random, words: list[str]) -> str:
    """A short text; the five kinds stress different rules."""
    kind = rng.randrange(5)
    if kind == 0:
        return "".join(chr(rng.randrange(1, 128)) for _ in range(rng.randrange(12)))
    if kind == 1:
        lists = (words, MARKS, SPACES, NUMBERS, LETTERS)
        return "".join(rng.choice(rng.choice(lists)) for _ in range(rng.randrange(9)))
    if kind == 2:
        return rng.choice(SPACES).join(rng.choice(words + MARKS) for _ in range(rng.randrange(6)))
    if kind == 3:
        return "".join(rng.choice([".", "..", ". ", "1.", ".a"]) for _ in range(rng.randrange(60)))
    return "".join(chr(rng.choice((rng.randrange(0x250), rng.randrange(0x110000)))) for _ in range(6))


def varied(rng: random.Random, text: str) -> str:
    """The text in another spelling."""
    return rng.choice(
        [text, text.upper(), f" {text}\n", f"{text}.", f"the {text}", text.replace("'", ""), f"{text}!"]
    )


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
