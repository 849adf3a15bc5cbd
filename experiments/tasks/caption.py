"""Captioning on files in the format of Karpathy's COCO split."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.datasets import karpathy
from experiments.datasets.example import Example
from experiments.metrics.captions import caption_scores
from experiments.report.significance import mean_statistics
from experiments.tasks.task import Task, TaskScores, add, references


class Caption(Task):
    """One fixed prompt; BLEU@4 and CIDEr against five references, beam search."""

    name, title = "caption", "Captioning (Scenes, Karpathy format)"
    max_new_tokens, num_beams = 24, 3

    def examples(self, data: Path, split: str) -> list[Example]:
        return karpathy.load(data / "karpathy" / "dataset_coco.json", data / "karpathy", split)

    def prompt(self, example: Example) -> str:
        return "what does the image describe ?"

    def target(self, example: Example, draw: float) -> str:
        return example.references[int(draw * len(example.references))]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = caption_scores(predictions, references(examples))
        return TaskScores(
            {"bleu4": scores.bleu4, "cider": scores.cider},
            {"bleu4": scores.bleu_counts.astype(np.float64), "cider": mean_statistics(scores.cider_examples)},
            {"caption": (scores.cider, len(examples))},
        )

    @property
    def selection(self) -> str:
        return "cider"


add(Caption())
