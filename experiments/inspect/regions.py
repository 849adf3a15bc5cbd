"""Which patches are relevant for the words of a text: those of what a word names, and of what is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from analysis.contrast import Region
from analysis.maps import patch_grid
from analysis.plots.heterophily import stack
from analysis.relevance import image_nodes
from attngraph import AttentionGraph
from experiments.inspect.region_file import RegionFile
from experiments.inspect.scene_parts import SceneParts
from experiments.inspect.words import Words, word_spans, words_of
from experiments.models.batch import Batch, Sample

NAMED, ASKED = "named region", "asked region"
NO_GRID = (
    "no regions: which part of the picture each node shows is not known (it is cropped or tiled, or its "
    "patches are no grid)"
)
NO_WORD = "no regions: no word of the texts names a known part of its picture"


class Parts(Protocol):
    """The known parts of one picture."""

    def named(self, words: Sequence[str]) -> list[frozenset[int]]:
        """The numbers of the parts that each word of a text names."""

    def asked(self, words: Sequence[str]) -> frozenset[int]:
        """The numbers of the parts that a question names."""

    def masks(self, rows: int, columns: int) -> Tensor | None:
        """Which patches of a grid show each part, bool ``(parts, rows * columns)``; None where unknown."""


class Regions:
    """The relevant values of a batch's graphs, where queries are words and values are patches.

    Args:
        samples: all that are looked at.
        file: parts of pictures of one's own; without it, those of drawn scenes.
    """

    def __init__(self, samples: Sequence[Sample], file: RegionFile | None = None):
        self.file = file
        self._known = any(self._parts(sample) is not None for sample in samples)
        self._asked = any(self._asked_of(sample) for sample in samples)
        self._without: dict[str, None] = {}  # stacks of layers whose patches have no known places
        self._looked = self._found = False  # for words that name a part

    def notes(self) -> list[str]:
        """A line for each stack of layers that has no regions though words look at pictures there, and one if
        no word named a known part.
        """
        nothing = [NO_WORD] if self._looked and not self._found else []
        return [*(f"{name}: {NO_GRID}" for name in self._without), *nothing]

    def __call__(self, batch: Batch, name: str, graph: AttentionGraph) -> dict[str, Region]:
        """Regions of a graph.

        Returns:
            ``{name: region}``: "named region", where a word that names something looks for its patches, and,
            with questions that name something, "asked region", where the token that the answer's first one
            is predicted from looks for those of all that the question names. Empty where queries are no
            words, values no patches, or no parts are known.
        """
        words, image = words_of(batch, graph, 0), image_nodes(graph, 1).cpu()
        if not self._known or words is None or not image.any():
            return {}
        grids = _grids(batch, image)
        if grids is None:
            self._without[stack(name)] = None
            return {}
        candidates = torch.zeros_like(image)
        for nodes, line, (_, _, others) in zip(image, candidates, grids):
            line[nodes.nonzero()[others:, 0]] = True
        relevant = {NAMED: self._named(batch, words, candidates, grids)}
        self._looked, self._found = True, self._found or bool(relevant[NAMED].any())
        prompt = None if batch.written is None else batch.written.prompt
        if self._asked and prompt is not None and (batch.decoder is None or graph.causal):
            relevant[ASKED] = self._asked_for(
                batch, words.node(prompt - 1), relevant[NAMED], candidates, grids
            )
        device = graph.query.device
        sizes = [(rows, columns) for rows, columns, _ in grids]
        return {
            kind: Region(mask.to(device), candidates.to(device), sizes) for kind, mask in relevant.items()
        }

    def _named(
        self, batch: Batch, words: Words, candidates: Tensor, grids: Sequence[tuple[int, int, int]]
    ) -> Tensor:
        relevant = torch.zeros(*words.is_token.shape, candidates.shape[1], dtype=torch.bool)
        for k, (sample, line) in enumerate(zip(batch.samples, words.lines())):
            parts, masks = self._parts_on(sample, grids[k])
            if parts is None or masks is None:
                continue
            spans = word_spans(*line)
            for (span, _), named in zip(spans, parts.named([word for _, word in spans])):
                if named:
                    relevant[k, span.start : span.stop, candidates[k]] = masks[sorted(named)].any(0)
        return relevant

    def _asked_for(
        self,
        batch: Batch,
        nodes: Tensor,
        like: Tensor,
        candidates: Tensor,
        grids: Sequence[tuple[int, int, int]],
    ) -> Tensor:
        """The regions of the nodes ``(b,)`` that the answers are predicted from."""
        relevant = torch.zeros_like(like)
        for k, sample in enumerate(batch.samples):
            asked, (_, masks) = self._asked_of(sample), self._parts_on(sample, grids[k])
            if asked and masks is not None:
                relevant[k, nodes[k], candidates[k]] = masks[sorted(asked)].any(0)
        return relevant

    def _asked_of(self, sample: Sample) -> frozenset[int]:
        """The numbers of the parts that a sample's question names."""
        parts = self._parts(sample)
        return frozenset() if parts is None else parts.asked(re.findall(r"\w+", sample.prompt))

    def _parts_on(self, sample: Sample, grid: tuple[int, int, int]) -> tuple[Parts | None, Tensor | None]:
        parts = self._parts(sample)
        return parts, None if parts is None else parts.masks(*grid[:2])

    def _parts(self, sample: Sample) -> Parts | None:
        if self.file is not None:
            return self.file.parts(sample)
        return None if sample.scene is None else SceneParts(sample.scene)


def _grids(batch: Batch, image: Tensor) -> list[tuple[int, int, int]] | None:
    """Rows and columns of each picture's patches, and the number of image nodes before them; None where
    unknown."""
    pictures = batch.pictures
    if pictures is None or pictures.grids is None or not pictures.whole or len(image) != len(batch.samples):
        return None
    try:
        return [patch_grid(int(nodes.sum()), grid) for nodes, grid in zip(image, pictures.grids)]
    except ValueError:
        return None
