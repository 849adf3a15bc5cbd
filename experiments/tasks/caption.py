"""Captioning on files in the format of Karpathy's COCO split."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.datasets import karpathy
from experiments.datasets.example import Example
from experiments.metrics.captions import bleu4_from_counts, caption_scores
from experiments.metrics.statistics import mean_statistics
from experiments.models.family import Decoding
from experiments.models.mini_blip import DESCRIBE
from experiments.tasks.task import Budget, Column, SearchSpace, Task, TaskScores, references, register

BLEU4, CIDER = "caption.bleu4", "caption.cider"


class Caption(Task):
    """One fixed prompt; BLEU@4 and CIDEr against five references, beam search."""

    name, title, drawn = "caption", "Captioning (Scenes, Karpathy format)", "captions"
    columns = (
        Column(BLEU4, "BLEU@4", averaged=True, score=bleu4_from_counts),
        Column(CIDER, "CIDEr", averaged=True),
    )
    selects = CIDER
    decoding = Decoding(max_new_tokens=24, num_beams=3)
    budget = Budget(steps=200, eval_seconds=20e-3)
    search = SearchSpace(rates=(1e-3, 3e-3, 6e-3, 12e-3, 24e-3), joins=True)
    prompts = {"default": DESCRIBE}

    def examples(self, data: Path, split: str) -> list[Example]:
        return karpathy.load(data / "karpathy" / "dataset_coco.json", data / "karpathy", split)

    def target(self, example: Example, draw: float) -> str:
        return example.references[int(draw * len(example.references))]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = caption_scores(predictions, references(examples))
        statistics = {
            BLEU4: scores.bleu_counts.astype(np.float64),
            CIDER: mean_statistics(scores.cider_examples),
        }
        return TaskScores(
            {BLEU4: scores.bleu4, CIDER: scores.cider}, statistics, {"caption": (scores.cider, len(examples))}
        )


register(Caption())
