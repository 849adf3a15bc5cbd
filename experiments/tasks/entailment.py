"""What the tasks of visual entailment share."""

from collections.abc import Mapping, Sequence

from experiments.datasets.example import Example
from experiments.metrics.exact import ENTAILMENT_WORDS, entailment_scores
from experiments.predictions.snli_ve import SNLI_VE
from experiments.tasks.task import Budget, Task, TaskScores, accuracy_scores, references


class Entailment(Task):
    """``Is it correct that <hypothesis> ?`` is answered by correct, incorrect or ambiguous. Synonyms count
    (:data:`experiments.metrics.exact.SYNONYMS`): who was not trained on the task says yes or no.
    """

    budget = Budget(eval_seconds=1.9e-3)
    file_format = SNLI_VE
    prompts = {"default": "is it correct that {text} ?"}

    def text(self, example: Example) -> str:
        return example.prompt.rstrip(" .")

    def target(self, example: Example, draw: float) -> str:
        return ENTAILMENT_WORDS[example.references[0]]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = entailment_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "equality of the label")
