"""Interface of tasks: examples, a prompt, a training target, and the columns of a table for its scores.

Subclass :class:`Task` and call ``register(MyTask())``, possibly in a plugin. The table, the search and the
analysis commands access a task only through this interface.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.data.drawn import MANIFEST, holds_scenes
from attngraph.experiments.data.example import Example
from attngraph.experiments.metrics.statistics import Score, mean_score, mean_statistics, scores_by_kind
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.models.family import Answering, Decoding
from attngraph.experiments.tasks.formats import PLAIN, Format
from attngraph.names import spelled

SPLITS = ("train", "validation", "test")
DEFAULT = "default"  # names the prompt of every family without one of its own

TASKS: dict[str, Task] = {}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        key: ``<task>.<metric>``, such as ``coco.cider``; unique.
        heading: heading in printed tables.
        averaged: whether it is part of the table's Avg.
        score: maps summed statistics to the score.
        optional: whether the task's data may lack what the score needs: such runs do not have the score, and
            a table has the column if a run has it.
        most: maximum of the score; the minimum is 0.
    """

    key: str
    heading: str
    averaged: bool = False
    score: Score = mean_score
    optional: bool = False
    most: float = 1.0


@dataclass(frozen=True)
class TaskScores:
    """Scores of one run.

    Args:
        columns: column key -> score, 0 to 1 (CIDEr raw).
        statistics: column key -> per-example statistics ``(N, K)``, from whose sums the column's ``score`` is
            computed.
        kinds: kind of question, and each of the examples' further groups (:func:`kinds_of`) -> (score, number
            of examples); for captions, kinds of facts about the scene, see
            :mod:`attngraph.experiments.metrics.scene`.
        evaluator: description of the evaluation rules.
    """

    columns: dict[str, float]
    statistics: dict[str, np.ndarray]
    kinds: dict[str, tuple[float, int]]
    evaluator: str = "the task's own metric"


@dataclass(frozen=True)
class Budget:
    """Default budget of a task; presets may change it.

    Args:
        steps, batch_size: number of optimiser steps, and of examples per step.
        train_examples, eval_examples: maximum numbers of examples (a fixed random subset); None for all.
        augment: whether images are augmented in training, see :mod:`attngraph.experiments.models.augment`.
    """

    steps: int = 250
    batch_size: int = 64
    train_examples: int | None = None
    eval_examples: int | None = None
    augment: bool = False


class Task(ABC):
    """One task. In its methods ``data`` is the folder of the datasets, in the layout of ``attngraph scenes``
    or of official archives; a task whose examples are in a package ignores it.

    Attributes:
        name: short name, as in ``--tasks``; column keys begin with it.
        title: name in printed output.
        columns: columns of the table.
        selects: key of the column by which settings are chosen on validation data; by default the first.
        decoding: options of generation, unless :meth:`answering` returns others.
        decodings: options of generation for particular model types.
        budget: default budget, see :class:`Budget`.
        prompts: model family -> template with ``{text}``; :data:`DEFAULT` for all others.
        drawn: the field of :class:`attngraph.experiments.data.drawn.Sizes` with the number of synthetic
            examples; None for tasks without synthetic data.
        mirrors: whether images may be mirrored in training; False if they contain text to be read. Images
            with a text that mentions left or right are never mirrored.
        packaged: whether the examples are in a package, so that no folder of data is read.
        data_set: the dataset in official files that it reads, see
            :mod:`attngraph.experiments.tasks.official`; None for all others.
        ranks: whether there is a list of answers to rank, see :meth:`answers`.
        like: the task whose chosen settings are used until settings are chosen for this task.
        needs: packages required for scoring, of an extra of attngraph (:mod:`attngraph.extras`).
        file_format: format of files of predictions, as for the dataset's evaluation server.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    decoding: Decoding = Decoding(max_new_tokens=4)
    decodings: Mapping[str, Decoding] = MappingProxyType({})
    budget: Budget = Budget()
    prompts: Mapping[str, str] = MappingProxyType({})
    drawn: str | None = None
    mirrors: bool = False
    packaged: bool = False
    data_set: str | None = None
    ranks: bool = False
    like: str | None = None
    needs: tuple[str, ...] = ()
    file_format: Format = PLAIN

    @property
    def selects(self) -> str:
        return self.columns[0].key

    # ---- data ----

    @abstractmethod
    def examples(self, data: Path, split: str) -> Sequence[Example]:
        """All examples of a split: ``train``, ``validation`` or ``test``."""

    def found(self, data: Path) -> bool:
        """Whether a folder of data contains the task's. False for tasks of plugins by default."""
        return self.drawn is not None and holds_scenes(data)

    def check(self, data: Path | None) -> None:
        """Raise :class:`~attngraph.UserError` if the user's folder lacks the task's data, or if the task
        needs a folder and none is given.
        """
        if data is not None and self.drawn is not None and not self.found(data):
            raise UserError(
                f"{data}: no synthetic scenes ({MANIFEST}), which {self.name} needs: generate them with "
                f"`attngraph scenes --out {data}`, or remove {self.name}"
            )

    def content(self, data: Path, split: str) -> Any:
        """Values that identify the examples of ``train`` and of a split, equal on all machines with the same
        files.
        """
        if (data / MANIFEST).is_file():
            return json.loads((data / MANIFEST).read_text())
        if self.packaged:
            return None
        return {part: digest(self.examples(data, part)) for part in ("train", split)}

    def asked(self, data: Path, split: str, form: str | None = None) -> Sequence[Example]:
        """The examples of a split to be answered. Tasks on official files accept official splits, including
        those without annotations, in the format used for scoring or the first one whose files exist.

        Raises:
            UserError: there is no such split or format.
        """
        if form is not None:
            raise UserError(f"{self.title} has only one format: remove --format {form}")
        check_known([split], SPLITS, f"split of {self.title}")
        return self.examples(data, split)

    def unscored(self, data: Path, split: str) -> set[str]:
        """Ids in a split's files that the official evaluation excludes; predictions may have them."""
        return set()

    def source(self, data: Path, split: str) -> str:
        """Description of a split's source; empty if its name is sufficient."""
        return ""

    # ---- answers ----

    def answers(self, data: Path) -> tuple[str, ...] | None:
        """The list of answers to rank instead of generating an answer; None if there is no list."""
        return None

    def answering(self, data: Path) -> Answering:
        """The answering mode of a model: generating texts, or ranking a list of the task or of the data."""
        return self.decoding

    def way_of_type(self, way: Answering, model_type: str | None) -> Answering:
        """The task's answering mode for a model type: :attr:`decodings` instead of :attr:`decoding`."""
        return self.decodings.get(model_type, way) if isinstance(way, Decoding) else way

    @abstractmethod
    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        """Scores of one generated text per example id."""

    # ---- samples ----

    def text(self, example: Example) -> str:
        """The text for the prompt's template."""
        return example.prompt

    def prompt(self, example: Example, family: str = DEFAULT) -> str:
        """The text before the answer, for a model family."""
        template = self.prompts.get(family, self.prompts.get(DEFAULT, "{text}"))
        return template.format(text=self.text(example))

    @property
    def takes_text(self) -> bool:
        """Whether the prompt depends on an example's text."""
        return len({self.prompt(Example("", Path(), text, (), "")) for text in ("one", "two")}) > 1

    def target(self, example: Example, draw: float) -> str:
        """The answer to train on; ``draw`` in [0, 1) selects one if there are several."""
        return majority(example.references)

    def sample(self, example: Example, family: str = DEFAULT, draw: float | None = None) -> Sample:
        """The example as a sample for a model family; with its target if ``draw`` is given, else without an
        answer.
        """
        answer = None if draw is None else self.target(example, draw)
        return Sample(example.id, example.image, self.prompt(example, family), answer)


def register(task: Task) -> Task:
    """Make a task known by its name; a :class:`~attngraph.UserError` if it is not a task, its name is not a
    text, or a column's key does not begin with the name.
    """
    if not isinstance(task, Task) or not isinstance(task.name, str):
        raise UserError(f"{task!r} is not a task with a name: register an instance of a subclass of Task")
    wrong = [column.key for column in task.columns if not column.key.startswith(f"{task.name}.")]
    if wrong or not task.columns:
        raise UserError(
            f"task {task.name}: column keys must be {task.name}.<metric>, got {', '.join(wrong) or 'none'}"
        )
    TASKS[task.name] = task
    return task


def tasks_named(names: Sequence[str]) -> dict[str, Task]:
    """The tasks of these names, in any spelling (:func:`attngraph.names.spelled`), in this order; a
    :class:`~attngraph.UserError` for unknown names, or if there are no names.
    """
    names = [spelled(name, TASKS) for name in names]
    check_known(names, list(TASKS), "task")
    return {name: TASKS[name] for name in names}


def digest(examples: Sequence[Example]) -> str:
    """A digest of examples, with the names of images but not their content."""
    content = [[e.id, e.image.name, e.prompt, e.references, e.kind] for e in examples]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def majority(answers: Iterable[str]) -> str:
    """The most frequent answer (the first one of equally frequent ones)."""
    return Counter(answers).most_common(1)[0][0]


def references(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """Example id -> its references."""
    return {example.id: example.references for example in examples}


def accuracy_scores(
    key: str, scores: np.ndarray, examples: Sequence[Example], evaluator: str = TaskScores.evaluator
) -> TaskScores:
    """The scores of a task whose one column is a mean over examples."""
    pairs = [
        (score, kind) for score, example in zip(scores, examples, strict=True) for kind in kinds_of(example)
    ]
    kinds = scores_by_kind([score for score, _ in pairs], [kind for _, kind in pairs])
    return TaskScores({key: float(np.mean(scores))}, {key: mean_statistics(scores)}, kinds, evaluator)


def kinds_of(example: Example) -> tuple[str, ...]:
    """The groups of an example in break-downs: its kind, and ``<name>: <group>`` for each of its further
    groups that differs from its kind.
    """
    groups = (f"{name}: {group}" for name, group in example.groups.items() if group != example.kind)
    return (example.kind, *groups)
