"""A graph adapter for one attention layer: a message-passing scheme, a join and a bottleneck."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attngraph.adapters.config import GraphAdapterConfig
from attngraph.adapters.joins import JOINS
from attngraph.adapters.query_rows import with_query_rows
from attngraph.adapters.scheme import Scheme
from attngraph.graph import AttentionGraph
from attngraph.reading.calls import Call, Graph
from attngraph.reading.heads import merge_heads

ALL_EDGES = "adapter"
"""Keeps the running degrees of graphs with all their edges."""


class GraphAdapter(nn.Module):
    """A scheme and a join for one attention layer.

    Attributes:
        scheme, join: the two parts.
        backend, top_k, rescale, query_rows: as in :class:`attngraph.adapters.GraphAdapterConfig`.

    Args:
        config: its configuration.
        width: feature width after the output projection.
        scheme: the scheme to use; layers may share one.
    """

    scheme: Scheme
    join: nn.Module

    def __init__(self, config: GraphAdapterConfig, width: int, scheme: Scheme):
        super().__init__()
        self.scheme = scheme
        self.join = JOINS[config.join](width, max(1, width // config.reduction))
        self.backend = config.backend
        self.top_k = config.top_k
        self.rescale = config.rescale
        self.query_rows = config.query_rows
        self._warned = False
        self._decodes = self.top_k is None and self.query_rows == "query" and self.backend == "dense"

    @torch.no_grad()
    def reweighted(self, graph: AttentionGraph) -> AttentionGraph:
        r"""The graph with the weights :math:`\bar M` that the scheme uses in place of M.

        The adapter has one p and one μ for all heads, so the graph may lack some heads, except with noise in
        the query rows, which is sampled for all heads at once.
        """
        kept = graph if self.top_k is None else graph.sparsify(top_k=self.top_k)
        return replace(kept, weight=self.scheme.reweight(with_query_rows(kept, self.query_rows)))

    def aggregate(self, call: Call, seen: dict[str, Any] | None = None) -> Tensor:
        """Run the scheme on the graph of an attention call.

        In training, the scheme starts from the attention scores where it can
        (:meth:`~attngraph.adapters.scheme.Scheme.aggregate_and_context`): there it has faster ways, which
        also give the attention output if every query sees something. In evaluation the attention output is
        the model's own, so that a new adapter changes nothing, to the last bit; the scheme starts from the
        model's weights, or without gradients from the scores if it has a faster way from there. The tiled
        backend always starts from the scores, and gives the attention output. When a model decodes with a
        key/value cache, adapters that see the same edges share the running degrees kept there. A scheme that
        gives the attention output itself takes the model's, and needs no degrees.

        Args:
            call: what the attention layer computed. Its ``context`` is set where the scheme computes it
                anyway.
            seen: graphs or scores of the same call, by what keeps their degrees, where several adapters look
                at it: made by the first one. None where one adapter does.

        Returns:
            Aggregated features with merged heads, ``(b, n, h·d)``.
        """
        tiled, all_edges = self.backend == "tiled", self.top_k is None
        if self.scheme.is_attention and all_edges and not tiled:
            call.check_graph()
            return merge_heads(call.without_padded(call.context))
        metric = call.site.metric(call.query)
        if call.leaves_degrees and seen is None and self._decodes and not self.training:
            decoded = self.scheme.decode(call, metric, ALL_EDGES)
            if decoded is not None:
                return decoded
        seen = {} if seen is None else seen
        faster = self.training or (self.scheme.fused and not torch.is_grad_enabled())
        from_scores = all_edges and (tiled or (faster and self.backend != "sparse"))
        scores = call.scores(metric, dropped=not tiled, remembered=not tiled) if from_scores else None
        if scores is not None:
            if call.leaves_degrees:
                scores = _remembered(call, scores, ALL_EDGES, seen)
            aggregated, context = self.scheme.aggregate_and_context(
                with_query_rows(scores, self.query_rows),
                self.backend,
                context=tiled or (self.training and call.every_query_sees),
            )
            if context is not None:
                call.context = context
            return merge_heads(aggregated)
        if tiled and not (call.held or self._warned):
            self._warned = True
            warnings.warn(
                f"{call.site.name} holds its attention weights for now, in spite of the tiled backend: "
                "dropout, a key/value cache, top_k, queries ordered in blocks, or attention that is more "
                "than a softmax of masked scores or outside transformers' AttentionInterface",
                stacklevel=2,
            )
        owner = ALL_EDGES if self.top_k is None else f"{ALL_EDGES} top {self.top_k}"
        graph = seen.get(owner)
        if not isinstance(graph, AttentionGraph):
            graph = call.graph(dropped=True, metric=metric)
            graph = graph if self.top_k is None else graph.sparsify(top_k=self.top_k)
            graph = _remembered(call, graph, owner, seen)
        return merge_heads(self.scheme(with_query_rows(graph, self.query_rows), self.backend))


def _remembered(call: Call, graph: Graph, owner: str, seen: dict[str, Any]) -> Graph:
    """The graph or the scores of a call with what its cache keeps for ``owner``, to which the call's own
    degrees are added once."""
    if owner not in seen:
        seen[owner] = call.remember(graph, owner)
        return seen[owner]
    return graph.following(seen[owner].past_degree, seen[owner].kept_norms)
