"""The kinds of tasks: questions, entailment and captions; with the text preprocessing of BLIP, ALBEF and
p-Adapter, and lists of answers to rank.
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
    """The question alone is the prompt, as in BLIP and p-Adapter; references are ten annotators' answers.

    Answers are generated with three beams, as in BLIP's code without ranking, or as in mPLUG's code; or the
    answers of ``answer_list.json`` in the dataset's folder are ranked, or else the :data:`LISTED` most
    frequent answers of training.

    Training samples an answer with probability equal to the fraction of annotators who gave it. In
    expectation this is the loss of BLIP and mPLUG, in which each distinct answer has this weight.
    """

    like, ranks = "vqa", True
    decoding = Decoding(max_new_tokens=10, num_beams=3)
    decodings = {"mplug": Decoding(10, 5, 1, GNMT)}

    def text(self, example: Example) -> str:
        return plain_question(example.prompt)

    def target(self, example: Example, draw: float) -> str:
        """The answer of an annotator, ordered by frequency: 0 selects the most frequent one."""
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
        UserError: the file is missing, not a list of texts, or empty, or contains an empty or duplicate
            answer.
    """
    known, answers = Unique(file, "answer"), []
    for where, answer in records(file):
        answers.append(Record({"answer": answer}, file, where, "use a list of texts").text("answer"))
        known.add(answer, where)
    if not answers:
        raise UserError(f"{file}: the list is empty; use a list of texts")
    return tuple(answers)


def frequent_answers(examples: Sequence[Example], count: int) -> tuple[str, ...]:
    """The ``count`` most frequent answers of the training examples, in order of frequency, equally frequent
    ones in order of occurrence; fewer if there are no more.

    Each example counts once, with its most frequent answer, as in the list of 3,129 answers that occur nine
    times or more in VQA 2.0 (``compute_softscore.py`` of github.com/hengyuan-hu/bottom-up-attention-vqa).
    """
    agreed = Counter(majority(example.references) for example in examples if example.references)
    agreed.pop("", None)
    return tuple(answer for answer, _ in agreed.most_common(count))


def plain_question(question: str) -> str:
    """``pre_question`` of BLIP's code: lower case, without the marks ``.!"()*#:;~``. "?" is kept, and so is
    mPLUG's "[SEP]", which separates a question from words read in the image. mPLUG's code keeps the marks and
    only converts to lower case; here all models read the same texts.
    """
    return _MARKS.sub("", question.lower()).strip().replace("[sep]", "[SEP]")


class Entailment(Task):
    """``Is it correct that <hypothesis> ?`` is answered by correct, incorrect or ambiguous. Synonyms are
    accepted (:data:`attngraph.experiments.metrics.exact.SYNONYMS`), since models not trained on the task say
    yes or no.
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
        name: name of the task.
        heading: prefix of the metrics' names in headings.
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
    """Captions in official files. Training captions are preprocessed as in BLIP; BLIP gets its original
    prompt, and mPLUG generates as in its original code.
    """

    like = "caption"
    prompts = {"default": DESCRIBE, "blip": "a picture of", "mplug": ""}
    decodings = {"mplug": Decoding(25, 5, 8, GNMT)}

    def target(self, example: Example, draw: float) -> str:
        return plain_caption(super().target(example, draw))


def plain_caption(caption: str) -> str:
    """``pre_caption`` of BLIP's code: lower case, a space instead of each of the marks ``.!"()*#:;~``, at
    most :data:`WORDS` words.
    """
    return " ".join(_MARKS.sub(" ", caption.lower()).split()[:WORDS])
