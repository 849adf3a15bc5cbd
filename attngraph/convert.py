r"""One example and head of an attention graph as PyG ``Data`` and ``HeteroData`` and as a networkx graph, and
back.

All carry both directions of :math:`\tilde M`. Masks, causality, kind, modality and the metric travel along,
so that a round trip gives back the same graph; a side that holds one modality only comes back under its name.
Degrees of earlier decoding steps do not travel.

:meth:`AttentionGraph.to_data` and its like are the way in; here a graph is a :class:`Part`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # PyG and networkx take seconds to import
    import networkx
    from torch_geometric.data import Data, HeteroData

UNKNOWN = -1  # the modality of a node that stands for neither text (0) nor image (1), as far as is known


@dataclass(frozen=True, eq=False)
class Part:
    """One example and one head of an attention graph, without the dimensions of examples and heads.

    Args:
        query: ``(n, d)``.
        value: ``(m, d)``.
        weight: ``(n, m)``.
        query_valid: bool ``(n,)``, or None if all are valid.
        value_visible: bool ``(m,)``, or ``(n, m)`` where each query sees its own values; None if all are
            visible.
        causal: the queries are ordered in time.
        span: the queries that count in the degrees that each query sees, ``(n, 2)``; see
            :class:`attngraph.AttentionGraph`.
        metric: ``(d, d)``, or None for the identity.
        kind: ``"self"``, ``"cross"`` or None.
        query_is_image: bool ``(n,)``, which queries stand for parts of an image; None if unknown.
        value_is_image: bool ``(m,)``, the same for values.
        rotated: query features carry rotary positions.
    """

    query: Tensor
    value: Tensor
    weight: Tensor
    query_valid: Tensor | None = None
    value_visible: Tensor | None = None
    causal: bool = False
    metric: Tensor | None = None
    kind: str | None = None
    query_is_image: Tensor | None = None
    value_is_image: Tensor | None = None
    rotated: bool = False
    span: Tensor | None = None

    def valid(self) -> tuple[Tensor, Tensor]:
        """Which queries are valid, ``(n,)``, and which values any query sees, ``(m,)``."""
        n, m = self.weight.shape
        rows, columns = self.query_valid, self.value_visible
        if rows is None:
            rows = torch.ones(n, dtype=torch.bool, device=self.weight.device)
        if columns is None:
            columns = torch.ones(m, dtype=torch.bool, device=self.weight.device)
        return rows, columns.any(0) if columns.dim() == 2 else columns

    def modality(self) -> tuple[Tensor, Tensor]:
        """The modality of every query ``(n,)`` and every value ``(m,)``: 0 text, 1 image, -1 unknown."""
        n, m = self.weight.shape
        device = self.weight.device
        query, value = self.query_is_image, self.value_is_image
        return (
            torch.full((n,), UNKNOWN, device=device) if query is None else query.long(),
            torch.full((m,), UNKNOWN, device=device) if value is None else value.long(),
        )

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, value and weight of each edge, ``(e,)`` each."""
        i, j = self.weight.nonzero(as_tuple=True)
        return i, j, self.weight[i, j]

    def graph_fields(self) -> dict[str, Tensor | str | bool]:
        """What has no place on nodes or edges, and goes on the graph itself."""
        fields: dict[str, Tensor | str | bool] = {}
        if self.kind is not None:
            fields["kind"] = self.kind
        if self.metric is not None:
            fields["metric"] = self.metric
        if self.value_visible is not None and self.value_visible.dim() == 2:
            fields["visible"] = self.value_visible
        if self.rotated:
            fields["rotated"] = True
        if self.span is not None:
            fields["span"] = self.span
        return fields


def to_data(part: Part) -> Data:
    r"""A homogeneous graph: queries are nodes ``0..n-1``, values ``n..n+m-1``.

    Returns:
        ``Data`` with ``x (n+m, d)``, ``edge_index (2, 2e)`` (value→query messages first, then query→value),
        ``edge_weight (2e,)``, ``is_value (n+m,)``, ``valid (n+m,)``, ``modality (n+m,)`` (0 text, 1 image, -1
        unknown), ``causal``, ``kind`` and ``metric`` if known, ``visible (n, m)`` if each query sees its own
        values, ``rotated`` if it is so, and ``span (n, 2)`` if there is one.
    """
    from torch_geometric.data import Data

    n = len(part.query)
    i, j, weight = part.edges()
    rows, columns = part.valid()
    data = Data(
        x=torch.cat([part.query, part.value]),
        edge_index=torch.stack([torch.cat([j + n, i]), torch.cat([i, j + n])]),
        edge_weight=torch.cat([weight, weight]),
        is_value=torch.cat([torch.zeros_like(rows), torch.ones_like(columns)]),
        valid=torch.cat([rows, columns]),
        modality=torch.cat(part.modality()),
        causal=part.causal,
    )
    for name, field in part.graph_fields().items():
        setattr(data, name, field)
    return data


def to_hetero(part: Part) -> HeteroData:
    """A graph of two node types, ``query`` and ``value``, and two edge types, one per direction: ``("value",
    "to", "query")`` and ``("query", "to", "value")``; each has ``edge_index`` and ``edge_weight``."""
    from torch_geometric.data import HeteroData

    i, j, weight = part.edges()
    data = HeteroData()
    data["query"].x, data["value"].x = part.query, part.value
    data["query"].valid, data["value"].valid = part.valid()
    data["query"].modality, data["value"].modality = part.modality()
    for source, target, index in (("value", "query", [j, i]), ("query", "value", [i, j])):
        data[source, "to", target].edge_index = torch.stack(index)
        data[source, "to", target].edge_weight = weight
    data.causal = part.causal
    for name, field in part.graph_fields().items():
        setattr(data, name, field)
    return data


def from_pyg(data: Data | HeteroData) -> Part:
    """Back from either PyG form, also from one made by hand.

    Raises:
        ValueError: a field that is needed is missing; the message names it. Or a batch of several graphs, an
            edge within one side, or edges from queries to values that are not those back.
    """
    from torch_geometric.data import Batch, HeteroData

    if isinstance(data, Batch):
        if data.num_graphs != 1:
            raise ValueError("one graph is needed, not a batch: take them out with batch.to_data_list()")
        data = data.get_example(0)
    nodes = _from_hetero(data) if isinstance(data, HeteroData) else _from_homogeneous(data)
    weight = nodes.edge_weight
    dense, back = (
        weight.new_zeros(len(nodes.query), len(nodes.value)).index_put((i, j), x, accumulate=True)
        for i, j, x in ((nodes.i, nodes.j, weight), nodes.back)
    )
    if len(nodes.back[0]) and not torch.allclose(dense, back):
        raise ValueError(
            "the PyG graph's edges from queries to values are not those from values to queries, and an "
            "attention graph has one weight for both: leave them out, or let "
            "torch_geometric.utils.to_undirected make them"
        )
    visible = _field(data, "visible")
    return Part(
        nodes.query,
        nodes.value,
        dense,
        query_valid=_unless_all(nodes.query_valid),
        value_visible=_unless_all(nodes.value_valid) if visible is None else visible,
        causal=bool(_field(data, "causal")),
        metric=_field(data, "metric"),
        kind=_field(data, "kind"),
        query_is_image=_is_image(nodes.query_modality),
        value_is_image=_is_image(nodes.value_modality),
        rotated=bool(_field(data, "rotated")),
        span=_field(data, "span"),
    )


def to_networkx(part: Part) -> networkx.Graph:
    """An undirected graph. Nodes are ``("query", i)`` and ``("value", j)`` with attributes ``bipartite`` (0
    or 1), ``x`` (a list of numbers), ``valid`` and ``modality`` (0 text, 1 image, -1 unknown); edges carry
    ``weight``."""
    import networkx

    graph = networkx.Graph(causal=part.causal, dtype=part.query.dtype)
    sides = zip(("query", "value"), (part.query, part.value), part.valid(), part.modality())
    for bipartite, (side, features, valid, modality) in enumerate(sides):
        graph.add_nodes_from(
            ((side, k), {"bipartite": bipartite, "x": x, "valid": is_valid, "modality": node_modality})
            for k, (x, is_valid, node_modality) in enumerate(
                zip(features.tolist(), valid.tolist(), modality.tolist())
            )
        )
    graph.add_weighted_edges_from(
        (("query", i), ("value", j), weight) for i, j, weight in zip(*(x.tolist() for x in part.edges()))
    )
    graph.graph.update(part.graph_fields())
    return graph


def from_networkx(graph: networkx.Graph) -> Part:
    """Back from a bipartite networkx graph whose nodes carry ``bipartite`` (0 query, 1 value) and ``x``, and
    whose edges carry ``weight``. Nodes may have any names; their order gives the order of the rows.

    Raises:
        ValueError: a node without ``bipartite`` or ``x``, an edge within one side, or a directed graph with
            both directions of an edge.
    """
    sides: tuple[list, list] = ([], [])
    for node, attributes in graph.nodes(data=True):
        if attributes.get("bipartite") not in (0, 1) or "x" not in attributes:
            raise ValueError(
                f"node {node!r} needs the attributes bipartite (0 = query, 1 = value) and x (its features)"
            )
        sides[attributes["bipartite"]].append(node)
    place = [{node: k for k, node in enumerate(side)} for side in sides]
    dtype = graph.graph.get("dtype", torch.get_default_dtype())
    features = [torch.tensor([graph.nodes[node]["x"] for node in side], dtype=dtype) for side in sides]
    valid = [torch.tensor([graph.nodes[node].get("valid", True) for node in side]) for side in sides]
    modality = [torch.tensor([graph.nodes[node].get("modality", UNKNOWN) for node in side]) for side in sides]
    weights = torch.zeros(len(sides[0]), len(sides[1]), dtype=dtype)
    if graph.is_directed() and any(a != b and graph.has_edge(b, a) for a, b in graph.edges()):
        raise ValueError(
            "the graph is directed and has edges in both directions, which would count twice: give "
            "graph.to_undirected()"
        )
    for a, b, weight in graph.edges(data="weight", default=1.0):
        if a in place[1]:
            a, b = b, a
        if a not in place[0] or b not in place[1]:
            raise ValueError(
                f"edge {a!r} – {b!r} does not join a query (bipartite 0) and a value (bipartite 1)"
            )
        weights[place[0][a], place[1][b]] += weight  # a multigraph's parallel edges add up
    visible, metric = graph.graph.get("visible"), graph.graph.get("metric")
    return Part(
        features[0],
        features[1],
        weights,
        query_valid=_unless_all(valid[0]),
        value_visible=_unless_all(valid[1]) if visible is None else torch.as_tensor(visible),
        causal=bool(graph.graph.get("causal", False)),
        metric=None if metric is None else torch.as_tensor(metric),
        kind=graph.graph.get("kind"),
        query_is_image=_is_image(modality[0]),
        value_is_image=_is_image(modality[1]),
        rotated=bool(graph.graph.get("rotated")),
        span=graph.graph.get("span"),
    )


@dataclass(frozen=True, eq=False)
class _Nodes:
    """The nodes and edges of a PyG graph, by side."""

    query: Tensor
    value: Tensor
    i: Tensor  # the query of each edge from a value to a query
    j: Tensor  # its value
    edge_weight: Tensor
    back: tuple[Tensor, Tensor, Tensor]  # query, value and weight of the edges from queries to values
    query_valid: Tensor | None
    value_valid: Tensor | None
    query_modality: Tensor | None
    value_modality: Tensor | None


def _from_hetero(data: HeteroData) -> _Nodes:
    edges, back = ("value", "to", "query"), ("query", "to", "value")
    needed = [("query", "x"), ("value", "x"), (edges, "edge_index"), (edges, "edge_weight")]
    if back in data.edge_types:
        needed += [(back, "edge_index"), (back, "edge_weight")]
    for store, field in needed:
        if store not in data.node_types + data.edge_types or data[store].get(field) is None:
            raise ValueError(f"the PyG graph has no {store!r}.{field} (see AttentionGraph.to_hetero)")
    for kind in data.edge_types:
        if kind not in (edges, back):
            raise ValueError(f"the PyG graph has edges {kind!r}, which are none of an attention graph")
    query, value = data["query"], data["value"]
    j, i = data[edges].edge_index
    returning = i[:0], j[:0], data[edges].edge_weight[:0]
    if back in data.edge_types:
        returning = (*data[back].edge_index, data[back].edge_weight)
    return _Nodes(
        query.x,
        value.x,
        i,
        j,
        data[edges].edge_weight,
        returning,
        query.get("valid"),
        value.get("valid"),
        query.get("modality"),
        value.get("modality"),
    )


def _from_homogeneous(data: Data) -> _Nodes:
    for field in ("x", "edge_index", "edge_weight", "is_value"):
        if data.get(field) is None:
            raise ValueError(
                f"the PyG graph has no {field!r}: an attention graph needs x, edge_index, "
                "edge_weight and is_value (see AttentionGraph.to_data)"
            )
    is_value = data.is_value.bool()
    place = torch.where(is_value, is_value.cumsum(0) - 1, (~is_value).cumsum(0) - 1)
    source, target = data.edge_index
    within = is_value[source] == is_value[target]
    if within.any():
        a, b = data.edge_index[:, within][:, 0].tolist()
        raise ValueError(f"edge {a} – {b} does not join a query and a value (is_value)")
    forward = is_value[source]
    valid, modality = data.get("valid"), data.get("modality")
    return _Nodes(
        data.x[~is_value],
        data.x[is_value],
        place[target[forward]],
        place[source[forward]],
        data.edge_weight[forward],
        (place[source[~forward]], place[target[~forward]], data.edge_weight[~forward]),
        None if valid is None else valid[~is_value],
        None if valid is None else valid[is_value],
        None if modality is None else modality[~is_value],
        None if modality is None else modality[is_value],
    )


def _field(data: Data | HeteroData, name: str) -> Any:
    """A graph-level field, or None."""
    return getattr(data, name) if name in data else None


def _unless_all(mask: Tensor | None) -> Tensor | None:
    """A mask, or None where it hides nothing."""
    return None if mask is None or mask.all() else mask


def _is_image(modality: Tensor | None) -> Tensor | None:
    """Which nodes of one side stand for parts of an image, or None if any of them is unknown."""
    return None if modality is None or (modality < 0).any() else modality.bool()
