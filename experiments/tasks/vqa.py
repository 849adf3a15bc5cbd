"""Visual question answering on files in the format of VQA v2."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.datasets.dataset import OFFICIAL, split_examples
from experiments.datasets.example import Example
from experiments.datasets.vqa2 import VQA2, Drawn
from experiments.metrics.vqa import vqa_scores
from experiments.predictions.vqa import VQA_RESULTS
from experiments.tasks.task import Budget, Column, Task, TaskScores, accuracy_scores, references, register


class VQA(Task):
    """The question is the prompt; official VQA accuracy against ten answers."""

    name, title, drawn = "vqa", "VQA (Scenes, VQA v2 format)", "questions"
    columns = (Column("vqa.accuracy", "VQA acc", averaged=True),)
    budget = Budget(eval_seconds=1.7e-3)
    file_format = VQA_RESULTS

    def examples(self, data: Path, split: str) -> list[Example]:
        found = split_examples(VQA2, data / "vqa_v2", OFFICIAL[split], Drawn())
        return [replace(example, groups={}) for example in found]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = vqa_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "VQA v2's evaluator (March 2021)")


register(VQA())
