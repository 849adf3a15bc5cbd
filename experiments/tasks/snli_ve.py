"""Visual entailment on SNLI-VE's official files."""

from pathlib import Path

from experiments.datasets.faults import Faults
from experiments.metrics.exact import ENTAILMENT_WORDS
from experiments.models.family import Answering
from experiments.models.ranking import Ranking
from experiments.tasks.entailment import Entailment
from experiments.tasks.official import Official
from experiments.tasks.task import Budget, Column, register

WORDS = tuple(ENTAILMENT_WORDS.values())


class SNLIVE(Official, Entailment):
    """The three words are ranked, as in p-Adapter: a model that was not trained on the task is not wrong for
    its wording."""

    name, title, data_set, like = "snli_ve", "SNLI-VE", "snli_ve", "ve"
    ranks = True
    mirrors = True
    budget = Budget(eval_seconds=4e-3)
    columns = (Column("snli_ve.accuracy", "SNLI-VE acc", averaged=True),)

    def answers(self, data: Path, faults: Faults) -> tuple[str, ...]:
        return WORDS

    def answering(self, data: Path) -> Answering:
        return Ranking(WORDS)


register(SNLIVE())
