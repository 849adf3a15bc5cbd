"""Visual question answering on VizWiz-VQA's official files."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.datasets.example import Example
from experiments.datasets.vizwiz_vqa import ANSWERABLE
from experiments.metrics.vizwiz import answerability_scores, f1_from_counts, vizwiz_scores
from experiments.predictions.vizwiz import ANSWERABILITY, VIZWIZ
from experiments.tasks.questions import Questions
from experiments.tasks.task import Column, TaskScores, accuracy_scores, references, register

AP, F1 = "vizwiz_vqa.average_precision", "vizwiz_vqa.f1"


class VizWizVQA(Questions):
    """Accuracy as VizWiz's own evaluator has it; and the scores of its second task, whether a question can be
    answered from its picture, where predictions are numbers from 0 to 1 (a file of them, for `attngraph
    score`)."""

    name, title, data_set = "vizwiz_vqa", "VizWiz-VQA", "vizwiz_vqa"
    columns = (
        Column("vizwiz_vqa.accuracy", "VizWizVQA acc", averaged=True),
        Column(AP, "unanswerable AP", optional=True),
        Column(F1, "unanswerable F1", score=f1_from_counts, optional=True),
    )
    file_format, second_format = VIZWIZ, ANSWERABILITY

    def score(self, predictions: Mapping[str, Any], examples: Sequence[Example]) -> TaskScores:
        if any(isinstance(prediction, (int, float)) for prediction in predictions.values()):
            return _answerability(predictions, examples)
        scores = vizwiz_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "VizWiz's evaluator")


def _answerability(predictions: Mapping[str, float], examples: Sequence[Example]) -> TaskScores:
    truth = {example.id: int(example.groups[ANSWERABLE]) for example in examples}
    scores = answerability_scores(predictions, truth)
    columns = {AP: scores.average_precision, F1: scores.f1}
    return TaskScores(columns, {F1: scores.counts}, {}, "VizWiz's evaluator of answerability")


register(VizWizVQA())
