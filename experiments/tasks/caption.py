"""Captioning on files in the format of Karpathy's COCO split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.datasets import karpathy
from experiments.datasets.example import Example
from experiments.metrics.captions import bleu4_from_counts, caption_scores
from experiments.metrics.scene_captions import scene_counts, scene_f1, scores_by_kind
from experiments.metrics.statistics import mean_statistics
from experiments.models.family import Decoding
from experiments.models.mini_blip import DESCRIBE
from experiments.predictions.captions import CAPTIONS
from experiments.scenes.known import scene_of
from experiments.tasks.task import Budget, Column, Task, TaskScores, references, register

BLEU4, CIDER, SCENE = "caption.bleu4", "caption.cider", "caption.scene"


class Caption(Task):
    """One fixed prompt, beam search; BLEU@4 and CIDEr against five references; F1 against the scene where it
    is known."""

    name, title, drawn = "caption", "Captioning (Scenes, Karpathy format)", "captions"
    columns = (
        Column(BLEU4, "BLEU@4", averaged=True, score=bleu4_from_counts),
        Column(CIDER, "CIDEr", averaged=True),
        Column(SCENE, "Scene F1", score=scene_f1, optional=True),
    )
    selects = CIDER
    decoding = Decoding(max_new_tokens=24, num_beams=3)
    budget = Budget(steps=200, eval_seconds=20e-3)
    file_format = CAPTIONS
    prompts = {"default": DESCRIBE}

    def examples(self, data: Path, split: str) -> list[Example]:
        found = karpathy.load(data / "karpathy" / "dataset_coco.json", data / "karpathy", split)
        return [replace(example, scene=scene_of(example.image)) for example in found]

    def target(self, example: Example, draw: float) -> str:
        return example.references[int(draw * len(example.references))]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = caption_scores(predictions, references(examples))
        columns = {BLEU4: scores.bleu4, CIDER: scores.cider}
        statistics = {
            BLEU4: scores.bleu_counts.astype(np.float64),
            CIDER: mean_statistics(scores.cider_examples),
        }
        evaluator = f"pycocoevalcap, {scores.tokenizer}"
        scenes = {example.id: example.scene for example in examples if example.scene is not None}
        if len(scenes) < len(examples):
            kinds = {"caption": (scores.cider, len(examples))}
            return TaskScores(columns, statistics, kinds, evaluator)
        counts = scene_counts(predictions, scenes)
        totals = counts.sum(axis=0)
        return TaskScores(
            {**columns, SCENE: float(scene_f1(totals))},
            {**statistics, SCENE: counts},
            scores_by_kind(totals),
            evaluator,
        )

    def score_of_references(self, examples: Sequence[Example]) -> TaskScores:
        """Scores of each example's first reference against its others: what one describer gets by the others.
        Above it, BLEU and CIDEr reward whoever repeats the most frequent wordings.
        """
        first = {example.id: example.references[0] for example in examples}
        return self.score(
            first, [replace(example, references=example.references[1:]) for example in examples]
        )


register(Caption())
