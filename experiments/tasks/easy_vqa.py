"""easy-VQA: public questions about drawn shapes that nobody here wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.datasets import easy_vqa
from experiments.datasets.example import Example
from experiments.metrics.exact import exact_scores
from experiments.tasks.task import Budget, Column, Task, TaskScores, accuracy_scores, references, register


class EasyVQA(Task):
    """The question is the prompt; exact match with the one answer. 2,000 of the training questions are used,
    so that full fine-tuning has room left."""

    name, title, packaged = "easy_vqa", "easy-VQA", True
    mirrors = True  # its questions are about one shape and its colour
    columns = (Column("easy_vqa.accuracy", "easy-VQA acc"),)
    budget = Budget(steps=160, train_examples=2000, eval_seconds=1.4e-3)

    def examples(self, data: Path, split: str) -> list[Example]:
        return easy_vqa.load(split)

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = exact_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "equality of the answer")


register(EasyVQA())
