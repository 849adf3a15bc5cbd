"""What the tasks of answering questions in official files share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.question_files import ANNOTATORS
from experiments.models.family import GNMT, Decoding
from experiments.tasks.answers import frequent_answers, read_answers
from experiments.tasks.official import Official
from experiments.tasks.task import Budget
from experiments.tasks.wording import plain_question

ANSWER_LIST = "answer_list.json"
LISTED = 3128  # as many as BLIP's list for VQA v2 has
_FREQUENT: dict[tuple[str, bool | None], tuple[str, ...]] = {}  # counted once in a process


class Questions(Official):
    """The question is the prompt, without words around it, as in BLIP and p-Adapter; ten annotators' answers.

    It is answered by generation with three beams, as BLIP's code does where it does not rank, or as mPLUG's
    code does; or by ranking the answers of ``answer_list.json`` in the data set's folder, or else the
    :data:`LISTED` most frequent answers of training.

    Training draws an answer with the share of annotators who gave it: on average that is the loss of BLIP and
    mPLUG, in which each different answer has this weight.
    """

    like, ranks = "vqa", True
    scored_references = ANNOTATORS
    decoding = Decoding(max_new_tokens=10, num_beams=3)
    decodings = {"mplug": Decoding(10, 5, 1, GNMT)}
    budget = Budget(eval_seconds=12e-3)

    def text(self, example: Example) -> str:
        return plain_question(example.prompt)

    def target(self, example: Example, draw: float) -> str:
        """The answer of an annotator, those that most agree on first: 0 draws the most frequent one."""
        counts = Counter(example.references)
        ranked = [answer for answer, count in counts.most_common() for _ in range(count)]
        return ranked[int(draw * len(ranked))]

    def answers(self, data: Path, faults: Faults) -> tuple[str, ...]:
        file = data / self.data_set / ANSWER_LIST
        if file.exists():
            return read_answers(file)
        part, whole = self.table(data, "train", Faults(faults.limit))
        key = (whole.digest, part.held_out)
        if key not in _FREQUENT:
            _FREQUENT[key] = frequent_answers(self.read(data, "train", Faults(faults.limit)), LISTED)
        return _FREQUENT[key]
