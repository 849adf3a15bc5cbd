"""What an attention graph is: two sets of nodes, weighted edges, masks and an order in time."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import Data, HeteroData

DEGREES = ("sum", "mean")
KINDS = ("self", "cross")
MODALITIES = ("text", "image")


class PastDegree(NamedTuple):
    """What queries decoded earlier left on the value nodes, for decoding with a key/value cache.

    Args:
        total: ``(b, h, m)``, the sum of the earlier valid queries' weights on each value (0 for new values).
        queries: ``(b,)``, how many valid queries came before.
    """

    total: Tensor
    queries: Tensor


class _Packed(NamedTuple):
    """The non-zero entries of a tensor: places in its flat form, and values."""

    index: Tensor
    values: Tensor
    shape: torch.Size

    def dense(self) -> Tensor:
        flat = self.values.new_zeros(self.shape.numel())
        return flat.index_put((self.index,), self.values).view(self.shape)


class _Weight:
    """The field ``weight``: a tensor, made dense whenever it is read if :meth:`AttentionGraph.packed` has packed it."""

    def __get__(self, graph: AttentionGraph | None, owner=None) -> Tensor:
        if graph is None:
            raise AttributeError("weight has no default")  # which tells dataclass that it must be given
        kept = graph.__dict__["_weight"]
        return kept.dense() if isinstance(kept, _Packed) else kept

    def __set__(self, graph: AttentionGraph, weight: Tensor | _Packed) -> None:
        graph.__dict__["_weight"] = weight


@dataclass(frozen=True, eq=False)
class AttentionGraph:
    r"""One attention layer as a bipartite graph per example and head.

    Query node :math:`i` and value node :math:`j` are joined by an edge of weight :math:`M_{ij}`. Its square,
    symmetric form is :math:`\tilde M = [[0, M], [M^\top, 0]]` with node features
    :math:`\hat V = [Q W_q; V W_v] W_o`. Features are kept per head *before* :math:`W_o`; the metric
    :math:`G^h = W_o^h {W_o^h}^\top` gives norms and distances after it:
    :math:`\lVert x W_o^h \rVert^2 = x G^h x^\top`. Multi-head attention is one graph per head whose messages are
    summed after each head's slice of :math:`W_o`; with one head this is the single-head formula.

    Args:
        query: projected query features, biases included, before rotary embedding, ``(b, h, n, d)``.
        value: projected value features, biases included, ``(b, h, m, d)``.
        weight: attention weights ``(b, h, n, m)``; rows need not sum to 1.
        query_mask: ``(b, n)`` bool, False for padded queries. Default: all valid.
        value_mask: ``(b, m)`` bool, or ``(b, n, m)`` where each query sees its own values (a causal mask, say).
            Default: all visible. Edges outside either mask weigh exactly 0.
        causal: the queries are ordered in time (a decoder). The weights need not be triangular: cross-attention in a
            decoder is causal too. Messages then flow from values to queries only, and value degrees as seen by query
            :math:`i` sum over queries :math:`i' \le i`, so nothing leaks from later tokens.
        metric: ``(h, d, d)`` Gram matrix of each head's slice of :math:`W_o`. Default: the identity.
        past_degree: degrees left by earlier queries; only for causal graphs.
        kind: ``"self"`` or ``"cross"``; None if unknown.
        query_modality: what the query nodes stand for: ``"text"``, ``"image"``, or, where both are mixed, a bool
            ``(b, n)`` that is True for image nodes; None if unknown.
        value_modality: the same for value nodes, ``(b, m)``.
        rotated: query features carry rotary positions: distances to values depend on absolute position. So it is where a
            model rotates its queries and they could not be read before.

    Raises:
        ValueError: shapes that do not fit, or an unknown kind or modality; the message names the argument.
    """

    query: Tensor
    value: Tensor
    weight: Tensor = _Weight()
    query_mask: Tensor | None = None
    value_mask: Tensor | None = None
    causal: bool = False
    metric: Tensor | None = None
    past_degree: PastDegree | None = None
    kind: str | None = None
    query_modality: str | Tensor | None = None
    value_modality: str | Tensor | None = None
    rotated: bool = False

    def __post_init__(self):
        check_parts(
            self.query,
            self.value,
            self.weight,
            self.query_mask,
            self.value_mask,
            self.causal,
            self.metric,
            self.past_degree,
        )
        _check_labels(self)
        visible = self.visible
        if visible is not None:
            weight = torch.where(
                visible[:, None],
                self.weight,
                torch.zeros((), dtype=self.weight.dtype, device=self.weight.device),
            )
            object.__setattr__(self, "weight", weight)

    # ---- shape ----------------------------------------------------------------------------------------------

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
        """Which query and which value nodes stand for parts of an image: bool ``(b, n)`` and ``(b, m)``, each None if
        unknown."""
        b, _, n, m, _ = self.shape

        def mask(modality: str | Tensor | None, nodes: int) -> Tensor | None:
            if modality is None or isinstance(modality, Tensor):
                return modality
            return torch.full((b, nodes), modality == "image", device=self.query.device)

        return mask(self.query_modality, n), mask(self.value_modality, m)

    def __repr__(self) -> str:
        b, h, n, m, d = self.shape
        told = ["causal" if self.causal else "bidirectional"]
        if self.kind is not None:
            told.append(self.kind)
        if self.query_modality is not None or self.value_modality is not None:
            names = [
                "unknown" if side is None else "mixed" if isinstance(side, Tensor) else side
                for side in (self.query_modality, self.value_modality)
            ]
            told.append(" to ".join(names))
        if self.rotated:
            told.append("rotated queries")
        return (
            f"AttentionGraph(batch={b}, heads={h}, queries={n}, values={m}, features={d}, {', '.join(told)})"
        )

    # ---- degrees --------------------------------------------------------------------------------------------

    def query_degree(self) -> Tensor:
        r"""Query degrees :math:`d_i = \sum_j M_{ij}`, ``(b, h, n, 1)``: 1 for a softmax row."""
        return _wide(self.weight).sum(-1, keepdim=True)

    def value_degree(self, degree: str = "sum") -> Tensor:
        r"""Value degrees, ``(b, h, 1, m)``, or ``(b, h, n, m)`` in a causal graph.

        ``"sum"`` is :math:`e_j = \sum_i M_{ij}`; in a causal graph :math:`e_{ij} = \sum_{i' \le i} M_{i'j}`.
        ``"mean"`` divides by the number of valid queries (so far) and multiplies by the number of visible values, so
        that uniform attention has degree 1 everywhere and :math:`M_{ij}/\sqrt{d_i e_{ij}} = M_{ij}`.

        Raises:
            ValueError: another name for ``degree``.
        """
        scale = self.degree_scale(degree)
        weight = _wide(self.weight)
        if self.causal:
            total = weight.cumsum(-2)
            if self.past_degree is not None:
                total = total + self.past_degree.total.to(total.dtype)[:, :, None]
        else:
            total = weight.sum(-2, keepdim=True)
        return total if scale is None else total * scale

    def degree_scale(self, degree: str) -> Tensor | None:
        """What sums of weights are multiplied by to give value degrees: None for ``"sum"``, else broadcastable to
        ``(b, 1, n, 1)`` in a causal graph and to ``(b, 1, 1, 1)`` in others.

        Raises:
            ValueError: another name for ``degree``.
        """
        if degree not in DEGREES:
            raise ValueError(f"degree must be one of {', '.join(DEGREES)}, got {degree!r}")
        if degree == "sum":
            return None
        values, queries = self._visible_values_and_queries()
        return values.to(_wide(self.query).dtype) / queries

    def _visible_values_and_queries(self) -> tuple[Tensor, Tensor]:
        """How many values are visible and how many queries valid (so far, at least 1): each broadcastable to
        ``(b, 1, n, 1)`` in a causal graph, else ``(b, 1, 1, 1)``."""
        b, _, n, m, _ = self.shape
        device = self.weight.device
        rows = (
            self.query_mask
            if self.query_mask is not None
            else torch.ones(b, n, dtype=torch.bool, device=device)
        )
        columns = self.visible
        columns = (
            torch.ones(b, 1, m, dtype=torch.bool, device=device)
            if columns is None
            else columns.expand(b, -1, m)
        )
        if self.causal:
            queries = rows.cumsum(1)
            if self.past_degree is not None:
                queries = queries + self.past_degree.queries[:, None]
            values = columns.sum(-1)
        else:
            queries = rows.sum(1, keepdim=True)
            values = columns.any(1).sum(-1, keepdim=True)
        return values[:, None, :, None], queries.clamp(min=1)[:, None, :, None]

    def degree_after(self) -> PastDegree:
        """The running degrees after this graph's queries, to be handed to the next decoding step."""
        b, _, n, _, _ = self.shape
        queries = (
            torch.full((b,), n, device=self.weight.device)
            if self.query_mask is None
            else self.query_mask.sum(1)
        )
        total = _wide(self.weight).sum(-2)
        if self.past_degree is not None:
            total, queries = total + self.past_degree.total, queries + self.past_degree.queries
        return PastDegree(total, queries)

    # ---- other views ----------------------------------------------------------------------------------------

    def sparsify(
        self, top_k: int | None = None, threshold: float | None = None, mass: float | None = None
    ) -> AttentionGraph:
        """Keep the strongest edges of each query; see :func:`attngraph.sparsify.keep`. Weights are not renormalised.

        Raises:
            ValueError: not exactly one rule, a value out of range, or a graph with ``past_degree``: what earlier queries
                left counts edges that the rule would have dropped.
        """
        from attngraph.sparsify import keep

        if self.past_degree is not None:
            raise ValueError(
                "past_degree comes from all edges of the earlier queries: sparsify their graphs too, and give "
                "the sparse graph what they leave (dataclasses.replace), or read the model without a cache"
            )

        kept = keep(self.weight, top_k=top_k, threshold=threshold, mass=mass)
        return replace(self, weight=torch.where(kept, self.weight, torch.zeros_like(self.weight)))

    def packed(self) -> AttentionGraph:
        """The same graph, keeping only the edges in memory (8 to 16 bytes each) in place of all ``n m`` weights.
        ``weight`` is made dense whenever it is read; no gradient flows back from it."""
        weight = self.weight.detach()
        index = weight.flatten().nonzero()[:, 0]
        packed = _Packed(
            index.int() if weight.numel() < 2**31 else index, weight.flatten()[index], weight.shape
        )
        graph = copy(self)
        object.__setattr__(graph, "weight", packed)
        return graph

    def to_data(self, example: int = 0, head: int = 0) -> Data:
        """One example and head as a homogeneous PyG graph; see :func:`attngraph.convert.to_data`."""
        from attngraph.convert import to_data

        return to_data(self, example, head)

    def to_hetero(self, example: int = 0, head: int = 0) -> HeteroData:
        """One example and head as a PyG graph of two node types; see :func:`attngraph.convert.to_hetero`."""
        from attngraph.convert import to_hetero

        return to_hetero(self, example, head)

    def to_networkx(self, example: int = 0, head: int = 0) -> networkx.Graph:
        """One example and head as a networkx graph; see :func:`attngraph.convert.to_networkx`."""
        from attngraph.convert import to_networkx

        return to_networkx(self, example, head)

    @staticmethod
    def from_pyg(graph: Data | HeteroData) -> AttentionGraph:
        """Back from :meth:`to_data` or :meth:`to_hetero`; see :func:`attngraph.convert.from_pyg`."""
        from attngraph.convert import from_pyg

        return from_pyg(graph)

    @staticmethod
    def from_networkx(graph: networkx.Graph) -> AttentionGraph:
        """Back from :meth:`to_networkx`; see :func:`attngraph.convert.from_networkx`."""
        from attngraph.convert import from_networkx

        return from_networkx(graph)


def _wide(x: Tensor) -> Tensor:
    """Half precision accumulates in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_parts(
    query: Tensor,
    value: Tensor,
    weight: Tensor | None,
    query_mask: Tensor | None,
    value_mask: Tensor | None,
    causal: bool,
    metric: Tensor | None,
    past_degree: PastDegree | None,
) -> None:
    """Raises ValueError where the shapes of a graph's parts do not fit, naming the argument."""

    def fail(name: str, want: str, got) -> None:
        raise ValueError(f"{name} must have shape {want}, got {tuple(got.shape)}")

    if query.dim() != 4:
        fail("query", "(batch, heads, queries, features)", query)
    b, h, n, d = query.shape
    if value.dim() != 4 or value.shape[:2] != (b, h) or value.shape[3] != d:
        fail("value", f"({b}, {h}, values, {d}), like query", value)
    m = value.shape[2]
    if weight is not None and weight.shape != (b, h, n, m):
        fail("weight", f"({b}, {h}, {n}, {m})", weight)
    if query_mask is not None and query_mask.shape != (b, n):
        fail("query_mask", f"({b}, {n})", query_mask)
    if value_mask is not None and value_mask.shape not in ((b, m), (b, n, m)):
        fail("value_mask", f"({b}, {m}) or ({b}, {n}, {m})", value_mask)
    for name, mask in (("query_mask", query_mask), ("value_mask", value_mask)):
        if mask is not None and mask.dtype != torch.bool:
            raise ValueError(f"{name} must be a bool tensor (True = valid), got {mask.dtype}")
    if metric is not None and metric.shape != (h, d, d):
        fail("metric", f"({h}, {d}, {d})", metric)
    if past_degree is not None:
        if not causal:
            raise ValueError("past_degree belongs to causal graphs: pass causal=True")
        if past_degree.total.shape != (b, h, m):
            fail("past_degree.total", f"({b}, {h}, {m})", past_degree.total)
        if past_degree.queries.shape != (b,):
            fail("past_degree.queries", f"({b},)", past_degree.queries)


def _check_labels(graph: AttentionGraph) -> None:
    b, _, n, m, _ = graph.shape
    if graph.kind not in (None, *KINDS):
        raise ValueError(f"kind must be one of {', '.join(KINDS)} or None, got {graph.kind!r}")
    for name, nodes in (("query_modality", n), ("value_modality", m)):
        modality = getattr(graph, name)
        if isinstance(modality, Tensor):
            if modality.dtype != torch.bool or modality.shape != (b, nodes):
                raise ValueError(
                    f"{name} must be a bool tensor of shape ({b}, {nodes}) (True = image), got "
                    f"{modality.dtype} {tuple(modality.shape)}"
                )
        elif modality not in (None, *MODALITIES):
            raise ValueError(
                f"{name} must be one of {', '.join(MODALITIES)}, a bool tensor or None, got {modality!r}"
            )
