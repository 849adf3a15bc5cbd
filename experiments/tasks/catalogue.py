"""The tasks of the tables, in their order: four on synthetic data or data in a package, and six on the
official files of benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attngraph.experiments.data import easy_vqa
from attngraph.experiments.data.dataset import DATA_SETS, OFFICIAL, Reader, split_examples
from attngraph.experiments.data.drawn import scene_of
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.questions import Drawn
from attngraph.experiments.metrics.exact import ENTAILMENT_WORDS, exact_scores
from attngraph.experiments.metrics.scene import scene_counts, scene_f1, scores_by_kind
from attngraph.experiments.metrics.vqa import vizwiz_scores, vqa_scores
from attngraph.experiments.models.family import Answering
from attngraph.experiments.models.ranking import Ranking
from attngraph.experiments.tasks.formats import TEXTCAPS, VIZWIZ, VQA_RESULTS
from attngraph.experiments.tasks.kinds import (
    Captions,
    Entailment,
    OfficialCaptions,
    Questions,
    caption_columns,
)
from attngraph.experiments.tasks.official import Official
from attngraph.experiments.tasks.task import (
    Budget,
    Column,
    Task,
    TaskScores,
    accuracy_scores,
    references,
    register,
)

SCENE = "caption.scene"
WORDS = tuple(ENTAILMENT_WORDS.values())


class VQA(Task):
    """The question is the prompt; official VQA accuracy against ten answers."""

    name, title, drawn = "vqa", "VQA (Scenes, VQA v2 format)", "questions"
    columns = (Column("vqa.accuracy", "VQA acc", averaged=True),)
    file_format = VQA_RESULTS

    def examples(self, data: Path, split: str) -> list[Example]:
        return _scenes("vqa2", data / "vqa_v2", split, Drawn())

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = vqa_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "VQA v2's evaluator (March 2021)")


class VisualEntailment(Entailment):
    """A word is generated."""

    name, title, drawn = "ve", "Visual entailment (Scenes, SNLI-VE format)", "hypotheses"
    columns = (Column("ve.accuracy", "VE acc", averaged=True),)

    def examples(self, data: Path, split: str) -> list[Example]:
        return _scenes("snli_ve", data / "snli_ve", split)


class Caption(Captions):
    """Captioning, with F1 against the scene if it is known."""

    name, title, drawn = "caption", "Captioning (Scenes, Karpathy format)", "captions"
    columns = (*caption_columns("caption"), Column(SCENE, "Scene F1", score=scene_f1, optional=True))

    def examples(self, data: Path, split: str) -> list[Example]:
        found = _scenes("coco", data / "karpathy", split)
        return [replace(example, scene=scene_of(example.image)) for example in found]

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = super().score(predictions, examples)
        scenes = {example.id: example.scene for example in examples if example.scene is not None}
        if len(scenes) < len(examples):
            return scores
        counts = scene_counts(predictions, scenes)
        totals = counts.sum(axis=0)
        return TaskScores(
            {**scores.columns, SCENE: float(scene_f1(totals))},
            {**scores.statistics, SCENE: counts},
            scores_by_kind(totals),
            scores.evaluator,
        )


def _scenes(name: str, root: Path, split: str, reader: Reader | None = None) -> list[Example]:
    """The examples of synthetic scenes in a dataset's files, without the groups reported by its task."""
    found = split_examples(DATA_SETS[name], root, OFFICIAL[split], reader)
    return [replace(example, groups={}) for example in found]


class EasyVQA(Task):
    """The question is the prompt; exact match with the single answer. Only 2,000 training questions are used,
    so that full fine-tuning does not reach a perfect score."""

    name, title, packaged = "easy_vqa", "easy-VQA", True
    mirrors = True  # its questions are about one shape and its colour
    columns = (Column("easy_vqa.accuracy", "easy-VQA acc"),)
    budget = Budget(steps=160, train_examples=2000)

    def examples(self, data: Path, split: str) -> list[Example]:
        return easy_vqa.load(split)

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = exact_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "equality of the answer")


class VQA2(Questions):
    """Official VQA accuracy; in the Karpathy split if its file exists."""

    name, title, data_set = "vqa2", "VQA v2.0", "vqa2"
    mirrors = True
    columns = (Column("vqa2.accuracy", "VQA2.0 acc", averaged=True),)
    file_format = VQA_RESULTS
    score = VQA.score


class VizWizVQA(Questions):
    """Accuracy as defined by VizWiz's evaluator."""

    name, title, data_set = "vizwiz_vqa", "VizWiz-VQA", "vizwiz_vqa"
    columns = (Column("vizwiz_vqa.accuracy", "VizWizVQA acc", averaged=True),)
    file_format = VIZWIZ

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        scores = vizwiz_scores(predictions, references(examples))
        return accuracy_scores(self.selects, scores, examples, "VizWiz's evaluator")


class SNLIVE(Official, Entailment):
    """The three words are ranked, as in p-Adapter, so that a model that was not trained on the task is not
    wrong merely because of its wording.
    """

    name, title, data_set, like = "snli_ve", "SNLI-VE", "snli_ve", "ve"
    ranks = True
    mirrors = True
    columns = (Column("snli_ve.accuracy", "SNLI-VE acc", averaged=True),)

    def answers(self, data: Path) -> tuple[str, ...]:
        return WORDS

    def answering(self, data: Path) -> Answering:
        return Ranking(WORDS)


class COCO(OfficialCaptions):
    """Each image once, against all of its captions."""

    name, title, data_set = "coco", "COCO Captions", "coco"
    mirrors = True
    columns = caption_columns("coco", "COCO")


class TextCaps(OfficialCaptions):
    """Each image once, against all five captions; ids are texts."""

    name, title, data_set = "textcaps", "TextCaps", "textcaps"
    columns = caption_columns("textcaps", "TextCaps")
    file_format = TEXTCAPS


class VizWizCaps(OfficialCaptions):
    """Each image once, without captions that were rejected or prewritten."""

    name, title, data_set = "vizwiz_caps", "VizWiz-Captions", "vizwiz_caps"
    columns = caption_columns("vizwiz_caps", "VizWizCaps")


for kind in (VQA, VisualEntailment, Caption, EasyVQA, VQA2, VizWizVQA, SNLIVE, COCO, TextCaps, VizWizCaps):
    register(kind())
