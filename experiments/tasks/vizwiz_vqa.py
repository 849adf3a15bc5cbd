"""Visual question answering on VizWiz-VQA's official files."""

from collections.abc import Mapping, Sequence

from experiments.datasets.example import Example
from experiments.metrics.vizwiz import vizwiz_scores
from experiments.predictions.vizwiz import VIZWIZ
from experiments.tasks.questions import Questions
from experiments.tasks.task import Column, TaskScores, accuracy_scores, references, register


class VizWizVQA(Questions):
    """Accuracy as VizWiz's own evaluator has it."""

    name, title, data_set = "vizwiz_vqa", "VizWiz-VQA", "vizwiz_vqa"
    columns = (Column("vizwiz_vqa.accuracy", "VizWizVQA acc", averaged=True),)
    file_format = VIZWIZ

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = vizwiz_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "VizWiz's evaluator")


register(VizWizVQA())
