"""Visual entailment, cast as generation, on drawn scenes in files in the format of SNLI-VE."""

from pathlib import Path

from experiments.datasets import snli_ve
from experiments.datasets.example import Example
from experiments.scenes.layouts import VE_SPLITS
from experiments.tasks.entailment import Entailment
from experiments.tasks.task import Column, register


class VisualEntailment(Entailment):
    """A word is generated."""

    name, title, drawn = "ve", "Visual entailment (Scenes, SNLI-VE format)", "hypotheses"
    columns = (Column("ve.accuracy", "VE acc", averaged=True),)

    def examples(self, data: Path, split: str) -> list[Example]:
        folder = data / "snli_ve"
        return snli_ve.load(folder / f"snli_ve_{VE_SPLITS[split]}.jsonl", folder / "flickr30k_images")


register(VisualEntailment())
