"""Visual entailment, cast as generation, on files in the format of SNLI-VE."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.datasets import snli_ve
from experiments.datasets.example import Example
from experiments.metrics.entailment import ENTAILMENT_WORDS, entailment_scores
from experiments.predictions.snli_ve import SNLI_VE
from experiments.scenes.write import VE_SPLITS
from experiments.tasks.task import Budget, Column, Task, TaskScores, accuracy_scores, references, register


class VisualEntailment(Task):
    """``Is it correct that <hypothesis> ?`` is answered by correct, incorrect or ambiguous. Synonyms count
    (:data:`experiments.metrics.entailment.SYNONYMS`): who was not trained on the task says yes or no.
    """

    name, title, drawn = "ve", "Visual entailment (Scenes, SNLI-VE format)", "hypotheses"
    columns = (Column("ve.accuracy", "VE acc", averaged=True),)
    budget = Budget(eval_seconds=1.9e-3)
    file_format = SNLI_VE
    prompts = {"default": "is it correct that {text} ?"}

    def examples(self, data: Path, split: str) -> list[Example]:
        folder = data / "snli_ve"
        return snli_ve.load(folder / f"snli_ve_{VE_SPLITS[split]}.jsonl", folder / "flickr30k_images")

    def text(self, example: Example) -> str:
        return example.prompt.rstrip(" .")

    def target(self, example: Example, draw: float) -> str:
        return ENTAILMENT_WORDS[example.references[0]]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = entailment_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "equality of the label")


register(VisualEntailment())
