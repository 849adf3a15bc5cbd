"""What the captioning tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from experiments.datasets.example import Example
from experiments.metrics.captions import bleu4_from_counts, caption_scores
from experiments.metrics.statistics import mean_statistics
from experiments.models.family import GNMT, Decoding
from experiments.models.mini_blip import DESCRIBE
from experiments.predictions.captions import CAPTIONS
from experiments.tasks.official import Official
from experiments.tasks.task import Budget, Column, Task, TaskScores, references
from experiments.tasks.wording import plain_caption


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
    budget = Budget(steps=200, eval_seconds=20e-3)
    file_format = CAPTIONS
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

    def score_of_references(self, examples: Sequence[Example]) -> TaskScores:
        """Scores of each example's first reference against its others: what one describer gets by the others.
        Above it, BLEU and CIDEr reward whoever repeats the most frequent wordings.
        """
        first = {example.id: example.references[0] for example in examples}
        return self.score(
            first, [replace(example, references=example.references[1:]) for example in examples]
        )


class OfficialCaptions(Official, Captions):
    """Captions in official files. Training captions are prepared as BLIP prepares them; BLIP itself is asked
    with its own prompt, and mPLUG writes as its own code lets it."""

    like = "caption"
    prompts = {"default": DESCRIBE, "blip": "a picture of", "mplug": ""}
    decodings = {"mplug": Decoding(25, 5, 8, GNMT)}

    def target(self, example: Example, draw: float) -> str:
        return plain_caption(super().target(example, draw))
