r"""The same graph as PyG ``Data`` and ``HeteroData`` and as a networkx graph, and back.

All carry both directions of :math:`\tilde M`. Masks, causality, kind, modality and the metric travel along, so that a
round trip gives back the same graph (of one example and one head); a side that holds one modality only comes back under
its name. Degrees of earlier decoding steps do not travel.
"""

from __future__ import annotations

import networkx
import torch
from torch_geometric.data import Data, HeteroData

from attngraph.graph import AttentionGraph


def to_data(graph: AttentionGraph, example: int = 0, head: int = 0) -> Data:
    r"""One example and head as a homogeneous graph: queries are nodes ``0..n-1``, values ``n..n+m-1``.

    Returns:
        ``Data`` with ``x (n+m, d)``, ``edge_index (2, 2e)`` (value→query messages first, then query→value),
        ``edge_weight (2e,)``, ``is_value (n+m,)``, ``valid (n+m,)``, ``modality (n+m,)`` (0 text, 1 image, -1 unknown),
        ``causal``, ``kind`` and ``metric`` if known, ``visible (n, m)`` if each query sees its own values, and ``rotated``
        if it is so.
    """
    part = _one(graph, example, head)
    n = part.query.shape[2]
    i, j = part.weight[0, 0].nonzero(as_tuple=True)
    weight = part.weight[0, 0][i, j]
    rows, columns = _valid(part)
    data = Data(
        x=torch.cat([part.query[0, 0], part.value[0, 0]]),
        edge_index=torch.stack([torch.cat([j + n, i]), torch.cat([i, j + n])]),
        edge_weight=torch.cat([weight, weight]),
        is_value=torch.cat([torch.zeros_like(rows), torch.ones_like(columns)]),
        valid=torch.cat([rows, columns]),
        modality=torch.cat(_modality(part)),
        causal=part.causal,
    )
    for name, extra in _extras(part).items():
        setattr(data, name, extra)
    return data


def to_hetero(graph: AttentionGraph, example: int = 0, head: int = 0) -> HeteroData:
    """One example and head as two node types, ``query`` and ``value``, and two edge types, one per direction:
    ``("value", "to", "query")`` and ``("query", "to", "value")``; each has ``edge_index`` and ``edge_weight``."""
    part = _one(graph, example, head)
    i, j = part.weight[0, 0].nonzero(as_tuple=True)
    weight = part.weight[0, 0][i, j]
    rows, columns = _valid(part)
    data = HeteroData()
    data["query"].x, data["query"].valid = part.query[0, 0], rows
    data["value"].x, data["value"].valid = part.value[0, 0], columns
    data["query"].modality, data["value"].modality = _modality(part)
    data["value", "to", "query"].edge_index = torch.stack([j, i])
    data["value", "to", "query"].edge_weight = weight
    data["query", "to", "value"].edge_index = torch.stack([i, j])
    data["query", "to", "value"].edge_weight = weight
    data.causal = part.causal
    for name, extra in _extras(part).items():
        setattr(data, name, extra)
    return data


def from_pyg(data: Data | HeteroData) -> AttentionGraph:
    """An :class:`AttentionGraph` (one example, one head) from either PyG form, also from one made by hand.

    Raises:
        ValueError: a field that is needed is missing; the message names it.
    """
    if isinstance(data, HeteroData):
        edges = ("value", "to", "query")
        for part, field in (("query", "x"), ("value", "x"), (edges, "edge_index"), (edges, "edge_weight")):
            if part not in data.node_types + data.edge_types or data[part].get(field) is None:
                raise ValueError(f"the PyG graph has no {part!r}.{field} (see attngraph.convert.to_hetero)")
        query, value = data["query"].x, data["value"].x
        (j, i), weight = data[edges].edge_index, data[edges].edge_weight
        rows, columns = data["query"].get("valid"), data["value"].get("valid")
        sides = data["query"].get("modality"), data["value"].get("modality")
    else:
        for field in ("x", "edge_index", "edge_weight", "is_value"):
            if data.get(field) is None:
                raise ValueError(
                    f"the PyG graph has no {field!r}: an attention graph needs x, edge_index, "
                    "edge_weight and is_value (see attngraph.convert.to_data)"
                )
        is_value = data.is_value.bool()
        query, value = data.x[~is_value], data.x[is_value]
        place = torch.where(is_value, is_value.cumsum(0) - 1, (~is_value).cumsum(0) - 1)
        source, target = data.edge_index
        forward = is_value[source] & ~is_value[target]
        j, i, weight = place[source[forward]], place[target[forward]], data.edge_weight[forward]
        valid = data.get("valid")
        rows, columns = (None, None) if valid is None else (valid[~is_value], valid[is_value])
        modality = data.get("modality")
        sides = (None, None) if modality is None else (modality[~is_value], modality[is_value])
    dense = weight.new_zeros(query.shape[0], value.shape[0]).index_put((i, j), weight, accumulate=True)
    visible = _field(data, "visible")
    if visible is None and columns is not None and not columns.all():
        visible = columns
    metric = _field(data, "metric")
    return AttentionGraph(
        query[None, None],
        value[None, None],
        dense[None, None],
        query_mask=None if rows is None or rows.all() else rows[None],
        value_mask=None if visible is None else visible[None],
        causal=bool(_field(data, "causal")),
        metric=None if metric is None else metric[None],
        kind=_field(data, "kind"),
        query_modality=_side(sides[0]),
        value_modality=_side(sides[1]),
        rotated=bool(_field(data, "rotated")),
    )


def to_networkx(graph: AttentionGraph, example: int = 0, head: int = 0) -> networkx.Graph:
    """One example and head as an undirected graph. Nodes are ``("query", i)`` and ``("value", j)`` with attributes
    ``bipartite`` (0 or 1), ``x`` (a list of numbers), ``valid`` and ``modality`` (0 text, 1 image, -1 unknown); edges
    carry ``weight``."""
    part = _one(graph, example, head)
    rows, columns = _valid(part)
    out = networkx.Graph(causal=part.causal, dtype=part.query.dtype)
    modality = _modality(part)
    for side, (name, features, valid) in enumerate(
        (("query", part.query, rows), ("value", part.value, columns))
    ):
        out.add_nodes_from(
            ((name, k), {"bipartite": side, "x": x, "valid": ok, "modality": kind})
            for k, (x, ok, kind) in enumerate(
                zip(features[0, 0].tolist(), valid.tolist(), modality[side].tolist())
            )
        )
    i, j = part.weight[0, 0].nonzero(as_tuple=True)
    out.add_weighted_edges_from(
        (("query", a), ("value", b), w)
        for a, b, w in zip(i.tolist(), j.tolist(), part.weight[0, 0][i, j].tolist())
    )
    out.graph.update(_extras(part))
    return out


def from_networkx(graph: networkx.Graph) -> AttentionGraph:
    """An :class:`AttentionGraph` from a bipartite networkx graph whose nodes carry ``bipartite`` (0 query, 1 value) and
    ``x``, and whose edges carry ``weight``. Nodes may have any names; their order gives the order of the rows.

    Raises:
        ValueError: a node without ``bipartite`` or ``x``, or an edge within one side.
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
    modality = [
        _side(torch.tensor([graph.nodes[node].get("modality", -1) for node in side])) for side in sides
    ]
    weight = torch.zeros(len(sides[0]), len(sides[1]), dtype=dtype)
    for a, b, w in graph.edges(data="weight", default=1.0):
        if a in place[1]:
            a, b = b, a
        if a not in place[0] or b not in place[1]:
            raise ValueError(
                f"edge {a!r} – {b!r} does not join a query (bipartite 0) and a value (bipartite 1)"
            )
        weight[place[0][a], place[1][b]] += w  # a multigraph's parallel edges add up
    visible = graph.graph.get("visible", None if valid[1].all() else valid[1])
    metric = graph.graph.get("metric")
    return AttentionGraph(
        features[0][None, None],
        features[1][None, None],
        weight[None, None],
        query_mask=None if valid[0].all() else valid[0][None],
        value_mask=None if visible is None else torch.as_tensor(visible)[None],
        causal=bool(graph.graph.get("causal", False)),
        metric=None if metric is None else torch.as_tensor(metric)[None],
        kind=graph.graph.get("kind"),
        query_modality=modality[0],
        value_modality=modality[1],
        rotated=bool(graph.graph.get("rotated")),
    )


def _field(data: Data | HeteroData, name: str):
    """A graph-level field, or None."""
    return getattr(data, name) if name in data else None


def _one(graph: AttentionGraph, example: int, head: int) -> AttentionGraph:
    b, h = graph.shape[:2]
    if not (0 <= example < b and 0 <= head < h):
        raise ValueError(f"example must lie in 0..{b - 1} and head in 0..{h - 1}, got {example} and {head}")
    e, k = slice(example, example + 1), slice(head, head + 1)
    sides = [x[e] if isinstance(x, torch.Tensor) else x for x in (graph.query_modality, graph.value_modality)]
    return AttentionGraph(
        graph.query[e, k],
        graph.value[e, k],
        graph.weight[e, k],
        query_mask=None if graph.query_mask is None else graph.query_mask[e],
        value_mask=None if graph.value_mask is None else graph.value_mask[e],
        causal=graph.causal,
        metric=None if graph.metric is None else graph.metric[k],
        kind=graph.kind,
        query_modality=sides[0],
        value_modality=sides[1],
        rotated=graph.rotated,
    )


def _valid(part: AttentionGraph) -> tuple[torch.Tensor, torch.Tensor]:
    n, m = part.weight.shape[2:]
    device = part.weight.device
    rows = (
        part.query_mask[0] if part.query_mask is not None else torch.ones(n, dtype=torch.bool, device=device)
    )
    columns = (
        part.value_mask[0] if part.value_mask is not None else torch.ones(m, dtype=torch.bool, device=device)
    )
    return rows, columns.any(0) if columns.dim() == 2 else columns


def _modality(part: AttentionGraph) -> list[torch.Tensor]:
    """Per side the modality of every node: 0 text, 1 image, -1 unknown."""
    return [
        torch.full((nodes,), -1, device=part.query.device) if side is None else side[0].long()
        for side, nodes in zip(part.is_image(), part.weight.shape[2:])
    ]


def _side(modality: torch.Tensor | None) -> str | torch.Tensor | None:
    """The modality of one side's nodes as the graph keeps it."""
    if modality is None or (modality < 0).any():
        return None
    images = modality.bool()
    return images[None] if images.any() and not images.all() else "image" if images.any() else "text"


def _extras(part: AttentionGraph) -> dict[str, torch.Tensor | str]:
    """What has no place on nodes or edges, and goes on the graph itself."""
    extras = {}
    if part.kind is not None:
        extras["kind"] = part.kind
    if part.metric is not None:
        extras["metric"] = part.metric[0]
    if part.value_mask is not None and part.value_mask.dim() == 3:
        extras["visible"] = part.value_mask[0]
    if part.rotated:
        extras["rotated"] = True
    return extras
