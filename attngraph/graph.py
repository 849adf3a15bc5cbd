"""Attention graphs: two sets of nodes, weighted edges, masks and an order in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attngraph import checks, convert, saved, thumbnail
from attngraph.degrees import PastDegree, check_degree, mean_scale, queries_counted
from attngraph.errors import UserError
from attngraph.norms import KeptNorms
from attngraph.precision import widen
from attngraph.sparsify import WEIGHT, KeptWeight, NonZeros, Totals, keep

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
            model that diverged, stays NaN; in :meth:`from_pyg` and :meth:`from_networkx` it is an error.
        query_mask: ``(b, n)`` bool, False for padded queries. Default: all valid.
        value_mask: ``(b, m)`` bool, or ``(b, n, m)`` if queries see different values (for instance under a
            causal mask). Default: all visible. Edges outside either mask have weight exactly 0.
        causal: the queries are ordered in time (a decoder). The weights need not be triangular:
            cross-attention in a decoder is causal too. Messages then flow from values to queries only, and
            value degrees as seen by query :math:`i` sum over queries :math:`i' \le i`, so nothing leaks from
            later tokens.
        span: in causal graphs, the first and the last query whose weights count in the value degrees that
            each query sees, integers ``(b, n, 2)``. The last one is later than the query itself if queries
            see each other (the prefix of a prefix-LM, a block of an image); the first one is that of the
            query's text if several are packed, and -1 if ``past_degree`` counts too.
            Default: from the first query, with ``past_degree``, to the query itself.
        metric: ``(h, d, d)`` Gram matrix of each head's slice of :math:`W_o`. Default: the identity.
        past_degree: degrees left by earlier queries; only for causal graphs.
        kind: ``"self"`` or ``"cross"``; None if unknown.
        query_modality: ``"text"`` or ``"image"`` for the query nodes, or, if both are mixed, a bool ``(b,
            n)`` that is True for image nodes; None if unknown.
        value_modality: the same for value nodes, ``(b, m)``.
        kept_norms: squared norms of these very value features, kept between decoding steps.
        rotated: query features include rotary positions, so distances to values depend on absolute position.
            This happens if a model rotates its queries and they could not be read before.

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
        kept = self.stored
        if isinstance(kept, KeptWeight):
            checks.check_shape("weight", kept, (b, h, n, m))
        else:
            checks.check_weight(kept, (b, h, n, m))
        checks.check_mask("query_mask", self.query_mask, (b, n))
        checks.check_mask("value_mask", self.value_mask, (b, m), (b, n, m))
        checks.check_shape("metric", self.metric, (h, d, d))
        checks.check_past_degree(self.past_degree, self.causal, b, h, m)
        checks.check_span(self.span, self.causal, b, n)
        checks.check_kind(self.kind)
        checks.check_modality("query_modality", self.query_modality, b, n)
        checks.check_modality("value_modality", self.value_modality, b, m)
        visible = self.visible
        if visible is not None and isinstance(kept, KeptWeight):
            object.__setattr__(self, "weight", kept.where(visible))
        elif visible is not None and isinstance(kept, Tensor):
            zero = torch.zeros((), dtype=kept.dtype, device=kept.device)
            object.__setattr__(self, "weight", torch.where(visible[:, None], kept, zero))

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
        present = {
            "rotated queries": self.rotated,
            "masked": self.visible is not None,
            "metric": self.metric is not None,
            "past degrees": self.past_degree is not None,
            "compact": isinstance(self.stored, NonZeros),
            "streamed": self.totals is not None,
        }
        properties += [name for name, is_there in present.items() if is_there]
        dtype, device = self.query.dtype, self.query.device
        properties += [str(dtype)] * (dtype != torch.float32) + [str(device)] * (device.type != "cpu")
        sizes = f"batch={b}, heads={h}, queries={n}, values={m}, features={d}"
        return f"AttentionGraph({sizes}, {', '.join(properties)})"

    def _repr_html_(self) -> str:
        """HTML for notebooks: :func:`repr` and a small image of the weights of the first example."""
        b, h, n, m, _ = self.shape
        small = b > 0 and h * n * m <= thumbnail.LARGEST
        return thumbnail.thumbnail(repr(self), self[0].weight[0] if small else self.query.new_empty(0))

    # ---- degrees -------------------------------------------------------------------------------------------

    def query_degree(self) -> Tensor:
        r"""Query degrees :math:`d_i = \sum_j M_{ij}`, ``(b, h, n, 1)``: 1 for a softmax row."""
        return self._sum(-1)[..., None]

    def value_degree(self, degree: str = "sum") -> Tensor:
        r"""Value degrees, ``(b, h, 1, m)``, or ``(b, h, n, m)`` in a causal graph.

        ``"sum"`` is :math:`e_j = \sum_i M_{ij}`; in a causal graph :math:`e_{ij} = \sum_{i' \le i} M_{i'j}`,
        or the sum over the queries of ``span``. ``"mean"`` divides by the number of valid queries (so far)
        and multiplies by the number of visible values. If all queries see the same values, uniform attention
        then has degree 1 at each of them, and :math:`M_{ij}/\sqrt{d_i e_{ij}} = M_{ij}`.

        Raises:
            ValueError: another name for ``degree``.
        """
        scale = self.degree_scale(degree)
        if self.causal:
            total = widen(self.weight).cumsum(-2)
            past = 0 if self.past_degree is None else self.past_degree.total.to(total.dtype)[:, :, None]
            if self.span is not None:
                first, last = (x[:, None, :, None].expand(total.shape) for x in self.span.unbind(-1))
                before = torch.nn.functional.pad(total, (0, 0, 1, 0)).gather(-2, first.clamp(min=0))
                total, past = total.gather(-2, last) - before, past * (first < 0)
            total = total + past
        else:
            total = self._sum(-2)[:, :, None]
        return total if scale is None else total * scale

    def _sum(self, axis: int) -> Tensor:
        """Sums of weights over the values (``axis`` -1) or the queries (-2)."""
        kept = self.stored
        return kept.sum(axis) if isinstance(kept, KeptWeight) else widen(kept).sum(axis)

    def degree_scale(self, degree: str) -> Tensor | None:
        """Factor from sums of weights to value degrees: None for ``"sum"``, else broadcastable to
        ``(b, 1, n, 1)`` in a causal graph and to ``(b, 1, 1, 1)`` in others.

        Raises:
            ValueError: another name for ``degree``.
        """
        check_degree(degree)
        if degree == "sum":
            return None
        b, _, n, m, _ = self.shape
        device = self.query.device
        rows, columns = self.query_mask, self.visible
        if rows is None:
            rows = torch.ones(b, n, dtype=torch.bool, device=device)
        if columns is None:
            columns = torch.ones(b, 1, m, dtype=torch.bool, device=device)
        columns = columns.expand(b, -1, m)
        values = columns.sum(-1) if self.causal else columns.any(1).sum(-1, keepdim=True)
        if self.causal and self.totals is not None and self.value_mask is None and self.span is None:
            # streamed without a mask: query i sees the values up to i + m - n
            values = values.minimum(torch.arange(m - n + 1, m + 1, device=device).clamp(min=0))
        return mean_scale(values.to(widen(self.query).dtype), rows, self.causal, self.past_degree, self.span)

    def degree_after(self) -> PastDegree:
        """The running degrees after this graph's queries, to be handed to the next decoding step."""
        if self.span is not None:
            total = self.last_value_degrees(1)[:, :, -1]
        else:
            total = self._sum(-2)
            if self.past_degree is not None:
                total = total + self.past_degree.total
        return PastDegree(total, self.queries_counted()[:, -1])

    def last_value_degrees(self, count: int) -> Tensor:
        """:meth:`value_degree` as the last ``count`` queries of a causal graph see it, ``(b, h, count,
        m)``."""
        kept = self.stored
        if not isinstance(kept, KeptWeight) or self.span is None:
            return self.value_degree()[:, :, -count:]
        first, last = self.span[:, -count:].unbind(-1)
        query = torch.arange(self.shape[2], device=first.device)[:, None]
        total = kept.sum_of((query >= first[:, None]) & (query <= last[:, None]))
        past = 0 if self.past_degree is None else self.past_degree.total[:, :, None]
        return total + past * (first < 0)[:, None, :, None]

    def split_degree(self, count: int) -> tuple[Tensor, Tensor]:
        """Degrees that the first ``count`` queries and those before leave at the values, ``(b, h, m)``, and
        the weights of the other queries, ``(b, h, n - count, m)``; both without a gradient."""
        kept = self.stored
        if isinstance(kept, KeptWeight):
            rows = kept.rows(slice(count, None))
            total, later = kept.sum(-2), widen(rows).sum(2)
            early = torch.where(total - later > 1e-6 * total, total - later, 0)  # the rest is rounding
        else:
            weight = kept.detach()
            early, rows = widen(weight[:, :, :count]).sum(2), weight[:, :, count:].clone()
        return early if self.past_degree is None else early + self.past_degree.total, rows

    def following(self, past: PastDegree | None, norms: KeptNorms | None = None) -> AttentionGraph:
        """The same graph with ``past_degree`` and ``kept_norms``; its weights are not masked again."""
        b, h, _, m, _ = self.shape
        checks.check_past_degree(past, self.causal, b, h, m)
        return checks.unchecked(self, past_degree=past, kept_norms=norms)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """The weights, some queries at a time: which, and ``(b, h, queries, m)``. All at once, unless the
        graph is streamed and has them computed whenever they are read (``capture(..., stream=True)``)."""
        kept = self.stored
        return kept.strips() if isinstance(kept, KeptWeight) else iter([(slice(0, self.shape[2]), kept)])

    def weights_of(self, query: Tensor) -> Tensor:
        """The weights of one query of each example, ``(b, h, m)``, whose numbers are ``(b,)``."""
        kept, numbers = self.stored, query.tolist()
        if isinstance(kept, KeptWeight):
            return torch.stack([kept.rows(slice(i, i + 1))[k, :, 0] for k, i in enumerate(numbers)])
        return kept[torch.arange(len(numbers)), :, numbers]

    def queries_counted(self) -> Tensor:
        """Number of valid queries that count in the value degrees that each query sees, ``(b, n)``; ``(b,
        1)`` in a graph that is not causal."""
        valid = self.query_mask
        if valid is None:
            b, _, n, _, _ = self.shape
            valid = torch.ones(b, n, dtype=torch.bool, device=self.query.device)
        return queries_counted(valid, self.causal, self.past_degree, self.span)

    # ---- other views ---------------------------------------------------------------------------------------

    def sparsify(
        self, top_k: int | None = None, threshold: float | None = None, mass: float | None = None
    ) -> AttentionGraph:
        """Keep the strongest edges of each query; see :func:`attngraph.sparsify.keep`. Weights are not
        renormalised.

        Raises:
            ValueError: not exactly one rule, a value out of range, or a graph with ``past_degree``: what
                earlier queries left counts edges that the rule would have dropped. Of a streamed graph,
                another rule than ``top_k``.
        """
        if self.past_degree is not None:
            raise ValueError(
                "past_degree comes from all edges of the earlier queries: sparsify their graphs too, and "
                "set past_degree of this one to theirs (dataclasses.replace), or read the model without a "
                "cache"
            )
        stored = self.stored
        if isinstance(stored, KeptWeight) and stored.totals is not None:
            return self.keeping(stored.chosen(top_k=top_k, threshold=threshold, mass=mass))
        kept = keep(self.weight, top_k=top_k, threshold=threshold, mass=mass)
        return replace(self, weight=torch.where(kept, self.weight, torch.zeros_like(self.weight)))

    def compact(self) -> AttentionGraph:
        """The same graph, keeping only the edges in memory (8 to 16 bytes each) in place of all ``n m``
        weights. ``weight`` is made dense whenever it is read; no gradient flows back from it."""
        kept = self.stored
        return self.keeping(kept.non_zeros() if isinstance(kept, KeptWeight) else NonZeros.of(kept))

    def keeping(self, weight: KeptWeight) -> AttentionGraph:
        """The same graph with weights in another form, or with fewer of them."""
        graph = copy(self)
        object.__setattr__(graph, "weight", weight)
        return graph

    def __getitem__(self, index: Any) -> AttentionGraph:
        """The graph of some examples, or of some examples and heads: ``graph[0]``, ``graph[:2]``,
        ``graph[0, 3]``, ``graph[:, [0, 3]]``.

        Args:
            index: numbers, slices, lists, or tensors of numbers or of bool. A single number keeps its
                dimension, so that what comes out is a graph again.

        Raises:
            IndexError: there is no such example or head, or more than two dimensions are indexed.
        """
        index = index if isinstance(index, tuple) else (index,)
        if len(index) > 2:
            raise IndexError(f"a graph is indexed by examples and heads, got {len(index)} indices")
        b, h = self.shape[:2]
        examples = _chosen("examples", b, index[0])
        heads = _chosen("heads", h, index[1] if len(index) == 2 else slice(None))
        past, kept = self.past_degree, self.stored

        def both(x: Tensor) -> Tensor:
            return x[examples][:, heads]

        def of_examples(x: Any) -> Any:
            return x[examples] if isinstance(x, Tensor) else x

        weight: Any = kept.at(examples, heads) if isinstance(kept, KeptWeight) else both(kept)
        graph = replace(
            self,
            query=both(self.query),
            value=both(self.value),
            weight=weight,
            query_mask=of_examples(self.query_mask),
            value_mask=of_examples(self.value_mask),
            metric=None if self.metric is None else self.metric[heads],
            past_degree=None if past is None else PastDegree(both(past.total), past.queries[examples]),
            query_modality=of_examples(self.query_modality),
            value_modality=of_examples(self.value_modality),
            span=of_examples(self.span),
            kept_norms=None,
        )
        return graph

    def to(self, target: torch.device | str | int | torch.dtype) -> AttentionGraph:
        """The graph on a device, or with its floating-point numbers in a dtype.

        >>> graph.to("cuda").to(torch.bfloat16)

        Raises:
            ValueError: a dtype of integers, in which all weights would be 0 or 1.
        """
        if isinstance(target, torch.dtype) and not target.is_floating_point:
            raise ValueError(
                f"a graph holds floating-point numbers, not {target}: use a dtype such as torch.float16"
            )
        if not isinstance(target, torch.dtype):
            return self._with(lambda x: x.to(target))
        return self._with(lambda x: x.to(target) if x.is_floating_point() else x)

    def cpu(self) -> AttentionGraph:
        """The graph in the processor's memory."""
        return self.to("cpu")

    def detach(self) -> AttentionGraph:
        """The graph without a gradient back to what it was computed from."""
        return self._with(Tensor.detach)

    def _with(self, function: Callable[[Tensor], Tensor]) -> AttentionGraph:
        """The graph with a function of each of its tensors."""
        graph = copy(self)
        for name, x in vars(self).items():
            if isinstance(x, Tensor):
                x = function(x)
            elif isinstance(x, PastDegree):
                x = PastDegree(*map(function, x))
            elif isinstance(x, KeptWeight):
                x = x.map(function)
            object.__setattr__(graph, name, x)
        object.__setattr__(graph, "kept_norms", None)
        return graph

    @property
    def stored(self) -> Tensor | KeptWeight:
        """The weights, in the form in which they are in memory."""
        return vars(self)["_weight"]

    @property
    def totals(self) -> Totals | None:
        """Degrees and entropies of all edges, where the graph was streamed, whichever edges it keeps; else
        None."""
        kept = self.stored
        return kept.totals if isinstance(kept, KeptWeight) else None

    def edge_list(self) -> tuple[Tensor, Tensor]:
        """The edges: example, head, query and value of each, ``(4, e)``, and its weight ``(e,)``."""
        kept = self.stored
        if isinstance(kept, KeptWeight):
            kept = kept.non_zeros()
            return kept.places(), kept.values
        places = kept.nonzero(as_tuple=True)
        return torch.stack(places), kept[places]  # with its gradient

    def save(self, path: str | Path) -> None:
        """Write the graph to a safetensors file; see :func:`attngraph.saved.write`."""
        saved.write(path, vars(self))

    @staticmethod
    def load(path: str | Path) -> AttentionGraph:
        """The graph of a file that :meth:`save` wrote, in the processor's memory; compact if it was.

        Raises:
            UserError: the file cannot be read, is damaged, or holds no attention graph.
        """
        fields = saved.read(path)
        try:
            return AttentionGraph(**fields)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{path} holds no attention graph ({error}): {saved.REMEDY}") from None

    def to_data(self) -> Data:
        """The graph as a homogeneous PyG graph, or, of several examples and heads, as a batch of them; see
        :func:`attngraph.convert.to_data`."""
        return convert.to_data(self)

    def to_hetero(self) -> HeteroData:
        """The graph as a PyG graph of two node types, or, of several examples and heads, as a batch of them;
        see :func:`attngraph.convert.to_hetero`."""
        return convert.to_hetero(self)

    def to_networkx(self) -> networkx.Graph:
        """A graph of one example and head (``graph[0, 0]``) as a networkx graph; see
        :func:`attngraph.convert.to_networkx`."""
        return convert.to_networkx(self)

    @staticmethod
    def from_pyg(graph: Data | HeteroData) -> AttentionGraph:
        """A graph of one example and head, back from :meth:`to_data` or :meth:`to_hetero`, or from such a PyG
        graph made by hand; see :func:`attngraph.convert.from_pyg`."""
        return AttentionGraph(**convert.from_pyg(graph))

    @staticmethod
    def from_networkx(graph: networkx.Graph) -> AttentionGraph:
        """A graph of one example and head, back from :meth:`to_networkx` or from any bipartite networkx
        graph; see :func:`attngraph.convert.from_networkx`."""
        return AttentionGraph(**convert.from_networkx(graph))


def _chosen(name: str, size: int, index: Any) -> Any:
    """Index of rows of a tensor: a slice, or their numbers."""
    if isinstance(index, slice):
        return index
    numbers = torch.arange(size)
    try:
        chosen = numbers[torch.as_tensor(index)]
    except (IndexError, TypeError, RuntimeError, ValueError):
        chosen = None
    if chosen is None or chosen.dim() > 1:
        raise IndexError(f"the graph has {name} 0 to {size - 1}, got {index!r}")
    return slice(int(chosen), int(chosen) + 1) if chosen.dim() == 0 else chosen.tolist()
