"""The kinds of tasks: questions, entailment and captions; with texts as BLIP, ALBEF and p-Adapter prepare
them, and lists of answers that can be ranked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.base.reading import Record, Unique, records
from attngraph.experiments.data.example import Example
from attngraph.experiments.metrics.captions import bleu4_from_counts, caption_scores
from attngraph.experiments.metrics.exact import ENTAILMENT_WORDS, entailment_scores
from attngraph.experiments.metrics.statistics import mean_statistics
from attngraph.experiments.models.blip import DESCRIBE
from attngraph.experiments.models.family import GNMT, Decoding
from attngraph.experiments.tasks.formats import CAPTIONS, SNLI_VE
from attngraph.experiments.tasks.official import Official
from attngraph.experiments.tasks.task import (
    Budget,
    Column,
    Task,
    TaskScores,
    accuracy_scores,
    majority,
    references,
)

ANSWER_LIST = "answer_list.json"
LISTED = 3128  # as many as BLIP's list for VQA v2 has
WORDS = 30  # of a caption

_MARKS = re.compile(r"[.!\"()*#:;~]")
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
    decoding = Decoding(max_new_tokens=10, num_beams=3)
    decodings = {"mplug": Decoding(10, 5, 1, GNMT)}

    def text(self, example: Example) -> str:
        return plain_question(example.prompt)

    def target(self, example: Example, draw: float) -> str:
        """The answer of an annotator, those that most agree on first: 0 draws the most frequent one."""
        counts = Counter(example.references)
        ranked = [answer for answer, count in counts.most_common() for _ in range(count)]
        return ranked[int(draw * len(ranked))]

    def answers(self, data: Path) -> tuple[str, ...]:
        file = data / self.data_set / ANSWER_LIST
        if file.exists():
            return read_answers(file)
        part, whole = self.table(data, "train")
        key = (whole.about.digest, part.held_out)
        if key not in _FREQUENT:
            _FREQUENT[key] = frequent_answers(self.examples(data, "train"), LISTED)
        return _FREQUENT[key]


def read_answers(file: Path) -> tuple[str, ...]:
    """The answers of a JSON list of texts, such as BLIP's and p-Adapter's ``answer_list.json``, in its order.

    Raises:
        UserError: the file is missing or something else, is empty, or holds an empty answer or one twice.
    """
    known, answers = Unique(file, "answer"), []
    for where, answer in records(file):
        answers.append(Record({"answer": answer}, file, where, "give a list of texts").text("answer"))
        known.add(answer, where)
    if not answers:
        raise UserError(f"{file}: the list is empty; give a list of texts")
    return tuple(answers)


def frequent_answers(examples: Sequence[Example], count: int) -> tuple[str, ...]:
    """The ``count`` answers that the most training examples agree on, the most frequent first, of equally
    frequent ones the one that comes first; fewer where there are no more.

    An example counts once, with its own most frequent answer, as in the list of 3,129 answers that occur nine
    times or more in VQA 2.0 (``compute_softscore.py`` of github.com/hengyuan-hu/bottom-up-attention-vqa).
    """
    agreed = Counter(majority(example.references) for example in examples if example.references)
    agreed.pop("", None)
    return tuple(answer for answer, _ in agreed.most_common(count))


def plain_question(question: str) -> str:
    """``pre_question`` of BLIP's code: lower case, without the marks ``.!"()*#:;~``. "?" stays, and so does
    mPLUG's "[SEP]", which parts a question from words that were read in the picture. mPLUG's own code leaves
    marks and only lowers the case; here all models read the same texts.
    """
    return _MARKS.sub("", question.lower()).strip().replace("[sep]", "[SEP]")


class Entailment(Task):
    """``Is it correct that <hypothesis> ?`` is answered by correct, incorrect or ambiguous. Synonyms count
    (:data:`attngraph.experiments.metrics.exact.SYNONYMS`): who was not trained on the task says yes or no.
    """

    file_format = SNLI_VE
    prompts = {"default": "is it correct that {text} ?"}

    def text(self, example: Example) -> str:
        return example.prompt.rstrip(" .")

    def target(self, example: Example, draw: float) -> str:
        return ENTAILMENT_WORDS[example.references[0]]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = entailment_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "equality of the label")


def caption_columns(name: str, heading: str = "") -> tuple[Column, Column]:
    """The two columns of a captioning task.

    Args:
        name: the task's.
        heading: printed before the metrics' names.
    """
    return (
        Column(f"{name}.bleu4", f"{heading} BLEU@4".strip(), averaged=True, score=bleu4_from_counts),
        Column(f"{name}.cider", f"{heading} CIDEr".strip(), averaged=True, most=10.0),
    )


class Captions(Task):
    """One fixed prompt, beam search; BLEU@4 and CIDEr against all reference captions of an image."""

    decoding = Decoding(max_new_tokens=24, num_beams=3)
    budget = Budget(steps=200)
    file_format = CAPTIONS
    needs = ("pycocoevalcap",)
    prompts = {"default": DESCRIBE, "mplug": ""}

    @property
    def selects(self) -> str:
        return f"{self.name}.cider"

    def target(self, example: Example, draw: float) -> str:
        return example.references[int(draw * len(example.references))]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = caption_scores(predictions, references(examples))
        bleu4, cider = f"{self.name}.bleu4", f"{self.name}.cider"
        return TaskScores(
            {bleu4: scores.bleu4, cider: scores.cider},
            {
                bleu4: scores.bleu_counts.astype(np.float64),
                cider: mean_statistics(scores.cider_examples),
            },
            {"caption": (scores.cider, len(examples))},
            f"pycocoevalcap, {scores.tokenizer}",
        )


class OfficialCaptions(Official, Captions):
    """Captions in official files. Training captions are prepared as BLIP prepares them; BLIP itself is asked
    with its own prompt, and mPLUG writes as its own code lets it."""

    like = "caption"
    prompts = {"default": DESCRIBE, "blip": "a picture of", "mplug": ""}
    decodings = {"mplug": Decoding(25, 5, 8, GNMT)}

    def target(self, example: Example, draw: float) -> str:
        return plain_caption(super().target(example, draw))


def plain_caption(caption: str) -> str:
    """``pre_caption`` of BLIP's code: lower case, a space for each of the marks ``.!"()*#:;~``, at most
    :data:`WORDS` words.
    """
    return " ".join(_MARKS.sub(" ", caption.lower()).split()[:WORDS])
