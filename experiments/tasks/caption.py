"""Captioning on drawn scenes in files in the format of Karpathy's COCO split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.datasets.coco import COCO
from experiments.datasets.dataset import split_examples
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.metrics.scene import scene_counts, scene_f1, scores_by_kind
from experiments.scenes.known import scene_of
from experiments.tasks.captions import Captions, caption_columns
from experiments.tasks.task import Column, TaskScores, register

SCENE = "caption.scene"


class Caption(Captions):
    """Also F1 against the scene where it is known."""

    name, title, drawn = "caption", "Captioning (Scenes, Karpathy format)", "captions"
    columns = (*caption_columns("caption"), Column(SCENE, "Scene F1", score=scene_f1, optional=True))

    def examples(self, data: Path, split: str) -> list[Example]:
        official = "val" if split == "validation" else split
        found = split_examples(COCO, data / "karpathy", official, Faults(), "karpathy")
        return [replace(example, scene=scene_of(example.image)) for example in found]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = super().score(predictions, examples)
        scenes = {example.id: example.scene for example in examples if example.scene is not None}
        if len(scenes) < len(examples):
            return scores
        counts = scene_counts(predictions, scenes)
        totals = counts.sum(axis=0)
        return TaskScores(
            {**scores.columns, SCENE: float(scene_f1(totals))},
            {**scores.statistics, SCENE: counts},
            scores_by_kind(totals),
            scores.evaluator,
        )


register(Caption())
