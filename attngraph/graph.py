"""What an attention graph is: two sets of nodes, weighted edges, masks and an order in time."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attngraph import checks, convert
from attngraph.degrees import PastDegree, check_degree, mean_scale, queries_counted
from attngraph.norms import KeptNorms
from attngraph.part import GraphPart
from attngraph.precision import widen
from attngraph.sparsify import keep
from attngraph.weights import WEIGHT, NonZeros

if TYPE_CHECKING:  # PyG and networkx take seconds to import
    import networkx
    from torch_geometric.data import Data, HeteroData


@dataclass(frozen=True, eq=False)
class AttentionGraph:
    r"""One attention layer as a bipartite graph per example and head.

    Query node :math:`i` and value node :math:`j` are joined by an edge of weight :math:`M_{ij}`. Its square,
    symmetric form is :math:`\tilde M = [[0, M], [M^\top, 0]]` with node features :math:`\hat V = [Q W_q; V
    W_v] W_o`. Features are kept per head *before* :math:`W_o`; the metric :math:`G^h = W_o^h {W_o^h}^\top`
    gives norms and distances after it: :math:`\lVert x W_o^h \rVert^2 = x G^h x^\top`. Multi-head attention
    is one graph per head whose messages are summed after each head's slice of :math:`W_o`; with one head this
    is the single-head formula.

    Args:
        query: projected query features, biases included, before rotary embedding, ``(b, h, n, d)``.
        value: projected value features, biases included, ``(b, h, m, d)``.
        weight: attention weights ``(b, h, n, m)``, at least 0; rows need not sum to 1. NaN, from a
            model that diverged, stays NaN; :meth:`from_pyg` and :meth:`from_networkx` refuse it.
        query_mask: ``(b, n)`` bool, False for padded queries. Default: all valid.
        value_mask: ``(b, m)`` bool, or ``(b, n, m)`` where each query sees its own values (a causal mask,
            say). Default: all visible. Edges outside either mask weigh exactly 0.
        causal: the queries are ordered in time (a decoder). The weights need not be triangular:
            cross-attention in a decoder is causal too. Messages then flow from values to queries only, and
            value degrees as seen by query :math:`i` sum over queries :math:`i' \le i`, so nothing leaks from
            later tokens.
        span: in causal graphs, the first and the last query whose weights count in the value degrees that
            each query sees, whole numbers ``(b, n, 2)``. The last one is later than the query itself where
            queries see each other (the prefix of a prefix-LM, a block of an image); the first one is that of
            the query's own text where several are packed, and -1 where ``past_degree`` counts too.
            Default: from the first query, with ``past_degree``, to the query itself.
        metric: ``(h, d, d)`` Gram matrix of each head's slice of :math:`W_o`. Default: the identity.
        past_degree: degrees left by earlier queries; only for causal graphs.
        kind: ``"self"`` or ``"cross"``; None if unknown.
        query_modality: what the query nodes stand for: ``"text"``, ``"image"``, or, where both are mixed, a
            bool ``(b, n)`` that is True for image nodes; None if unknown.
        value_modality: the same for value nodes, ``(b, m)``.
        kept_norms: squared norms of these very value features, kept between decoding steps.
        rotated: query features carry rotary positions: distances to values depend on absolute position. So it
            is where a model rotates its queries and they could not be read before.

    Raises:
        ValueError: shapes or types that do not fit, negative weights (looked for on the CPU only), or an
            unknown kind or modality; the message names the argument.
    """

    query: Tensor
    value: Tensor
    weight: Tensor = WEIGHT
    query_mask: Tensor | None = None
    value_mask: Tensor | None = None
    causal: bool = False
    metric: Tensor | None = None
    past_degree: PastDegree | None = None
    kind: str | None = None
    query_modality: str | Tensor | None = None
    value_modality: str | Tensor | None = None
    rotated: bool = False
    span: Tensor | None = None
    kept_norms: KeptNorms | None = None

    def __post_init__(self):
        b, h, n, m, d = checks.check_nodes(self.query, self.value)
        checks.check_weight(self.weight, (b, h, n, m))
        checks.check_mask("query_mask", self.query_mask, (b, n))
        checks.check_mask("value_mask", self.value_mask, (b, m), (b, n, m))
        checks.check_shape("metric", self.metric, (h, d, d))
        checks.check_past_degree(self.past_degree, self.causal, b, h, m)
        checks.check_span(self.span, self.causal, b, n)
        checks.check_kind(self.kind)
        checks.check_modality("query_modality", self.query_modality, b, n)
        checks.check_modality("value_modality", self.value_modality, b, m)
        visible = self.visible
        if visible is not None:
            zero = torch.zeros((), dtype=self.weight.dtype, device=self.weight.device)
            object.__setattr__(self, "weight", torch.where(visible[:, None], self.weight, zero))

    # ---- shape ---------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """``(b, h, n, m, d)``."""
        b, h, n, d = self.query.shape
        return b, h, n, self.value.shape[2], d

    @property
    def visible(self) -> Tensor | None:
        """Which edges may exist: bool, broadcastable to ``(b, n, m)``; None when nothing is masked."""
        visible = None
        if self.value_mask is not None:
            visible = self.value_mask if self.value_mask.dim() == 3 else self.value_mask[:, None, :]
        if self.query_mask is not None:
            rows = self.query_mask[:, :, None]
            visible = rows if visible is None else visible & rows
        return visible

    def is_image(self) -> tuple[Tensor | None, Tensor | None]:
        """Which query and which value nodes stand for parts of an image: bool ``(b, n)`` and ``(b, m)``, each
        None if unknown."""
        b, _, n, m, _ = self.shape

        def mask(modality: str | Tensor | None, nodes: int) -> Tensor | None:
            if modality is None or isinstance(modality, Tensor):
                return modality
            return torch.full((b, nodes), modality == "image", device=self.query.device)

        return mask(self.query_modality, n), mask(self.value_modality, m)

    def __repr__(self) -> str:
        b, h, n, m, d = self.shape
        order = "causal" if self.span is None else "causal in blocks"
        properties = [order if self.causal else "bidirectional"]
        if self.kind is not None:
            properties.append(self.kind)
        sides = (self.query_modality, self.value_modality)
        if any(side is not None for side in sides):
            names = ["unknown" if x is None else "mixed" if isinstance(x, Tensor) else x for x in sides]
            properties.append(" to ".join(names))
        if self.rotated:
            properties.append("rotated queries")
        sizes = f"batch={b}, heads={h}, queries={n}, values={m}, features={d}"
        return f"AttentionGraph({sizes}, {', '.join(properties)})"

    # ---- degrees -------------------------------------------------------------------------------------------

    def query_degree(self) -> Tensor:
        r"""Query degrees :math:`d_i = \sum_j M_{ij}`, ``(b, h, n, 1)``: 1 for a softmax row."""
        return widen(self.weight).sum(-1, keepdim=True)

    def value_degree(self, degree: str = "sum") -> Tensor:
        r"""Value degrees, ``(b, h, 1, m)``, or ``(b, h, n, m)`` in a causal graph.

        ``"sum"`` is :math:`e_j = \sum_i M_{ij}`; in a causal graph :math:`e_{ij} = \sum_{i' \le i} M_{i'j}`,
        or the sum over the queries of ``span``. ``"mean"`` divides by the number of valid queries (so far)
        and multiplies by the number of visible values, so that uniform attention has degree 1 everywhere and
        :math:`M_{ij}/\sqrt{d_i e_{ij}} = M_{ij}`.

        Raises:
            ValueError: another name for ``degree``.
        """
        scale = self.degree_scale(degree)
        weight = widen(self.weight)
        if self.causal:
            total = weight.cumsum(-2)
            past = 0 if self.past_degree is None else self.past_degree.total.to(total.dtype)[:, :, None]
            if self.span is not None:
                first, last = (x[:, None, :, None].expand(total.shape) for x in self.span.unbind(-1))
                before = torch.nn.functional.pad(total, (0, 0, 1, 0)).gather(-2, first.clamp(min=0))
                total, past = total.gather(-2, last) - before, past * (first < 0)
            total = total + past
        else:
            total = weight.sum(-2, keepdim=True)
        return total if scale is None else total * scale

    def degree_scale(self, degree: str) -> Tensor | None:
        """What sums of weights are multiplied by to give value degrees: None for ``"sum"``, else
        broadcastable to ``(b, 1, n, 1)`` in a causal graph and to ``(b, 1, 1, 1)`` in others.

        Raises:
            ValueError: another name for ``degree``.
        """
        check_degree(degree)
        if degree == "sum":
            return None
        b, _, n, m, _ = self.shape
        device = self.weight.device
        rows, columns = self.query_mask, self.visible
        if rows is None:
            rows = torch.ones(b, n, dtype=torch.bool, device=device)
        if columns is None:
            columns = torch.ones(b, 1, m, dtype=torch.bool, device=device)
        columns = columns.expand(b, -1, m)
        values = columns.sum(-1) if self.causal else columns.any(1).sum(-1, keepdim=True)
        return mean_scale(values.to(widen(self.query).dtype), rows, self.causal, self.past_degree, self.span)

    def degree_after(self) -> PastDegree:
        """The running degrees after this graph's queries, to be handed to the next decoding step."""
        if self.span is not None:
            total = self.value_degree()[:, :, -1]
        else:
            total = widen(self.weight).sum(-2)
            if self.past_degree is not None:
                total = total + self.past_degree.total
        return PastDegree(total, self.queries_counted()[:, -1])

    def following(self, past: PastDegree | None, norms: KeptNorms | None = None) -> AttentionGraph:
        """The same graph with ``past_degree`` and ``kept_norms``, whose weights are not masked once more."""
        b, h, _, m, _ = self.shape
        checks.check_past_degree(past, self.causal, b, h, m)
        graph = copy(self)
        for name, changed in (("past_degree", past), ("kept_norms", norms)):
            object.__setattr__(graph, name, changed)
        return graph

    def queries_counted(self) -> Tensor:
        """How many valid queries count in the value degrees that each query sees, ``(b, n)``; ``(b, 1)`` in a
        graph that is not causal."""
        valid = self.query_mask
        if valid is None:
            b, _, n, _, _ = self.shape
            valid = torch.ones(b, n, dtype=torch.bool, device=self.weight.device)
        return queries_counted(valid, self.causal, self.past_degree, self.span)

    # ---- other views ---------------------------------------------------------------------------------------

    def sparsify(
        self, top_k: int | None = None, threshold: float | None = None, mass: float | None = None
    ) -> AttentionGraph:
        """Keep the strongest edges of each query; see :func:`attngraph.sparsify.keep`. Weights are not
        renormalised.

        Raises:
            ValueError: not exactly one rule, a value out of range, or a graph with ``past_degree``: what
                earlier queries left counts edges that the rule would have dropped.
        """
        if self.past_degree is not None:
            raise ValueError(
                "past_degree comes from all edges of the earlier queries: sparsify their graphs too, and "
                "give the sparse graph what they leave (dataclasses.replace), or read the model without "
                "a cache"
            )
        kept = keep(self.weight, top_k=top_k, threshold=threshold, mass=mass)
        return replace(self, weight=torch.where(kept, self.weight, torch.zeros_like(self.weight)))

    def compact(self) -> AttentionGraph:
        """The same graph, keeping only the edges in memory (8 to 16 bytes each) in place of all ``n m``
        weights. ``weight`` is made dense whenever it is read; no gradient flows back from it."""
        graph = copy(self)
        object.__setattr__(graph, "weight", NonZeros.of(self.weight))
        return graph

    def to_data(self, example: int = 0, head: int = 0) -> Data:
        """One example and head as a homogeneous PyG graph; see :func:`attngraph.convert.to_data`."""
        return convert.to_data(self.part(example, head))

    def to_hetero(self, example: int = 0, head: int = 0) -> HeteroData:
        """One example and head as a PyG graph of two node types; see :func:`attngraph.convert.to_hetero`."""
        return convert.to_hetero(self.part(example, head))

    def to_networkx(self, example: int = 0, head: int = 0) -> networkx.Graph:
        """One example and head as a networkx graph; see :func:`attngraph.convert.to_networkx`."""
        return convert.to_networkx(self.part(example, head))

    @staticmethod
    def from_pyg(graph: Data | HeteroData) -> AttentionGraph:
        """A graph of one example and head, back from :meth:`to_data` or :meth:`to_hetero`, or from such a PyG
        graph made by hand; see :func:`attngraph.convert.from_pyg`."""
        return AttentionGraph.from_part(convert.from_pyg(graph))

    @staticmethod
    def from_networkx(graph: networkx.Graph) -> AttentionGraph:
        """A graph of one example and head, back from :meth:`to_networkx` or from any bipartite networkx
        graph; see :func:`attngraph.convert.from_networkx`."""
        return AttentionGraph.from_part(convert.from_networkx(graph))

    def part(self, example: int = 0, head: int = 0) -> GraphPart:
        """One example and head, without those dimensions.

        Raises:
            ValueError: there is no such example or head.
        """
        b, h = self.shape[:2]
        if not (0 <= example < b and 0 <= head < h):
            raise ValueError(
                f"example must lie in 0..{b - 1} and head in 0..{h - 1}, got {example} and {head}"
            )
        query_is_image, value_is_image = (None if x is None else x[example] for x in self.is_image())
        past = self.past_degree
        return GraphPart(
            self.query[example, head],
            self.value[example, head],
            self.weight[example, head],
            query_valid=None if self.query_mask is None else self.query_mask[example],
            value_visible=None if self.value_mask is None else self.value_mask[example],
            causal=self.causal,
            span=None if self.span is None else self.span[example],
            past_degree=None
            if past is None
            else PastDegree(past.total[example, head], past.queries[example]),
            metric=None if self.metric is None else self.metric[head],
            kind=self.kind,
            query_is_image=query_is_image,
            value_is_image=value_is_image,
            rotated=self.rotated,
        )

    @staticmethod
    def from_part(part: GraphPart) -> AttentionGraph:
        """The graph of one example and head.

        Raises:
            ValueError: its weights or features hold NaN, or what :class:`AttentionGraph` refuses.
        """
        past = part.past_degree
        for name in ("query", "value", "weight"):
            checks.check_no_nan(name, getattr(part, name))
        return AttentionGraph(
            part.query[None, None],
            part.value[None, None],
            part.weight[None, None],
            query_mask=None if part.query_valid is None else part.query_valid[None],
            value_mask=None if part.value_visible is None else part.value_visible[None],
            causal=part.causal,
            span=None if part.span is None else part.span[None],
            past_degree=None if past is None else PastDegree(past.total[None, None], past.queries[None]),
            metric=None if part.metric is None else part.metric[None],
            kind=part.kind,
            query_modality=_side(part.query_is_image),
            value_modality=_side(part.value_is_image),
            rotated=part.rotated,
        )


def _side(is_image: Tensor | None) -> str | Tensor | None:
    """The modality of one example's nodes on one side: a name where all are alike."""
    if is_image is None:
        return None
    if is_image.any() and not is_image.all():
        return is_image[None]
    return "image" if is_image.any() else "text"
