"""A complete custom task: the colours of easy-VQA's shapes.

Run it with ``attngraph --plugin example_task.py ablation --tasks colours``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attngraph.experiments.data import easy_vqa
from attngraph.experiments.data.example import Example
from attngraph.experiments.metrics.exact import exact_scores
from attngraph.experiments.models import Decoding
from attngraph.experiments.tasks import Column, Task, TaskScores, register
from attngraph.experiments.tasks.task import Budget, accuracy_scores, references


class Colours(Task):
    """The colour of a shape: one word, exact match."""

    name, title, packaged = "colours", "Colours of shapes", True
    columns = (Column("colours.accuracy", "Colour acc"),)
    prompts = {"default": "{text}", "image_text": "{text} Answer in one word."}
    decoding = Decoding(max_new_tokens=3)
    budget = Budget(steps=100, train_examples=1000, eval_examples=500)

    def examples(self, data: Path, split: str) -> list[Example]:
        """The reader: easy-VQA's own files, those questions that ask for a colour."""
        return [example for example in easy_vqa.load(split) if example.kind == "which-color"]

    def target(self, example: Example, draw: float) -> str:
        return example.references[0]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        """The metric: 1 for the right word, 0 for any other; its mean is the column."""
        scores = exact_scores(predictions, references(examples))
        return accuracy_scores("colours.accuracy", scores, examples)


register(Colours())
