"""Visual question answering on VQA v2's official files."""

from collections.abc import Mapping, Sequence

from experiments.datasets.example import Example
from experiments.metrics.vqa import vqa_scores
from experiments.predictions.vqa import VQA_RESULTS
from experiments.tasks.questions import Questions
from experiments.tasks.task import Column, TaskScores, accuracy_scores, references, register


class VQA2(Questions):
    """Official VQA accuracy; in the Karpathy split where its file is there."""

    name, title, data_set = "vqa2", "VQA v2.0", "vqa2"
    mirrors = True
    columns = (Column("vqa2.accuracy", "VQA2.0 acc", averaged=True),)
    file_format = VQA_RESULTS

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = vqa_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "VQA v2's evaluator (March 2021)")


register(VQA2())
