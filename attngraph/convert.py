r"""Attention graphs as PyG ``Data`` and ``HeteroData`` and as networkx graphs, and back.

All have both directions of :math:`\tilde M`. Masks, causality, degrees of earlier decoding steps, kind,
modality and the metric are included, so a round trip returns the same graph; a side with a single modality is
returned under its name. PyG graphs of any sizes can be batched and unbatched; networkx graphs hold only
numbers and text, so that GraphML, GML and node-link JSON can store them.

:meth:`AttentionGraph.to_data` and its like are the way in. What leads back gives the arguments of an
:class:`attngraph.AttentionGraph`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from attngraph import checks
from attngraph.degrees import PastDegree
from attngraph.precision import widen

UNKNOWN = -1  # the modality of a node that stands for neither text (0) nor image (1), as far as is known
GRAPH_FIELDS = ("causal", "kind", "rotated", "visible", "past_queries", "metric")  # not of nodes or edges
NEED_CAUSAL = {"modality", "first", "last", "past_degree"}  # of networkx nodes whose graph has fields too

if TYPE_CHECKING:  # PyG and networkx take seconds to import
    import networkx
    from torch_geometric.data import Data, HeteroData

Graph: TypeAlias = Any
"""An :class:`attngraph.AttentionGraph`, whose module imports this one."""
Side: TypeAlias = dict[str, Any]
"""Fields of the nodes of one side, by name: ``x``, ``valid``, ``modality``; also ``span`` for queries and
``past_degree`` for values."""
Listed: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Query, value and weight of each edge, ``(e,)`` each."""


def to_data(graph: Graph) -> Data:
    r"""A homogeneous graph: queries are nodes ``0..n-1``, values ``n..n+m-1``.

    Returns:
        ``Data`` with ``x (n+m, d)``, ``edge_index (2, 2e)`` (value→query messages first, then query→value),
        ``edge_weight (2e,)``, ``is_value (n+m,)``, ``valid (n+m,)``, ``modality (n+m,)`` (0 text, 1 image, -1
        unknown), ``span (n+m, 2)`` and ``past_degree (n+m,)``, which count in causal graphs, the one at
        queries and the other at values. The graph itself has ``metric (1, d, d)``, ``causal``, ``kind``
        (empty if unknown), ``rotated``, ``visible`` (text: a word of 0 and 1 per query, which values it sees;
        empty where all queries see the same) and ``past_queries``, how many earlier queries count. All graphs
        have all of these, since PyG drops from a batch what its first graph lacks.

        Several examples and heads give a ``Batch`` with one graph each, all heads of the first example first.
    """
    return _batch_of(graph, _homogeneous)


def to_hetero(graph: Graph) -> HeteroData:
    """A graph of two node types, ``query`` and ``value``, and two edge types, one per direction: ``("value",
    "to", "query")`` and ``("query", "to", "value")``; each has ``edge_index`` and ``edge_weight``. Nodes have
    ``x``, ``valid`` and ``modality``, queries ``span`` and values ``past_degree``. The graph has the same
    fields as in :func:`to_data`, and several examples and heads give a ``Batch`` as there."""
    return _batch_of(graph, _heterogeneous)


def from_pyg(data: Data | HeteroData) -> dict[str, Any]:
    """Back from either PyG form, also from one made by hand.

    Raises:
        ValueError: a field that is needed is missing; the message names it. Or a batch of several graphs, an
            edge within one side, edges from queries to values that are not those back, or NaN.
    """
    from torch_geometric.data import Batch, HeteroData

    if isinstance(data, Batch):
        if data.num_graphs != 1:
            raise ValueError("expected one graph, got a batch: use batch.to_data_list()")
        data = data.get_example(0)
    read = _from_hetero if isinstance(data, HeteroData) else _from_homogeneous
    return _arguments(*read(data), {name: getattr(data, name) for name in GRAPH_FIELDS if name in data})


def to_networkx(graph: Graph) -> networkx.Graph:
    """An undirected graph that networkx can write to GraphML, GML and node-link JSON. GEXF cannot store the
    fields of the graph itself, so :func:`from_networkx` raises an error for a graph read from it.

    Nodes are ``("query", i)`` and ``("value", j)`` with attributes ``bipartite`` (0 or 1), ``x`` (its
    features, as JSON), ``valid`` and ``modality`` (0 text, 1 image, -1 unknown); in a causal graph queries
    have ``first`` and ``last`` too, of the span, and values ``past_degree``. Edges carry ``weight``. The
    graph itself has ``dtype``, ``metric`` (JSON) if there is one, and the fields that it has in
    :func:`to_data`.

    Raises:
        ValueError: the graph has several examples or heads.
    """
    import networkx

    if graph.shape[:2] != (1, 1):
        raise ValueError(
            f"the graph has {graph.shape[0]} examples and {graph.shape[1]} heads, but a networkx graph "
            "represents one: select it, such as graph[0, 0].to_networkx()"
        )
    fields = _graph_fields(graph)
    out = networkx.Graph(**fields, dtype=str(graph.query.dtype).removeprefix("torch."))
    if graph.metric is not None:
        out.graph["metric"] = json.dumps(graph.metric[0].tolist())
    for bipartite, (name, side) in enumerate(zip(("query", "value"), _sides(graph))):
        columns = {key: x.tolist() for key, x in side.items()}
        for k, x in enumerate(columns["x"]):
            node = {"bipartite": bipartite, "x": json.dumps(x)}
            node |= {key: columns[key][k] for key in ("valid", "modality")}
            if graph.causal and "span" in columns:
                node["first"], node["last"] = columns["span"][k]
            if graph.causal and "past_degree" in columns:
                node["past_degree"] = columns["past_degree"][k]
            out.add_node((name, k), **node)
    out.add_weighted_edges_from(
        (("query", i), ("value", j), weight) for i, j, weight in zip(*(x.tolist() for x in _edges(graph)))
    )
    return out


def from_networkx(graph: networkx.Graph) -> dict[str, Any]:
    """Back from a bipartite networkx graph whose nodes carry ``bipartite`` (0 query, 1 value) and ``x`` (a
    list of numbers, or one as JSON), and whose edges carry ``weight``; also one that was read from GraphML,
    GML or node-link JSON. Nodes may have any names; their order gives the order of the rows.

    Raises:
        ValueError: a node without ``bipartite`` or ``x``, an edge within one side, a directed graph with
            both directions of an edge, nodes with an order or a modality in a graph without ``causal``, or
            NaN.
    """
    nodes: tuple[list, list] = ([], [])
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
        nodes[attributes["bipartite"]].append(node)
    place = [{node: k for k, node in enumerate(side)} for side in nodes]
    if graph.is_directed() and any(a != b and graph.has_edge(b, a) for a, b in graph.edges()):
        raise ValueError(
            "the graph is directed and has edges in both directions, which would count twice: pass "
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
        return [graph.nodes[node].get(name, default) for node in nodes[side]]

    query, value = (
        {
            "x": torch.tensor([_numbers(x) for x in column(side, "x")], dtype=dtype),
            "valid": torch.tensor(column(side, "valid", True), dtype=torch.bool),
            "modality": torch.tensor(column(side, "modality", UNKNOWN)),
        }
        for side in (0, 1)
    )
    wide, fields = widen(query["x"]).dtype, {name: graph.graph.get(name) for name in GRAPH_FIELDS}
    span = [column(0, "first"), column(0, "last")]
    if None not in span[0] + span[1]:
        query["span"] = torch.tensor(span).T
    value["past_degree"] = torch.tensor(column(1, "past_degree", 0.0), dtype=wide)
    if fields["metric"] is not None:
        fields["metric"] = torch.as_tensor(_numbers(fields["metric"]), dtype=wide)
    i, j = (torch.tensor([edge[k] for edge in edges], dtype=torch.long) for k in (0, 1))
    weight = torch.tensor([edge[2] for edge in edges], dtype=dtype)
    return _arguments(query, value, (i, j, weight), None, fields)


# ---- the parts of a graph of one example and head --------------------------------------------------------


def _edges(graph: Graph) -> Listed:
    (_, _, i, j), weight = graph.edge_list()
    return i, j, weight


def _sides(graph: Graph) -> tuple[Side, Side]:
    """The queries and the values."""
    _, _, n, m, _ = graph.shape
    device = graph.query.device
    visible, past, span = graph.value_mask, graph.past_degree, graph.span
    if visible is not None and visible.dim() == 3:
        visible = visible.any(1)
    query, value = (
        {
            "x": x[0, 0],
            "valid": torch.ones(nodes, dtype=torch.bool, device=device) if mask is None else mask[0],
            "modality": torch.full((nodes,), UNKNOWN, device=device) if image is None else image[0].long(),
        }
        for x, nodes, mask, image in zip(
            (graph.query, graph.value), (n, m), (graph.query_mask, visible), graph.is_image()
        )
    )
    if span is None:
        last = torch.arange(n, device=device)
        span = torch.stack([torch.full_like(last, 0 if past is None else -1), last], -1)[None]
    query["span"] = span[0]
    value["past_degree"] = widen(graph.query).new_zeros(m) if past is None else past.total[0, 0]
    return query, value


def _graph_fields(graph: Graph) -> dict[str, str | bool | int | float]:
    """Fields of the graph itself, not of its nodes or edges."""
    visible, rows = graph.value_mask, []
    if visible is not None and visible.dim() == 3:
        rows = (visible[0].byte() + ord("0")).tolist()
    return {
        "causal": graph.causal,
        "kind": graph.kind or "",
        "rotated": graph.rotated,
        "visible": " ".join(bytes(row).decode() for row in rows),
        "past_queries": 0 if graph.past_degree is None else graph.past_degree.queries.item(),
    }


def _metric(graph: Graph) -> Tensor:
    """The metric, ``(1, d, d)``."""
    if graph.metric is not None:
        return graph.metric
    return torch.eye(graph.shape[-1], dtype=graph.query.dtype, device=graph.query.device)[None]


# ---- to PyG ----------------------------------------------------------------------------------------------


def _batch_of(graph: Graph, view: Callable[[Graph], Any]) -> Any:
    """A PyG graph, or the batch of those of all examples and heads."""
    from torch_geometric.data import Batch

    views = [view(graph[k, head]) for k in range(graph.shape[0]) for head in range(graph.shape[1])]
    return views[0] if len(views) == 1 else Batch.from_data_list(views)


def _homogeneous(graph: Graph) -> Data:
    from torch_geometric.data import Data

    query, value = _sides(graph)
    i, j, weight = _edges(graph)
    n, m = len(query["x"]), len(value["x"])
    query["is_value"], value["is_value"] = (torch.zeros_like(query["valid"]), torch.ones_like(value["valid"]))
    value["span"] = query["span"].new_full((m, 2), -1)
    query["past_degree"] = value["past_degree"].new_zeros(n)
    return Data(
        edge_index=torch.stack([torch.cat([j + n, i]), torch.cat([i, j + n])]),
        edge_weight=torch.cat([weight, weight]),
        **{name: torch.cat([x, value[name]]) for name, x in query.items()},
        metric=_metric(graph),
        **_graph_fields(graph),
    )


def _heterogeneous(graph: Graph) -> HeteroData:
    from torch_geometric.data import HeteroData

    i, j, weight = _edges(graph)
    data = HeteroData()
    for name, side in zip(("query", "value"), _sides(graph)):
        data[name].update(side)
    for source, target, index in (("value", "query", [j, i]), ("query", "value", [i, j])):
        data[source, "to", target].edge_index = torch.stack(index)
        data[source, "to", target].edge_weight = weight
    for name, field in {"metric": _metric(graph), **_graph_fields(graph)}.items():
        setattr(data, name, field)
    return data


# ---- and back --------------------------------------------------------------------------------------------


def _arguments(query: Side, value: Side, edges: Listed, back: Listed | None, fields: dict) -> dict[str, Any]:
    """The arguments of a graph.

    Args:
        edges: those from values to queries.
        back: those from queries to values, if there are any.
        fields: of the graph itself.
    """
    weight, back_weight = (
        None if e is None else e[2].new_zeros(len(query["x"]), len(value["x"])).index_put(e[:2], e[2], True)
        for e in (edges, back)
    )
    assert weight is not None
    if back_weight is not None and not torch.allclose(weight, back_weight, equal_nan=True):
        raise ValueError(
            "the PyG graph's edges from queries to values are not those from values to queries, and an "
            "attention graph has one weight for both: remove them, or make them with "
            "torch_geometric.utils.to_undirected"
        )
    for name, x in (("query", query["x"]), ("value", value["x"]), ("weight", weight)):
        checks.check_no_nan(name, x)
    causal, metric = bool(fields.get("causal")), fields.get("metric")
    past = _past(value.get("past_degree"), fields.get("past_queries")) if causal else None
    return dict(
        query=query["x"][None, None],
        value=value["x"][None, None],
        weight=weight[None, None],
        query_mask=_of_example(_unless_all(query.get("valid"))),
        value_mask=_of_example(_visible(fields.get("visible"), value.get("valid"))),
        causal=causal,
        metric=None if metric is None else _unless_identity(metric.view(1, *metric.shape[-2:])),
        kind=fields.get("kind") or None,
        query_modality=_modality(query.get("modality")),
        value_modality=_modality(value.get("modality")),
        rotated=bool(fields.get("rotated")),
        span=_of_example(_span(query.get("span"), past)) if causal else None,
        past_degree=past,
    )


def _from_hetero(data: HeteroData) -> tuple[Side, Side, Listed, Listed | None]:
    there, back = ("value", "to", "query"), ("query", "to", "value")
    needed = [("query", "x"), ("value", "x"), (there, "edge_index"), (there, "edge_weight")]
    if back in data.edge_types:
        needed += [(back, "edge_index"), (back, "edge_weight")]
    for store, field in needed:
        if store not in data.node_types + data.edge_types or data[store].get(field) is None:
            raise ValueError(f"the PyG graph has no {store!r}.{field} (see AttentionGraph.to_hetero)")
    for kind in data.edge_types:
        if kind not in (there, back):
            raise ValueError(f"the PyG graph has edges {kind!r}, which an attention graph does not have")
    j, i = data[there].edge_index
    query, value = (data[name].to_dict() for name in ("query", "value"))
    edges = i, j, data[there].edge_weight
    if back not in data.edge_types or not data[back].num_edges:
        return query, value, edges, None
    return query, value, edges, (*data[back].edge_index, data[back].edge_weight)


def _from_homogeneous(data: Data) -> tuple[Side, Side, Listed, Listed | None]:
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
    names = [name for name in ("x", "valid", "modality", "span", "past_degree") if data.get(name) is not None]
    query, value = ({name: data[name][side] for name in names} for side in (~is_value, is_value))
    there = place[target[forward]], place[source[forward]], data.edge_weight[forward]
    back = place[source[~forward]], place[target[~forward]], data.edge_weight[~forward]
    return query, value, there, back if len(back[0]) else None


def _of_example(x: Tensor | None) -> Tensor | None:
    """The only example's, with a dimension of examples."""
    return None if x is None else x[None]


def _unless_all(mask: Tensor | None) -> Tensor | None:
    """A mask, or None where it hides nothing."""
    return None if mask is None or mask.all() else mask


def _unless_identity(metric: Tensor) -> Tensor | None:
    """A metric, or None for the identity."""
    same = torch.equal(metric[0], torch.eye(metric.shape[-1], dtype=metric.dtype, device=metric.device))
    return None if same else metric


def _modality(modality: Tensor | None) -> str | Tensor | None:
    """Modality of the nodes of one side: a name if it is the same for all, None if any of them is unknown."""
    if modality is None or not len(modality) or (modality < 0).any():
        return None
    is_image = modality.bool()
    if is_image.any() and not is_image.all():
        return is_image[None]
    return "image" if is_image.any() else "text"


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
    return PastDegree(total[None, None], torch.as_tensor(queries or 0, device=total.device).view(1))


def _span(span: Tensor | None, past: PastDegree | None) -> Tensor | None:
    """A span, or None where it is the default."""
    if span is None:
        return None
    first, last = span.unbind(-1)
    default = (first.clamp(min=0) == 0) if past is None else first == -1
    usual = default.all() and torch.equal(last, torch.arange(len(last), device=last.device))
    return None if usual else span
