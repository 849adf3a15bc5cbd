r"""Arms of the study of distances: what the p-adapter's distances see in cross-attention, and whether its
exponents are coupled. The protocol is docs/protocol-distances.md.

A plugin, of ``attngraph --plugin experiments/studies/distances.py ablation --preset
experiments/studies/distances.yaml``: it registers a scheme, the eleven arms as methods, and the study's two
tasks, whose samples know their scenes and whose settings for captions are chosen by Scene F1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attngraph.adapters import SCHEMES
from attngraph.adapters.p_scheme import PScheme, power_weight
from attngraph.adapters.peft.places import position_of
from attngraph.adapters.scalar import Scalar
from attngraph.adapters.scheme import check_switch
from attngraph.adapters.scheme import register as register_scheme
from attngraph.edges import Edges, PerEdge, smallest_weight, square_distance
from attngraph.errors import UserError
from attngraph.experiments.data.drawn import scene_of
from attngraph.experiments.data.example import Example
from attngraph.experiments.inspect.regions import SceneParts
from attngraph.experiments.methods import GraphAdapter, register
from attngraph.experiments.methods.peft import PeftTuned
from attngraph.experiments.models.batch import IGNORED, Sample
from attngraph.experiments.models.family import Decoding, ModelFamily
from attngraph.experiments.scenes.scene import Scene
from attngraph.experiments.tasks.catalogue import SCENE, VQA, Caption
from attngraph.experiments.tasks.task import register as register_task

NOTHING, OTHER_PATCH, CLOSED_FORM, NATURAL, ORACLE = SEES = (
    "nothing",
    "other_patch",
    "closed_form",
    "natural",
    "oracle",
)
NEARER = 2.2  # what the oracle divides the distances of relevant patches by
A, B = (0.5, 1.5), (-2.0, 2.0)  # intervals of the free exponents of M and R
GROUP = "What R sees"


# ---- the scheme -------------------------------------------------------------------------------------------


class Exponent(nn.Module):
    """A learned number inside an interval, which starts in its middle."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high, self.logit = low, high, Scalar(0.0)

    def forward(self) -> Tensor:
        return self.low + (self.high - self.low) * self.logit().sigmoid()

    def number(self) -> float:
        """The value as a number."""
        return self.low + (self.high - self.low) / (1 + math.exp(-self.logit.number()))


@register_scheme("distances")
class Distances(PScheme):
    r"""pGNN's step with other distances, and with coupled or free exponents,

    .. math:: \bar M_{ij} = M_{ij}^{p/2} R_{ij}^{p-2} \quad\text{or}\quad \bar M_{ij} = M_{ij}^a R_{ij}^b .

    Degrees, normalisation and residual are those of :class:`attngraph.adapters.pgnn.PGNN`; with free
    exponents the residual is that of p = 2. For cross-attention to the patches of one square image.

    Args:
        sees: what :math:`R_{ij}` is made of.

            - ``nothing``: :math:`R = 1`;
            - ``other_patch``: pGNN's distance of another patch, :math:`R_{i\pi(j)}` (:func:`other_patches`);
            - ``closed_form``: :math:`|\hat V_j| / \sqrt{e_{ij}}`;
            - ``natural``: pGNN's distance;
            - ``oracle``: pGNN's distance, divided by :data:`NEARER` where :attr:`shown` says that value j is
              relevant for query i.
        free: learn a in :data:`A` and b in :data:`B`, which start at 1 and 0, in place of p.
        p: see :class:`attngraph.adapters.pgnn.PGNN`; without effect if ``free``.
        mu: weight of the residual. Default: 0.1.
        learn_p: learn p. Default: ``True``.

    Attributes:
        shown: says which values are relevant; None for none.
    """

    shown: Shown | None = None

    def __init__(
        self,
        sees: str = NATURAL,
        free: bool = False,
        p: float = 1.5,
        mu: float = 0.1,
        learn_p: bool = True,
    ):
        free = check_switch("free", free)
        super().__init__(*((2.0, mu, 1, False) if free else (p, mu, 1, learn_p)))
        if sees not in SEES:
            raise ValueError(f"sees must be one of {', '.join(SEES)}, got {sees!r}")
        self.sees, self.free = sees, free
        if free:
            self.a, self.b = Exponent(*A), Exponent(*B)

    def learned(self) -> dict[str, float]:
        """``p``, or ``a`` and ``b``."""
        return {"a": self.a.number(), "b": self.b.number()} if self.free else super().learned()

    def weigh(
        self,
        edges: Edges,
        query: Tensor,
        value: Tensor,
        rsqrt_d: PerEdge,
        rsqrt_e: PerEdge,
        p: Tensor | float,
    ) -> PerEdge:
        log_square = self.log_square(edges, query, value, rsqrt_d, rsqrt_e)
        if self.free:
            return power_weight(edges, 2 * self.a(), 0.5 * self.b() * log_square)
        return power_weight(edges, p, (0.5 * p - 1) * log_square)

    def log_square(
        self, edges: Edges, query: Tensor, value: Tensor, rsqrt_d: PerEdge, rsqrt_e: PerEdge
    ) -> PerEdge | float:
        r""":math:`\log R_{ij}^2`, per edge."""
        if self.sees == NOTHING:
            return 0.0
        if self.sees == CLOSED_FORM:
            square = edges.square_norm(value)[..., None, :] * rsqrt_e.square()
            return (square + smallest_weight(square.dtype)).log()
        natural = square_distance(*edges.products(query, value), rsqrt_d, rsqrt_e).log()
        if self.sees == OTHER_PATCH:
            return natural[..., other_patches(natural.shape[-1]).to(natural.device)]
        if self.sees == ORACLE and self.shown is not None:
            return natural - 2 * math.log(NEARER) * self.shown.relevant()[:, None]
        return natural


@lru_cache
def other_patches(values: int) -> Tensor:
    r"""The permutation :math:`\pi`, int64 ``(values,)``: a random cycle through all patches of a square
    image, so that no patch keeps its place, the same in all heads, layers and runs. Values before the patches
    ([CLS]) keep theirs.
    """
    patches = math.isqrt(values) ** 2
    cycle = torch.randperm(patches, generator=torch.Generator().manual_seed(0))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    before = values - patches
    return torch.cat([torch.arange(before), before + order])


# ---- what the oracle knows --------------------------------------------------------------------------------


class Shown:
    """Which values are relevant for the queries of the current pass of a captioner's decoder: the patches
    that show what a token names, given the words of its phrase so far, and, at the last token of the prompt,
    what the prompt asks for; both as in :class:`attngraph.experiments.inspect.regions.Regions`.

    The family's samples must know their scenes. Its training inputs get a further tensor ``relevant``; in
    generation this follows from what each beam has written.

    Args:
        family: whose inputs, passes and answers are watched from now on.
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
            UserError: no such pass runs.
        """
        if self._relevant is None:
            raise UserError("the oracle knows what is generated only: leave out answering=rank")
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
            samples: the texts are about, each for as many of them as there are beams.
            ids: ``(b, L)``.
            begins: where the answer of each text begins.
            last: the number of last tokens that are looked at. Default: all.
        """
        length = ids.shape[1]
        first = 0 if last is None else length - last
        relevant = torch.zeros(len(ids), length, self.values, dtype=torch.bool)
        beams = len(ids) // len(samples)
        for k, (line, begin) in enumerate(zip(ids.tolist(), begins)):
            sample = samples[k // beams]
            if sample.scene is None:
                raise UserError(
                    f"{sample.name}: the oracle needs drawn scenes, and this image's is not known"
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
    """Which patches show each thing of a scene, bool ``(things, patches)``."""
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
    """A task whose samples know what their image shows."""

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
