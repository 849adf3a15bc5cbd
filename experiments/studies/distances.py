r"""Arms of the study of distances: what the p-adapter's distances see in cross-attention, and whether its
exponents are coupled. The protocol is experiments/results/distances/protocol.md.

A plugin, of ``attngraph --plugin experiments/studies/distances.py ablation --preset
experiments/studies/distances.yaml``: it registers a scheme, the eleven arms as methods, and the study's two
tasks, whose samples know their scenes and whose settings for captions are chosen by Scene F1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attngraph.adapters import SCHEMES
from attngraph.adapters.peft.places import position_of
from attngraph.adapters.scheme import register as register_scheme
from attngraph.errors import UserError
from attngraph.experiments.data.drawn import scene_of
from attngraph.experiments.data.example import Example
from attngraph.experiments.inspect.regions import SceneParts
from attngraph.experiments.methods import GraphAdapter, register
from attngraph.experiments.methods.peft import PeftTuned
from attngraph.experiments.models.batch import IGNORED, Sample
from attngraph.experiments.models.family import Decoding, ModelFamily
from attngraph.experiments.scenes.scene import Scene
from attngraph.experiments.studies.reweighting import (
    CLOSED_FORM,
    NATURAL,
    NOTHING,
    ORACLE,
    OTHER_PATCH,
    Distances,
)
from attngraph.experiments.tasks.catalogue import SCENE, VQA, Caption
from attngraph.experiments.tasks.task import register as register_task

GROUP = "What R sees"


register_scheme("distances")(Distances)


# ---- what the oracle knows --------------------------------------------------------------------------------


class Shown:
    """Relevant values for the queries of the current pass of a captioner's decoder: the patches of the object
    named by a token, given the words of its phrase so far, and, at the last token of the prompt, of the
    object of the question; both as in :class:`attngraph.experiments.inspect.regions.Regions`.

    The family's samples must have scenes. Its training inputs get an additional tensor ``relevant``; in
    generation this is determined by the text of each beam.

    Args:
        family: the family whose inputs, passes and answers are observed from now on.
    """

    def __init__(self, family: Any):
        self.tokenizer, self.decoder = family.tokenizer, family.model.text_decoder
        self.rows = family.image_side // family.model.config.vision_config.patch_size
        self.values = len(family.blank_image())
        self._relevant: Tensor | None = None
        self._inputs, self._logits, self._generate = family.training_inputs, family.logits, family.generate
        family.training_inputs, family.logits, family.generate = self.inputs, self.logits, self.generate

    def relevant(self) -> Tensor:
        """Bool ``(b, n, m)``.

        Raises:
            UserError: there is no such pass.
        """
        if self._relevant is None:
            raise UserError("the oracle supports generation only: remove answering=rank")
        return self._relevant

    def inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """See :meth:`attngraph.experiments.models.family.ModelFamily.training_inputs`."""
        inputs = self._inputs(samples)
        begins = (inputs["labels"] != IGNORED).int().argmax(1).tolist()
        return {**inputs, "relevant": self.of_texts(samples, inputs["input_ids"], begins)}

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """See :meth:`attngraph.experiments.models.family.ModelFamily.logits`."""
        self._relevant = inputs["relevant"]
        try:
            return self._logits(inputs)
        finally:
            self._relevant = None

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        """See :meth:`attngraph.experiments.models.family.ModelFamily.generate`."""
        prepare = self.decoder.prepare_inputs_for_generation
        begins: list[int] = []

        @wraps(prepare)  # transformers looks at its parameters
        def prepared(input_ids: Tensor, *args: Any, **options: Any) -> dict[str, Any]:
            inputs = prepare(input_ids, *args, **options)
            begins[:] = begins or [input_ids.shape[1]]  # prompts are padded on the left
            last = inputs["input_ids"].shape[1]
            self._relevant = self.of_texts(samples, input_ids, begins * len(input_ids), last)
            return inputs

        self.decoder.prepare_inputs_for_generation = prepared
        try:
            return self._generate(samples, decoding)
        finally:
            self.decoder.prepare_inputs_for_generation = prepare
            self._relevant = None

    def of_texts(
        self, samples: Sequence[Sample], ids: Tensor, begins: Sequence[int], last: int | None = None
    ) -> Tensor:
        """Relevant values of texts, bool ``(b, last, m)``.

        Args:
            samples: samples of the texts, each for as many texts as there are beams.
            ids: ``(b, L)``.
            begins: position of the answer in each text.
            last: number of last tokens to evaluate. Default: all.
        """
        length = ids.shape[1]
        first = 0 if last is None else length - last
        relevant = torch.zeros(len(ids), length, self.values, dtype=torch.bool)
        beams = len(ids) // len(samples)
        for k, (line, begin) in enumerate(zip(ids.tolist(), begins)):
            sample = samples[k // beams]
            if sample.scene is None:
                raise UserError(
                    f"{sample.name}: the oracle needs synthetic scenes, and this image's is not known"
                )
            parts, masks = SceneParts(sample.scene), _masks(sample.scene, self.rows)
            found = parts.named(self.tokenizer.convert_ids_to_tokens(line))
            if begin > first:
                found[begin - 1] = parts.asked(re.findall(r"\w+", sample.prompt)) or found[begin - 1]
            for token in range(first, length):
                if found[token]:
                    relevant[k, token, -masks.shape[1] :] = masks[sorted(found[token])].any(0)
        return relevant[:, first:].to(ids.device)


@lru_cache(maxsize=20_000)
def _masks(scene: Scene, rows: int) -> Tensor:
    """The patches of each object of a scene, bool ``(objects, patches)``."""
    masks = SceneParts(scene).masks(rows, rows)
    assert masks is not None  # the grid is square
    return masks


# ---- the arms ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Arm(GraphAdapter):
    """A scheme at cross-attention; the vanilla adapter after self-attention and feed-forward blocks."""

    gnn: str = "distances"
    group: str = GROUP
    join: str | None = "blend"

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> PeftTuned:
        tuned = super().apply(family, settings)
        layers: Any = tuned.model.base_model
        shown = Shown(family) if settings["gnn_args"].get("sees") == ORACLE else None
        for name, adapter in layers.layers().items():
            if position_of(name) == "cross":
                if shown is not None:
                    adapter.scheme.shown = shown
            else:
                adapter.scheme = SCHEMES["gcn"]()
        return tuned


COUPLED = {
    NOTHING: Arm(name=NOTHING, title="Nothing", fixed={"sees": NOTHING}),
    OTHER_PATCH: Arm(name=OTHER_PATCH, title="Another patch", fixed={"sees": OTHER_PATCH}),
    CLOSED_FORM: Arm(name=CLOSED_FORM, title="Closed form", fixed={"sees": CLOSED_FORM}),
    NATURAL: Arm(name=NATURAL, title="Natural", fixed={"sees": NATURAL}),
    ORACLE: Arm(name=ORACLE, title="Oracle", fixed={"sees": ORACLE}),
}
FREE = {
    sees: replace(arm, name=f"{sees}_free", title=f"{arm.title}, free", fixed={**arm.fixed, "free": True})
    for sees, arm in COUPLED.items()
    if sees != OTHER_PATCH
}
#: The arms without distances.
PLAIN = (
    Arm(name="vanilla", title="GCN", gnn="gcn"),
    Arm(name="only_m", title="p = 2", fixed={"sees": NOTHING, "p": 2.0, "learn_p": False}),
)
ARMS = (*COUPLED.values(), *FREE.values(), *PLAIN)

for arm in ARMS:
    register(arm)


# ---- the tasks --------------------------------------------------------------------------------------------


class _Seen:
    """A task whose samples have scenes."""

    def examples(self, data: Path, split: str) -> list[Example]:
        found = super().examples(data, split)  # type: ignore[misc]
        return [replace(example, scene=example.scene or scene_of(example.image)) for example in found]

    def sample(self, example: Example, *args: Any, **options: Any) -> Sample:
        return replace(super().sample(example, *args, **options), scene=example.scene)  # type: ignore[misc]


class SeenCaption(_Seen, Caption):
    """Captions, selected by their F1 of facts about the scene."""

    selects = SCENE


class SeenVQA(_Seen, VQA):
    """Questions."""


for task in (SeenCaption(), SeenVQA()):
    register_task(task)
