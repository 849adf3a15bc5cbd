"""Visual entailment, cast as generation, on drawn scenes in files in the format of SNLI-VE."""

from dataclasses import replace
from pathlib import Path

from experiments.datasets.dataset import OFFICIAL, split_examples
from experiments.datasets.example import Example
from experiments.datasets.snli_ve import SNLI_VE
from experiments.tasks.entailment import Entailment
from experiments.tasks.task import Column, register


class VisualEntailment(Entailment):
    """A word is generated."""

    name, title, drawn = "ve", "Visual entailment (Scenes, SNLI-VE format)", "hypotheses"
    columns = (Column("ve.accuracy", "VE acc", averaged=True),)

    def examples(self, data: Path, split: str) -> list[Example]:
        found = split_examples(SNLI_VE, data / "snli_ve", OFFICIAL[split])
        return [replace(example, groups={}) for example in found]


register(VisualEntailment())
