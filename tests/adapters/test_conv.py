"""Schemes as PyG layers: the dense scheme's numbers, and PyG's own machinery around them."""

from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import APPNP as PygAPPNP
from torch_geometric.nn import HeteroConv, Sequential, to_hetero
from torch_geometric.utils import erdos_renyi_graph, k_hop_subgraph, to_torch_coo_tensor

from attngraph import AttentionGraph
from attngraph.adapters import APPNP, GCN, PGNN, Residual, RotatedQueries
from attngraph.adapters.conv import SchemeConv
from attngraph.backends import edges_of
from tests.adapters.cases import thorough
from tests.adapters.contract import GRAPHS, leaves, random_graph
from tests.pairwise import pairwise_params

CASES = [one["case"] for one in thorough() if "mean" not in one["case"].args.values()]
EDGES, BACK = ("value", "to", "query"), ("query", "to", "value")


def euclidean(**kind) -> AttentionGraph:
    """A graph whose distances are those of its features, as in a layer."""
    return replace(random_graph(0, sparse=True, **kind)[0], metric=None)


def in_edges(conv, graph, view):
    """What the layer makes of all examples and heads at once, as a dense scheme returns it."""
    data = getattr(graph, view)()
    if view == "to_data":
        return conv(data.x, data.edge_index, data.edge_weight)[~data.is_value].view_as(graph.query)
    x = data["value"].x, data["query"].x
    return conv(x, data[EDGES].edge_index, data[EDGES].edge_weight).view_as(graph.query)


@pytest.mark.parametrize(
    "case, view, kind",
    pairwise_params(
        case=CASES, view=["to_hetero", "to_data"], kind=["encoder", "decoder cross", "decoder self"]
    ),
)
def test_it_is_the_dense_scheme(case, view, kind):
    """Values and gradients: of the two kinds of nodes, and of the square graph, whose nodes are all of one
    kind. A wrong row of ``edge_index``, a degree of the wrong side or wrong numbers in a batch would show."""
    whole, _ = random_graph(0, sparse=True, **GRAPHS[kind])
    dense, conv = case.make(torch.float64), SchemeConv(case.make(torch.float64), causal=whole.causal)
    results = []
    for scheme, run in ((dense, dense), (conv, lambda graph: in_edges(conv, graph, view))):
        graph, inputs = leaves(whole, scheme)
        out = run(replace(graph, metric=None))
        probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        grads = torch.autograd.grad((out * probe).sum(), inputs, allow_unused=True)
        there = graph.weight > 0
        results.append([out, *(g if g is None or k != 2 else g * there for k, g in enumerate(grads))])
    for got, want in zip(results[1], results[0], strict=True):
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_precision_and_a_metric():
    """Features after a factor of the metric have its distances; sums are never in half precision."""
    graph, _ = random_graph(0, dtype=torch.float32)
    root = torch.linalg.cholesky(graph.metric)
    mapped = replace(graph, query=graph.query @ root, value=graph.value @ root, metric=None)
    scheme = PGNN(p=1.25)
    got = in_edges(SchemeConv(scheme), mapped, "to_hetero")
    torch.testing.assert_close(got, scheme(graph) @ root, rtol=1e-5, atol=1e-6)
    turned = SchemeConv(RotatedQueries(p=1.25))  # has a matrix product, which autocast would round
    want = in_edges(turned, mapped, "to_hetero")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(in_edges(turned, mapped, "to_hetero"), want)
    half = mapped.to(torch.bfloat16)
    assert torch.equal(in_edges(SchemeConv(scheme), half, "to_hetero"), scheme(half, "sparse"))


def test_nodes_of_one_kind_are_pygs():
    """Also where the graph has triangles, so that no two sides exist."""
    draw = torch.Generator().manual_seed(0)
    index = erdos_renyi_graph(12, 0.4)
    strength = torch.rand(12, 12, generator=draw, dtype=torch.float64)
    weight, x = (strength + strength.T)[tuple(index)], torch.randn(12, 3, generator=draw, dtype=torch.float64)
    want = PygAPPNP(K=3, alpha=0.2, add_self_loops=False)(x, index, weight)
    torch.testing.assert_close(SchemeConv(APPNP(alpha=0.2, steps=3))(x, index, weight), want)
    want = PygAPPNP(K=3, alpha=0.2, add_self_loops=False)(x, index)
    torch.testing.assert_close(SchemeConv(APPNP(alpha=0.2, steps=3))(x, index), want)


# ---- PyG's machinery -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mask_of_edges_multiplies_messages(case):
    """And not degrees: then masks of one size would change nothing, and explainers would find none. In a
    subclass too, whatever PyG has compiled before."""
    graph, scheme = euclidean(b=1, h=1), case.make(torch.float64)
    scheme.steps = 1
    SchemeConv(scheme)
    conv, data = type("OwnConv", (SchemeConv,), {})(scheme), graph.to_hetero()[EDGES]
    draw = torch.Generator().manual_seed(0)
    mask = torch.rand(len(data.edge_weight), generator=draw, dtype=torch.float64)
    x = graph.value[0, 0], graph.query[0, 0]
    whole = conv(x, data.edge_index, data.edge_weight)
    edges = edges_of(graph)
    own = (scheme.residual_share(edges) * graph.query)[0, 0]
    weight = scheme.message_weights(edges)[0, 0]  # up to a factor for each query
    kept = torch.zeros_like(weight).index_put(tuple(data.edge_index.flip(0)), mask)
    factor = (whole - own) / (weight @ x[0])
    set_masks(conv, mask, data.edge_index, apply_sigmoid=False)
    got = conv(x, data.edge_index, data.edge_weight)
    torch.testing.assert_close(got - own, factor * ((weight * kept) @ x[0]), rtol=1e-9, atol=1e-10)
    clear_masks(conv)
    assert torch.equal(conv(x, data.edge_index, data.edge_weight), whole)
    assert torch.allclose(whole, got) == (case.args.get("alpha") == 1)  # then there are no messages


def test_an_explanation_finds_the_edge_that_matters():
    """One query reads four values, and only the feature of one of them is not 0."""
    x = torch.tensor([[0.0], [0.0], [0.0], [3.0], [0.0], [0.0]])
    index = torch.tensor([[1, 2, 3, 4, 4], [0, 0, 0, 0, 5]])
    torch.manual_seed(0)
    explainer = Explainer(
        Sequential("x, edge_index", [(SchemeConv(APPNP()), "x, edge_index -> x")]),
        algorithm=GNNExplainer(epochs=60, lr=0.1),
        explanation_type="model",
        edge_mask_type="object",
        model_config=dict(mode="regression", task_level="node", return_type="raw"),
    )
    mask = explainer(x, index, index=0).edge_mask
    assert mask[2] > 0.8 and mask[[0, 1, 3]].max() < 0.5 and mask[4] == 0


class Net(torch.nn.Module):
    def __init__(self, scheme):
        super().__init__()
        self.conv = SchemeConv(scheme)

    def forward(self, x, edge_index, edge_weight):
        return self.conv(x, edge_index, edge_weight).relu()


@pytest.mark.parametrize("way", ["to_hetero", "HeteroConv"])
def test_both_directions_of_two_kinds_of_nodes(way):
    graph, scheme = euclidean(), PGNN(p=1.25).double()
    data = graph.to_hetero()
    if way == "to_hetero":
        net = to_hetero(Net(scheme), data.metadata())
    else:
        net = HeteroConv({edges: SchemeConv(scheme) for edges in (EDGES, BACK)})
    out = net(data.x_dict, data.edge_index_dict, data.edge_weight_dict)
    turned = replace(graph, query=graph.value, value=graph.query, weight=graph.weight.mT)
    for name, one in (("query", graph), ("value", turned)):
        want = scheme(one).flatten(0, 2)
        torch.testing.assert_close(out[name], want.relu() if way == "to_hetero" else want)


def test_a_sequence_of_layers_learns_and_starts_again():
    graph = euclidean(b=1, h=1).to(torch.float32)
    data = graph.to_data()
    model = Sequential(
        "x, edge_index, edge_weight",
        [
            (SchemeConv(PGNN(p=1.25)), "x, edge_index, edge_weight -> x"),
            torch.nn.Linear(3, 2),
            (SchemeConv(PGNN(p=1.75)), "x, edge_index, edge_weight -> x"),
        ],
    )
    first = model[0](data.x, data.edge_index, data.edge_weight)
    want = model[2](model[1](first), data.edge_index, data.edge_weight)
    torch.testing.assert_close(model(data.x, data.edge_index, data.edge_weight), want)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model(data.x, data.edge_index, data.edge_weight).square().sum().backward()
    optimizer.step()
    assert [model[k].scheme.learned()["p"] != p for k, p in ((0, 1.25), (2, 1.75))] == [True, True]
    model.reset_parameters()
    assert [model[k].scheme.learned()["p"] for k in (0, 2)] == pytest.approx([1.25, 1.75])


def test_what_a_sample_changes():
    """All neighbours of two nodes: sums are exact, degrees of values lack the edges to other queries."""
    torch.manual_seed(0)
    index = erdos_renyi_graph(30, 0.2)
    data = Data(x=torch.randn(30, 4), edge_index=index, edge_weight=torch.rand(index.shape[1]) + 0.1)
    nodes, sampled, seeds, edges = k_hop_subgraph([3, 8], 1, index, relabel_nodes=True)
    for scheme, exact in ((GCN(), True), (Residual(), True), (APPNP(), False), (PGNN(), False)):
        conv = SchemeConv(scheme)
        whole = conv(data.x, index, data.edge_weight)[[3, 8]]
        sample = conv(data.x[nodes], sampled, data.edge_weight[edges])[seeds]
        assert torch.allclose(sample, whole, atol=1e-6) == exact
        # what is computed then: the scheme on the edges that are left
        left = conv(data.x, index[:, edges], data.edge_weight[edges])[[3, 8]]
        torch.testing.assert_close(sample, left)


def test_what_is_refused():
    x, index, conv = torch.randn(4, 3), torch.tensor([[0, 1], [2, 3]]), SchemeConv(PGNN())
    for args, message in (
        (((x, None), index), r"x must be .* got \(4, 3\) and None"),
        (((x, x[:, :2]), index), "of the same width"),
        ((x, to_torch_coo_tensor(index, size=(4, 4))), "to_edge_index makes one"),
        ((x, index, torch.tensor([0.5, -0.5])), "weight must not be negative"),
        ((x, index, torch.ones(3)), r"weight must have shape \(2,\)"),
        ((x, index.repeat(2, 1)), r"edge_index must be int64 \(2, edges\), got torch.int64 \(4, 2\)"),
        ((x, index.short()), r"edge_index must be int64 \(2, edges\), got torch.int16"),
        (((x, x[:3]), index), "edge_index names query 3, and there are 3: its first row is the value"),
        ((x.long(), index), "x must hold floating-point numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            conv(*args)
    with pytest.raises(ValueError, match="degree='mean' needs the numbers of visible values"):
        SchemeConv(PGNN(degree="mean"))(x, index)
    assert repr(SchemeConv(GCN(), causal=True)) == "SchemeConv(GCN(normalize=False), causal=True)"
    assert repr(SchemeConv(PGNN(p=1.25))) == "SchemeConv(PGNN(p=1.25, mu=0.1, steps=1, degree='sum'))"
