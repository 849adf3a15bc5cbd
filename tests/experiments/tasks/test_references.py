"""What one describer gets by the others: the numbers of the docs, made again."""

import ast
import re
from pathlib import Path

import pytest

from experiments.datasets.example import Example
from experiments.scenes.captions import caption_scenes, captions
from experiments.tasks import TASKS

TABLE = Path(__file__).resolve().parents[3] / "docs" / "table.md"


def described(split, count, seed=0):
    """Examples as the reader gives them, without pictures."""
    for number, scene in enumerate(caption_scenes(split, count, seed)):
        yield Example(str(number), Path(f"{number}.png"), "", tuple(captions(scene, seed)), "caption", scene)


def test_the_docs_say_what_one_reference_gets_by_the_others():
    scores = TASKS["caption"].score_of_references(list(described("validation", 400)))
    printed = re.search(r"^# (\{'caption\.bleu4'.*\})$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert {key: round(100 * value, 1) for key, value in scores.columns.items()} == ast.literal_eval(printed)
    assert scores.kinds["objects: F1"][0] == scores.kinds["attributes: precision"][0] == 1


def test_the_first_is_scored_against_the_others():
    """Against all five the first would be found word for word."""
    examples = list(described("validation", 40))
    first = {example.id: example.references[0] for example in examples}
    others, itself = TASKS["caption"].score_of_references(examples), TASKS["caption"].score(first, examples)
    assert itself.columns["caption.bleu4"] == pytest.approx(1, abs=1e-6)
    assert others.columns["caption.bleu4"] < 0.8
    assert itself.columns["caption.scene"] == others.columns["caption.scene"]
