"""The same graph in PyG, networkx and a file, and back."""

import io
import json
from dataclasses import replace

import networkx
import pytest
import torch
from safetensors.torch import save_file
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.utils import to_dense_adj

from attngraph import AttentionGraph, PastDegree, UserError
from attngraph.norms import KeptNorms
from tests.pairwise import pairwise

FLAGS = ("causal", "padded", "own", "metric", "labelled", "blocks", "past")
FORMS = {
    " ".join(name for name in FLAGS if case[name]) or "plain": case
    for case in [*pairwise(**{name: [False, True] for name in FLAGS}), dict.fromkeys(FLAGS, False)]
}
every_form = pytest.mark.parametrize("form", FORMS)


def make(
    causal=False, padded=False, own=False, metric=False, labelled=False, blocks=False, past=False, **sizes
):
    dtype, sparse, n, m = (dict(dtype=torch.float32, sparse=True, n=4, m=5) | sizes).values()
    draw = torch.Generator().manual_seed(0)
    b, h, d = 2, 2, 3
    weight = torch.randn(b, h, n, m, generator=draw).softmax(-1)
    if sparse:
        weight = weight * (weight > 0.1)
    query_mask = value_mask = None
    if padded:
        query_mask, value_mask = torch.ones(b, n, dtype=torch.bool), torch.ones(b, m, dtype=torch.bool)
        query_mask[1, :2] = value_mask[0, m - 1] = False
    if own:
        window = torch.ones(n, m, dtype=torch.bool).tril(1).expand(b, n, m)
        value_mask = window if value_mask is None else window & value_mask[:, None]
    span = past_degree = None
    if causal and blocks:
        span = torch.tensor([[-1 if past else 0, 1], [0, 1], [2, 2], [2, 3]])[:n].clamp(max=n - 1)
        span = span.expand(b, n, 2)
    if causal and past:
        past_degree = PastDegree(torch.rand(b, h, m, generator=draw).to(dtype), torch.tensor([3, 5]))
    gram = torch.randn(h, d, 7, generator=draw)
    labels = dict(kind="cross", query_modality=torch.arange(n).expand(b, n) % 3 == 1, value_modality="image")
    return AttentionGraph(
        torch.randn(b, h, n, d, generator=draw).to(dtype),
        torch.randn(b, h, m, d, generator=draw).to(dtype),
        weight.to(dtype),
        query_mask,
        value_mask,
        causal,
        (gram @ gram.transpose(-1, -2)).to(dtype) if metric else None,
        **(labels if labelled else {}),
        span=span,
        past_degree=past_degree,
    )


def same(got: AttentionGraph, whole: AttentionGraph, b: int, h: int):
    assert got.shape == (1, 1, *whole.shape[2:])
    for name in ("query", "value", "weight"):
        assert getattr(got, name).dtype == getattr(whole, name).dtype
        assert torch.equal(getattr(got, name)[0, 0], getattr(whole, name)[b, h]), name
    everything = torch.ones(whole.shape[2:4], dtype=torch.bool)
    seen = [
        everything if g.visible is None else g.visible.expand(-1, *everything.shape)[k]
        for g, k in ((got, 0), (whole, b))
    ]
    assert torch.equal(*seen)
    assert got.causal == whole.causal and got.kind == whole.kind
    for mine, its in zip(got.is_image(), whole.is_image()):
        assert (mine is None) == (its is None) and (its is None or torch.equal(mine[0], its[b]))
    assert got.value_modality == whole.value_modality
    assert (got.metric is None) == (whole.metric is None)
    assert whole.metric is None or torch.equal(got.metric[0], whole.metric[h])
    assert got.span is None or whole.span is not None
    assert (got.past_degree is None) == (whole.past_degree is None)
    for degree in ("sum", "mean"):
        assert torch.equal(got.value_degree(degree)[0, 0], whole.value_degree(degree)[b, h])


@every_form
def test_round_trips(form):
    graph = make(**FORMS[form], dtype=torch.float64 if "padded" in form else torch.float32)
    for b, h in ((0, 0), (1, 1)):
        one = graph[b, h]
        same(one, graph, b, h)
        same(AttentionGraph.from_pyg(one.to_data()), graph, b, h)
        same(AttentionGraph.from_pyg(one.to_hetero()), graph, b, h)
        same(AttentionGraph.from_networkx(one.to_networkx()), graph, b, h)
        for name in ("graphml", "gml"):
            same(AttentionGraph.from_networkx(reread(one.to_networkx(), name)), graph, b, h)
        text = json.dumps(networkx.node_link_data(one.to_networkx()))
        same(AttentionGraph.from_networkx(networkx.node_link_graph(json.loads(text))), graph, b, h)
    with pytest.raises(ValueError, match="has lost its own fields .* use GraphML, GML or node-link"):
        AttentionGraph.from_networkx(reread(graph[0, 0].to_networkx(), "gexf"))


def reread(graph, name):
    """A networkx graph in a file of some format, and back."""
    file = io.BytesIO()
    getattr(networkx, f"write_{name}")(graph, file)
    file.seek(0)
    return getattr(networkx, f"read_{name}")(file)


@every_form
def test_a_file_gives_the_graph_back(form, tmp_path):
    """Masks may share memory, and a compact graph stays compact."""
    graph, file = make(**FORMS[form]), tmp_path / "graph.safetensors"
    if "padded" in form:
        graph = replace(graph, query_modality=graph.query_mask)
    for whole in (replace(graph, kept_norms=KeptNorms(graph.value)), graph.compact()):
        whole.save(file)
        back = AttentionGraph.load(file)
        assert repr(back) == repr(whole)
        for b, h in ((0, 0), (1, 1)):
            same(back[b, h], graph, b, h)


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "graph.safetensors"
    with pytest.raises(UserError, match=r"graph.safetensors cannot be read .*: restore it, or save"):
        AttentionGraph.load(file)
    graph = make(past=True, causal=True)
    for whole in (graph, graph.compact()):
        whole.save(file)
        content = file.read_bytes()
        for damaged in (content[:-1], content[:40], b"", content + b"0"):
            file.write_bytes(damaged)
            with pytest.raises(UserError, match="cannot be read"):
                AttentionGraph.load(file)
        file.write_bytes(content.replace(b'\\"kind\\"', b'\\"mind\\"'))
        with pytest.raises(UserError, match="holds no attention graph .*mind"):
            AttentionGraph.load(file)
    save_file({"weight": torch.ones(2)}, file)
    with pytest.raises(UserError, match="holds no attention graph .no 'attention graph'"):
        AttentionGraph.load(file)
    save_file({"weight.index": torch.tensor([7])}, file, {"attention graph": '{"weight.shape": [2]}'})
    with pytest.raises(UserError, match="holds no attention graph .no 'weight.values'"):
        AttentionGraph.load(file)
    with pytest.raises(UserError, match="cannot be written"):
        graph.save(tmp_path / "missing" / "graph")


@every_form
def test_graphs_of_different_sizes_in_one_batch(form):
    """Also of other layers, and the first of a text beside those that go on from it; and one with as many
    nodes as features."""
    form = FORMS[form]
    first = make(**form | {"past": False, "blocks": False, "own": False})
    graphs = [make(), first, make(**form, n=1, m=2), make(**form, n=3, m=6)]
    for view in ("to_data", "to_hetero"):
        nodes = [getattr(graph[1, 0], view)() for graph in graphs]
        assert view == "to_hetero" or not any("metric" in one.node_attrs() for one in nodes)
        batch = next(iter(DataLoader(nodes, batch_size=4)))
        assert batch.num_graphs == 4
        for graph, one in zip(graphs, batch.to_data_list(), strict=True):
            same(AttentionGraph.from_pyg(one), graph, 1, 0)


def test_data_is_the_square_symmetric_graph():
    graph = make(padded=True, own=True)
    data = graph[1, 0].to_data()
    assert isinstance(data, Data) and data.validate()
    square = to_dense_adj(data.edge_index, edge_attr=data.edge_weight, max_num_nodes=9)[0]
    zero = torch.zeros
    want = torch.cat(
        [torch.cat([zero(4, 4), graph.weight[1, 0]], 1), torch.cat([graph.weight[1, 0].T, zero(5, 5)], 1)]
    )
    assert torch.equal(square, want) and torch.equal(square, square.T)
    assert torch.equal(data.x, torch.cat([graph.query[1, 0], graph.value[1, 0]]))
    assert data.is_value.tolist() == [False] * 4 + [True] * 5
    assert not data.has_self_loops() and data.is_undirected()
    half = data.edge_index.shape[1] // 2  # value→query messages first
    assert (
        data.is_value[data.edge_index[0, :half]].all() and not data.is_value[data.edge_index[1, :half]].any()
    )


def test_hetero_has_both_directions():
    graph = make(padded=True, own=True)
    data = graph[0, 1].to_hetero()
    assert isinstance(data, HeteroData) and data.validate()
    assert data.node_types == ["query", "value"]
    there, back = data["query", "to", "value"], data["value", "to", "query"]
    assert torch.equal(there.edge_index, back.edge_index.flip(0)) and torch.equal(
        there.edge_weight, back.edge_weight
    )
    dense = torch.zeros(4, 5).index_put(tuple(there.edge_index), there.edge_weight)
    assert torch.equal(dense, graph.weight[0, 1])


def test_networkx_adjacency():
    graph = make(padded=True)
    out = graph[0, 1].to_networkx()
    names = [("query", i) for i in range(4)] + [("value", j) for j in range(5)]
    assert list(out.nodes) == names
    square = torch.from_numpy(networkx.to_numpy_array(out, nodelist=names)).float()
    assert torch.equal(square[:4, 4:], graph.weight[0, 1]) and torch.equal(square, square.T)
    assert out.nodes["value", 4]["valid"] is False and out.nodes["query", 0]["bipartite"] == 0


def test_graphs_made_by_hand():
    """Nodes in any order, one direction only, whole numbers as flags."""
    x = torch.arange(8.0).view(4, 2)
    data = Data(
        x=x,
        edge_index=torch.tensor([[0, 0, 3], [1, 2, 1]]),
        edge_weight=torch.tensor([0.1, 0.2, 0.3]),
        is_value=torch.tensor([1, 0, 0, 1]),
    )
    graph = AttentionGraph.from_pyg(data)
    assert torch.equal(graph.query[0, 0], x[[1, 2]]) and torch.equal(graph.value[0, 0], x[[0, 3]])
    torch.testing.assert_close(graph.weight[0, 0], torch.tensor([[0.1, 0.3], [0.2, 0.0]]))
    assert not graph.causal and graph.visible is None

    hetero = HeteroData()
    hetero["query"].x, hetero["value"].x = x[:1], x[1:]
    hetero["value", "to", "query"].edge_index = torch.tensor([[2, 0], [0, 0]])
    hetero["value", "to", "query"].edge_weight = torch.tensor([0.5, 0.25])
    hetero["query", "to", "value"].edge_index = torch.zeros(2, 0, dtype=torch.long)  # none, not others
    hetero["query", "to", "value"].edge_weight = torch.zeros(0)
    torch.testing.assert_close(AttentionGraph.from_pyg(hetero).weight[0, 0], torch.tensor([[0.25, 0.0, 0.5]]))

    plain = networkx.Graph([("dog", "patch 7", {"weight": 0.5}), ("patch 3", "dog")])
    for name, side in (("dog", 0), ("patch 7", 1), ("patch 3", 1)):
        plain.add_node(name, bipartite=side, x=[1.0, side])
    torch.testing.assert_close(AttentionGraph.from_networkx(plain).weight[0, 0], torch.tensor([[0.5, 1.0]]))


def test_a_missing_field_is_named():
    edges = ("value", "to", "query")
    for view, store, field in (
        *(("to_data", "", field) for field in ("x", "edge_index", "edge_weight", "is_value")),
        ("to_hetero", "query", "x"),
        ("to_hetero", "value", "x"),
        ("to_hetero", edges, "edge_index"),
        ("to_hetero", edges, "edge_weight"),
    ):
        data = getattr(make()[0, 0], view)()
        del (data[store] if store else data)[field]
        with pytest.raises(ValueError, match=f"has no .*{field}"):
            AttentionGraph.from_pyg(data)


def test_graphs_from_elsewhere_hold_no_nan():
    """A model's NaN goes on through its adapters; a file's, or one made by hand, is a mistake."""
    for what in ("query", "value", "weight"):
        made = make(sparse=False)
        getattr(made, what)[0, 0, 1, 2] = float("nan")
        for read, given in (
            (AttentionGraph.from_pyg, made[0, 0].to_hetero()),
            (AttentionGraph.from_networkx, made[0, 0].to_networkx()),
        ):
            with pytest.raises(ValueError, match=f"^{what} must not hold NaN"):
                read(given)


@pytest.mark.parametrize("view", ["to_data", "to_hetero"])
def test_several_examples_and_heads_are_a_batch(view):
    """All heads of the first example first, also of a compact graph."""
    graph = make(padded=True, own=True, metric=True)
    for whole in (graph, graph.compact()):
        graphs = getattr(whole, view)().to_data_list()
        for one, (b, h) in zip(graphs, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
            same(AttentionGraph.from_pyg(one), graph, b, h)


def test_networkx_graphs_that_are_no_attention_graph_are_refused():
    out = make()[0, 0].to_networkx()
    out.add_edge(("query", 0), ("query", 1))
    with pytest.raises(ValueError, match="does not join a query"):
        AttentionGraph.from_networkx(out)
    out = make()[0, 0].to_networkx()
    del out.nodes["value", 2]["x"]
    with pytest.raises(ValueError, match=r"\('value', 2\) needs the attributes"):
        AttentionGraph.from_networkx(out)
    graph = make()[0, 0]
    both = graph.to_networkx().to_directed()
    with pytest.raises(ValueError, match="edges in both directions, which would count twice"):
        AttentionGraph.from_networkx(both)
    one = networkx.DiGraph(both)
    one.remove_edges_from([edge for edge in both.edges if edge[0][0] == "query"])
    assert torch.equal(AttentionGraph.from_networkx(one).weight, graph.weight)
    with pytest.raises(ValueError, match=r"2 examples and 2 heads, .* such as graph\[0, 0\]"):
        make().to_networkx()


def test_pyg_graphs_that_are_no_attention_graph_are_refused():
    data = make()[0, 0].to_data()
    edges = data.num_edges // 2  # values to queries come first
    backward = data.clone()
    backward.edge_index, backward.edge_weight = data.edge_index[:, edges:], data.edge_weight[edges:]
    lighter = data.clone()
    lighter.edge_weight = data.edge_weight.clone()
    lighter.edge_weight[-1] /= 2
    for wrong in (backward, lighter):
        with pytest.raises(ValueError, match="edges from queries to values are not those from values"):
            AttentionGraph.from_pyg(wrong)
    within = data.clone()
    within.edge_index = data.edge_index.clone()
    within.edge_index[:, 3] = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="edge 0 – 1 does not join a query and a value"):
        AttentionGraph.from_pyg(within)
    for one in (data, make()[0, 0].to_hetero()):
        with pytest.raises(ValueError, match="got a batch"):
            AttentionGraph.from_pyg(Batch.from_data_list([one, one]))
        alone = AttentionGraph.from_pyg(Batch.from_data_list([one]))
        assert torch.equal(alone.weight, AttentionGraph.from_pyg(one).weight)
