"""VQA accuracy against the evaluators of VQA v2 and VizWiz themselves, on random texts.

Runs only where the environment variables ``VQA_EVALUATOR`` and ``VIZWIZ_EVALUATOR`` name their files
``vqaEval.py`` (see docs/scoring.md), which are not part of this project.
"""

import os
import random
import re
import warnings
from pathlib import Path

import pytest

from attngraph.experiments.metrics.vqa import (
    CONTRACTIONS,
    VIZWIZ_CONTRACTIONS,
    normalise_answer,
    vizwiz_scores,
    vqa_scores,
)

WORDS = "a an the The none zero one Two TEN twelve yes no Yes red dog im its well hell dont don't".split()
MARKS = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~’“…¿。"]
SPACES = [*" \n\t\r\x0b\x0c\x1c\x85\xa0\u2028\u3000\u200b", "  ", ""]
NUMBERS = [*"0123456789٣²", "1,000", "2.5", ".5", "5.", "3.14.15", "1,2,3", "٣,٤", "１,２"]
LETTERS = ["é", "İ", "ß", "Σ", "ΑΣ", "ǅ", "\ud800", "🙂", "\u0301", "ﬁ"]


def text(rng: random.Random, words: list[str]) -> str:
    """A short text; the four kinds stress different rules."""
    kind, length = rng.randrange(4), rng.randrange(12)
    if kind == 0:
        return "".join(
            chr(rng.choice((rng.randrange(1, 128), rng.randrange(0x110000)))) for _ in range(length)
        )
    if kind == 1:
        return "".join(
            rng.choice(rng.choice((words, MARKS, SPACES, NUMBERS, LETTERS))) for _ in range(length)
        )
    if kind == 2:
        return rng.choice(SPACES).join(rng.choice(words + MARKS) for _ in range(length))
    return "".join(rng.choice([".", "..", ". ", "1.", ".a"]) for _ in range(5 * length))


def varied(rng: random.Random, text: str) -> str:
    """The text in another spelling."""
    return rng.choice(
        [text, text.upper(), f" {text}\n", f"{text}.", f"the {text}", text.replace("'", ""), f"{text}!"]
    )


class Records:
    """What the evaluators ask of their data: records by question or image id."""

    def __init__(self, records: dict):
        self.qa = self.imgToQA = records

    def getQuesIds(self) -> list:
        return list(self.qa)

    getImgs = getQuesIds


def evaluator(name: str) -> type:
    """The evaluator's class from its Python 2 source, without the caption metrics at VizWiz' end."""
    file = os.environ.get(name)
    if not file:
        pytest.skip(f"{name} names no evaluator")
    source = Path(file).read_text(encoding="utf-8").expandtabs(4)
    source = re.split(r"^from \.?pycocoevalcap", source, flags=re.MULTILINE)[0]
    names: dict = {"__name__": "evaluator"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its regular expressions are no raw strings
        exec(compile(re.sub(r'print (".*")', r"print(\1)", source), file, "exec"), names)
    return names["VQAEval"]


def official_scores(theirs: type, truth: dict, given: dict) -> dict[str, float]:
    """The evaluator's scores before it rounds."""
    run, scores = theirs(Records(truth), Records(given)), {}
    run.setEvalQA = scores.__setitem__
    run.updateProgress = lambda share: None
    try:
        run.evaluate()
    except (NameError, KeyError):  # VizWiz' caption metrics, which follow, are left out here
        assert scores
    return scores


@pytest.mark.parametrize(
    "name, contractions, score",
    [
        ("VQA_EVALUATOR", CONTRACTIONS, vqa_scores),
        ("VIZWIZ_EVALUATOR", VIZWIZ_CONTRACTIONS, vizwiz_scores),
    ],
)
def test_texts_and_questions_are_scored_alike(name, contractions, score):
    rng, theirs = random.Random(0), evaluator(name)
    run = theirs(Records({}), Records({}))
    table = [*run.contractions, *run.contractions.values()]
    words = [*WORDS, *table, *(word.replace("’", "'") for word in table)]
    alone = [*words, *(re.sub("['’]", "", word) for word in words)]
    for answer in [*alone, *(text(rng, words) for _ in range(40_000))]:
        line = answer.replace("\n", " ").replace("\t", " ").strip()
        processed = run.processDigitArticle(run.processPunctuation(line))
        assert normalise_answer(answer, contractions) == processed

    predictions, references = {}, {}
    for number in range(10_000):
        answers = [text(rng, words) for _ in range(rng.choice((1, 1, 2, 3)))]
        answers = [rng.choice((answer, normalise_answer(answer, contractions))) for answer in answers]
        answers += [varied(rng, rng.choice(answers)) for _ in range(rng.choice((0, 0, 1, 3)))]
        references[str(number)] = [rng.choice(answers) for _ in range(10)]
        predictions[str(number)] = varied(rng, rng.choice(answers))
    truth = {
        id: {
            "question_type": "",
            "answer_type": "",
            "answers": [{"answer_id": k, "answer": answer} for k, answer in enumerate(answers)],
        }
        for id, answers in references.items()
    }
    scores = official_scores(theirs, truth, {id: {"answer": said} for id, said in predictions.items()})
    ours = score(predictions, references)
    assert len({round(one, 9) for one in scores.values()}) == 5  # 0, 0.3, 0.6, 0.9 and 1 all occur
    assert dict(zip(references, ours.tolist(), strict=True)) == scores
