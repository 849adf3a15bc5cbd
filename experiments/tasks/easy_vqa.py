"""easy-VQA: public questions about drawn shapes that nobody here wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.datasets import easy_vqa
from experiments.datasets.example import Example
from experiments.metrics.exact import exact_scores
from experiments.tasks.task import Task, TaskScores, accuracy_scores, add, references


class EasyVQA(Task):
    """The question is the prompt; exact match with the one answer."""

    name, title = "easy_vqa", "easy-VQA"

    def examples(self, data: Path, split: str) -> list[Example]:
        return easy_vqa.load(split)

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        return accuracy_scores("easy_vqa", exact_scores(predictions, references(examples)), examples)


add(EasyVQA())
