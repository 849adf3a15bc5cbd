r"""One example and head of an attention graph as PyG ``Data`` and ``HeteroData`` and as a networkx graph, and
back.

All carry both directions of :math:`\tilde M`. Masks, causality, degrees of earlier decoding steps, kind,
modality and the metric travel along, so that a round trip gives back the same graph; a side that holds one
modality only comes back under its name. PyG graphs of any sizes can be batched and taken out of the batch
again; networkx graphs hold numbers and text only, so that GraphML, GML and node-link JSON keep
all of them.

:meth:`AttentionGraph.to_data` and its like are the way in; here a graph is a :class:`GraphPart`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attngraph.degrees import PastDegree
from attngraph.part import GRAPH_FIELDS, UNKNOWN, GraphPart
from attngraph.precision import widen

NEED_CAUSAL = {"modality", "first", "last", "past_degree"}  # of networkx nodes whose graph has fields too

if TYPE_CHECKING:  # PyG and networkx take seconds to import
    import networkx
    from torch_geometric.data import Data, HeteroData


def to_data(part: GraphPart) -> Data:
    r"""A homogeneous graph: queries are nodes ``0..n-1``, values ``n..n+m-1``.

    Returns:
        ``Data`` with ``x (n+m, d)``, ``edge_index (2, 2e)`` (value→query messages first, then query→value),
        ``edge_weight (2e,)``, ``is_value (n+m,)``, ``valid (n+m,)``, ``modality (n+m,)`` (0 text, 1 image, -1
        unknown), ``span (n+m, 2)`` and ``past_degree (n+m,)``, which count in causal graphs, the one at
        queries and the other at values. The graph itself has ``metric (1, d, d)``, ``causal``, ``kind``
        (empty if unknown), ``rotated``, ``visible`` (text: a word of 0 and 1 per query, which values it sees;
        empty where all queries see the same) and ``past_queries``, how many earlier queries count. All graphs
        have all of these, since PyG drops from a batch what its first graph lacks.
    """
    from torch_geometric.data import Data

    n, m = part.weight.shape
    i, j, weight = part.edges()
    rows, columns = part.valid()
    span, past = part.order()
    return Data(
        x=torch.cat([part.query, part.value]),
        edge_index=torch.stack([torch.cat([j + n, i]), torch.cat([i, j + n])]),
        edge_weight=torch.cat([weight, weight]),
        is_value=torch.cat([torch.zeros_like(rows), torch.ones_like(columns)]),
        valid=torch.cat([rows, columns]),
        modality=torch.cat(part.modality()),
        span=torch.cat([span, span.new_full((m, 2), -1)]),
        past_degree=torch.cat([past.new_zeros(n), past]),
        metric=part.gram()[None],
        **part.graph_fields(),
    )


def to_hetero(part: GraphPart) -> HeteroData:
    """A graph of two node types, ``query`` and ``value``, and two edge types, one per direction: ``("value",
    "to", "query")`` and ``("query", "to", "value")``; each has ``edge_index`` and ``edge_weight``. Nodes have
    ``x``, ``valid`` and ``modality``, queries ``span`` and values ``past_degree``. The graph has the same
    fields as in :func:`to_data`."""
    from torch_geometric.data import HeteroData

    i, j, weight = part.edges()
    data = HeteroData()
    data["query"].x, data["value"].x = part.query, part.value
    data["query"].valid, data["value"].valid = part.valid()
    data["query"].modality, data["value"].modality = part.modality()
    data["query"].span, data["value"].past_degree = part.order()
    for source, target, index in (("value", "query", [j, i]), ("query", "value", [i, j])):
        data[source, "to", target].edge_index = torch.stack(index)
        data[source, "to", target].edge_weight = weight
    for name, field in {"metric": part.gram()[None], **part.graph_fields()}.items():
        setattr(data, name, field)
    return data


def from_pyg(data: Data | HeteroData) -> GraphPart:
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
    return _part(nodes, {name: getattr(data, name) for name in GRAPH_FIELDS if name in data})


def to_networkx(part: GraphPart) -> networkx.Graph:
    """An undirected graph that networkx can write to GraphML, GML and node-link JSON. GEXF has no place for
    the fields of the graph itself, and :func:`from_networkx` refuses what comes back from there.

    Nodes are ``("query", i)`` and ``("value", j)`` with attributes ``bipartite`` (0 or 1), ``x`` (its
    features, as JSON), ``valid`` and ``modality`` (0 text, 1 image, -1 unknown); in a causal graph queries
    have ``first`` and ``last`` too, of the span, and values ``past_degree``. Edges carry ``weight``. The
    graph itself has ``dtype``, ``metric`` (JSON) if there is one, and the fields that it has in
    :func:`to_data`."""
    import networkx

    graph = networkx.Graph(**part.graph_fields(), dtype=str(part.query.dtype).removeprefix("torch."))
    if part.metric is not None:
        graph.graph["metric"] = json.dumps(part.metric.tolist())
    sides = zip(("query", "value"), (part.query, part.value), part.valid(), part.modality())
    for bipartite, (side, features, valid, modality) in enumerate(sides):
        graph.add_nodes_from(
            ((side, k), {"bipartite": bipartite, "x": json.dumps(x), "valid": is_valid, "modality": of})
            for k, (x, is_valid, of) in enumerate(zip(features.tolist(), valid.tolist(), modality.tolist()))
        )
    if part.causal:
        span, past = (x.tolist() for x in part.order())
        for k, (first, last) in enumerate(span):
            graph.nodes["query", k].update(first=first, last=last)
        for k, degree in enumerate(past):
            graph.nodes["value", k]["past_degree"] = degree
    graph.add_weighted_edges_from(
        (("query", i), ("value", j), weight) for i, j, weight in zip(*(x.tolist() for x in part.edges()))
    )
    return graph


def from_networkx(graph: networkx.Graph) -> GraphPart:
    """Back from a bipartite networkx graph whose nodes carry ``bipartite`` (0 query, 1 value) and ``x`` (a
    list of numbers, or one as JSON), and whose edges carry ``weight``; also one that was read from GraphML,
    GML or node-link JSON. Nodes may have any names; their order gives the order of the rows.

    Raises:
        ValueError: a node without ``bipartite`` or ``x``, an edge within one side, a directed graph with
            both directions of an edge, or nodes with an order or a modality in a graph without ``causal``.
    """
    sides: tuple[list, list] = ([], [])
    for node, attributes in graph.nodes(data=True):
        if attributes.get("bipartite") not in (0, 1) or "x" not in attributes:
            raise ValueError(
                f"node {node!r} needs the attributes bipartite (0 = query, 1 = value) and x (its features)"
            )
        if "causal" not in graph.graph and not NEED_CAUSAL.isdisjoint(attributes):
            raise ValueError(
                f"node {node!r} has what to_networkx writes, and the graph has lost its own fields (causal, "
                "metric and others), as in GEXF: use GraphML, GML or node-link JSON, or set "
                'graph.graph["causal"]'
            )
        sides[attributes["bipartite"]].append(node)
    place = [{node: k for k, node in enumerate(side)} for side in sides]
    if graph.is_directed() and any(a != b and graph.has_edge(b, a) for a, b in graph.edges()):
        raise ValueError(
            "the graph is directed and has edges in both directions, which would count twice: give "
            "graph.to_undirected()"
        )
    edges = []
    for a, b, weight in graph.edges(data="weight", default=1.0):
        if a in place[1]:
            a, b = b, a
        if a not in place[0] or b not in place[1]:
            raise ValueError(
                f"edge {a!r} – {b!r} does not join a query (bipartite 0) and a value (bipartite 1)"
            )
        edges.append((place[0][a], place[1][b], weight))
    dtype = graph.graph.get("dtype", torch.get_default_dtype())
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype

    def column(side: int, name: str, default: Any = None) -> list:
        return [graph.nodes[node].get(name, default) for node in sides[side]]

    query, value = (torch.tensor([_numbers(x) for x in column(k, "x")], dtype=dtype) for k in (0, 1))
    wide, fields = widen(query).dtype, {name: graph.graph.get(name) for name in GRAPH_FIELDS}
    if fields["metric"] is not None:
        fields["metric"] = torch.as_tensor(_numbers(fields["metric"]), dtype=wide)
    span = [column(0, "first"), column(0, "last")]
    i, j = (torch.tensor([edge[k] for edge in edges], dtype=torch.long) for k in (0, 1))
    nodes = _Nodes(
        query,
        value,
        i,
        j,
        torch.tensor([edge[2] for edge in edges], dtype=dtype),
        (i[:0], j[:0], query.new_zeros(0)),
        torch.tensor(column(0, "valid", True), dtype=torch.bool),
        torch.tensor(column(1, "valid", True), dtype=torch.bool),
        torch.tensor(column(0, "modality", UNKNOWN)),
        torch.tensor(column(1, "modality", UNKNOWN)),
        None if None in span[0] + span[1] else torch.tensor(span).T,
        torch.tensor(column(1, "past_degree", 0.0), dtype=wide),
    )
    return _part(nodes, fields)


@dataclass(frozen=True, eq=False)
class _Nodes:
    """The nodes and edges of a graph, by side."""

    query: Tensor
    value: Tensor
    i: Tensor  # the query of each edge from a value to a query
    j: Tensor  # its value
    edge_weight: Tensor
    back: tuple[Tensor, Tensor, Tensor]  # the same of the edges from queries to values
    query_valid: Tensor | None
    value_valid: Tensor | None
    query_modality: Tensor | None
    value_modality: Tensor | None
    span: Tensor | None
    past_degree: Tensor | None


def _part(nodes: _Nodes, fields: dict[str, Any]) -> GraphPart:
    """Nodes, edges and the fields of the graph, put together."""
    weight = nodes.edge_weight
    dense, back = (
        weight.new_zeros(len(nodes.query), len(nodes.value)).index_put((i, j), x, accumulate=True)
        for i, j, x in ((nodes.i, nodes.j, weight), nodes.back)
    )
    if len(nodes.back[0]) and not torch.allclose(dense, back, equal_nan=True):
        raise ValueError(
            "the PyG graph's edges from queries to values are not those from values to queries, and an "
            "attention graph has one weight for both: leave them out, or let "
            "torch_geometric.utils.to_undirected make them"
        )
    causal, metric = bool(fields.get("causal")), fields.get("metric")
    past = _past(nodes.past_degree, fields.get("past_queries")) if causal else None
    return GraphPart(
        nodes.query,
        nodes.value,
        dense,
        query_valid=_unless_all(nodes.query_valid),
        value_visible=_visible(fields.get("visible"), nodes.value_valid),
        causal=causal,
        metric=None if metric is None else _unless_identity(metric.view(metric.shape[-2:])),
        kind=fields.get("kind") or None,
        query_is_image=_is_image(nodes.query_modality),
        value_is_image=_is_image(nodes.value_modality),
        rotated=bool(fields.get("rotated")),
        span=_span(nodes.span, past) if causal else None,
        past_degree=past,
    )


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
        query.get("span"),
        value.get("past_degree"),
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

    def sides(name: str) -> tuple[Tensor | None, Tensor | None]:
        of_nodes = data.get(name)
        return (None, None) if of_nodes is None else (of_nodes[~is_value], of_nodes[is_value])

    return _Nodes(
        data.x[~is_value],
        data.x[is_value],
        place[target[forward]],
        place[source[forward]],
        data.edge_weight[forward],
        (place[source[~forward]], place[target[~forward]], data.edge_weight[~forward]),
        *sides("valid"),
        *sides("modality"),
        sides("span")[0],
        sides("past_degree")[1],
    )


def _unless_all(mask: Tensor | None) -> Tensor | None:
    """A mask, or None where it hides nothing."""
    return None if mask is None or mask.all() else mask


def _unless_identity(metric: Tensor) -> Tensor | None:
    """A metric, or None for the identity."""
    same = torch.equal(metric, torch.eye(len(metric), dtype=metric.dtype, device=metric.device))
    return None if same else metric


def _is_image(modality: Tensor | None) -> Tensor | None:
    """Which nodes of one side stand for parts of an image, or None if any of them is unknown."""
    return None if modality is None or not len(modality) or (modality < 0).any() else modality.bool()


def _numbers(x: Any) -> Any:
    """Numbers that may have been written as JSON."""
    return json.loads(x) if isinstance(x, str) else x


def _visible(visible: Any, valid: Tensor | None) -> Tensor | None:
    """Which values each query sees, from ``visible`` of the graph (text or a mask), or which any sees, from
    ``valid``."""
    if isinstance(visible, str):
        device = None if valid is None else valid.device
        rows = torch.tensor([list(row.encode()) for row in visible.split()], device=device)
        visible = rows == ord("1") if len(rows) else None
    return _unless_all(valid) if visible is None else torch.as_tensor(visible)


def _past(total: Tensor | None, queries: Any) -> PastDegree | None:
    """Degrees left by earlier queries, or None where there were none."""
    if total is None or not (queries or total.any()):
        return None
    return PastDegree(total, torch.as_tensor(queries or 0, device=total.device).view(()))


def _span(span: Tensor | None, past: PastDegree | None) -> Tensor | None:
    """A span, or None where it is the default."""
    if span is None:
        return None
    first, last = span.unbind(-1)
    default = (first.clamp(min=0) == 0) if past is None else first == -1
    usual = default.all() and torch.equal(last, torch.arange(len(last), device=last.device))
    return None if usual else span
