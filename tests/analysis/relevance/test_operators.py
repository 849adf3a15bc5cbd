"""Relevance, rollout and raw attention against the equations, written out as loops or matrices."""

from dataclasses import replace

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.analysis.relevance import raw, relevance, rollout
from tests.analysis.relevance.made_up_graphs import encoder_and_decoder, graph, two_streams

Matrix = list[list[float]]


def positive_part(graph: AttentionGraph, gradient: torch.Tensor, example: int) -> Matrix:
    """Equation (5), one number at a time."""
    a, g = graph.weight[example].tolist(), gradient[example].tolist()
    heads, n, m = len(a), len(a[0]), len(a[0][0])
    return [
        [sum(max(0.0, g[k][i][j] * a[k][i][j]) for k in range(heads)) / heads for j in range(m)]
        for i in range(n)
    ]


def product(x: Matrix, y: Matrix) -> Matrix:
    return [[sum(x[i][k] * y[k][j] for k in range(len(y))) for j in range(len(y[0]))] for i in range(len(x))]


def plus(x: Matrix, y: Matrix) -> Matrix:
    return [[x[i][j] + y[i][j] for j in range(len(x[0]))] for i in range(len(x))]


def identity(size: int) -> Matrix:
    return [[float(i == j) for j in range(size)] for i in range(size)]


def rows_normalised(r: Matrix) -> Matrix:
    """Equations (8) and (9)."""
    out = identity(len(r))
    for i, row in enumerate(r):
        hat = [x - float(i == j) for j, x in enumerate(row)]
        if sum(hat) > 0:
            out[i] = [out[i][j] + hat[j] / sum(hat) for j in range(len(r))]
    return out


def by_loops(graphs: dict, gradients: dict, example: int) -> tuple[Matrix, Matrix]:
    """Equations (5) to (11) with one sum at a time."""
    bar = {name: positive_part(graphs[name], gradients[name], example) for name in graphs}
    n, m = graphs["c0"].weight.shape[2:]
    ss, qq, sq = identity(n), identity(m), [[0.0] * m for _ in range(n)]
    for name in ("e0", "e1"):
        qq = plus(qq, product(bar[name], qq))
    for k in range(2):
        a = bar[f"s{k}"]
        sq, ss = plus(sq, product(a, sq)), plus(ss, product(a, ss))
        transposed = [list(column) for column in zip(*rows_normalised(ss))]
        sq = plus(sq, product(product(transposed, bar[f"c{k}"]), rows_normalised(qq)))
    return ss, sq


def test_relevance_equals_loops():
    graphs, gradients = encoder_and_decoder()
    result = relevance(graphs, gradients)
    for example in range(2):
        ss, sq = by_loops(graphs, gradients, example)
        torch.testing.assert_close(
            result.own[example], torch.tensor(ss, dtype=torch.float64), rtol=1e-12, atol=0
        )
        torch.testing.assert_close(
            result.seen[example], torch.tensor(sq, dtype=torch.float64), rtol=1e-12, atol=0
        )
    assert result.seen.min() > 0
    with pytest.raises(ValueError, match=r"gradients must hold c1 with shape \(2, 2, 3, 4\), got none"):
        relevance(graphs, {name: g for name, g in gradients.items() if name != "c1"})


def test_only_positive_contributions_count():
    graphs, gradients = encoder_and_decoder()
    for change in (lambda g: -g.abs(), torch.zeros_like):
        result = relevance(graphs, {name: change(g) for name, g in gradients.items()})
        assert torch.equal(result.own, torch.eye(3, dtype=torch.float64).expand(2, -1, -1))
        assert not result.seen.any()


def test_two_streams_equal_the_equations_written_out():
    graphs, gradients = two_streams()
    bar = {name: (g.weight * gradients[name]).clamp(min=0).mean(1) for name, g in graphs.items()}

    def norm(r):  # (8, 9)
        hat = r - torch.eye(r.shape[-1])
        return torch.eye(r.shape[-1]) + hat / hat.sum(-1, keepdim=True)

    def t(r):
        return norm(r).transpose(1, 2)

    eye = {size: torch.eye(size, dtype=torch.float64) for size in (3, 4)}
    ss, qq = eye[3] + bar["s0"], eye[4] + bar["e0"]
    sq, qs = t(ss) @ bar["x0"] @ norm(qq), t(qq) @ bar["x0#2"] @ norm(ss)
    ss, sq = ss + bar["s1"] @ ss, sq + bar["s1"] @ sq
    qq, qs = qq + bar["e1"] @ qq, qs + bar["e1"] @ qs
    ss, sq = ss + bar["x1"] @ qs, sq + t(ss) @ bar["x1"] @ norm(qq)
    result = relevance(graphs, gradients)
    torch.testing.assert_close(result.own, ss)
    torch.testing.assert_close(result.seen, sq)


def test_one_sequence_is_the_product_over_its_layers():
    """With any number of heads."""
    graphs, gradients = encoder_and_decoder()
    for heads in (1, 2):
        parts = {name: (graphs[name].weight[:, :heads], gradients[name][:, :heads]) for name in ("e0", "e1")}
        first, second = ((weight * g).clamp(min=0).mean(1) for weight, g in parts.values())
        few = {name: graph(weight, "self", ("image", "image")) for name, (weight, _) in parts.items()}
        result = relevance(few, {name: g for name, (_, g) in parts.items()})
        eye = torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(result.own, (eye + second) @ (eye + first))
        assert torch.equal(result.seen, result.own)


def test_rollout_is_the_product_of_the_layers_on_both_sides():
    graphs, _ = encoder_and_decoder()
    n, m = graphs["c0"].weight.shape[2:]
    product = torch.eye(n + m, dtype=torch.float64).expand(2, -1, -1)
    for name, g in graphs.items():
        layer = torch.eye(n + m, dtype=torch.float64).repeat(2, 1, 1)
        rows = slice(n, None) if name[0] == "e" else slice(None, n)
        columns = slice(None, n) if name[0] == "s" else slice(n, None)
        layer[:, rows] *= 0.5
        layer[:, rows, columns] += 0.5 * g.weight.mean(1)
        product = layer @ product
    result = rollout(graphs)
    torch.testing.assert_close(torch.cat(result, -1), product[:, :n])
    torch.testing.assert_close(torch.cat(result, -1).sum(-1), torch.ones(2, n, dtype=torch.float64))


def test_rollout_takes_rows_for_what_they_are_worth():
    """Weights that are no distribution (those of an adapter), and tokens without any."""
    graphs, _ = encoder_and_decoder()
    scale = torch.rand(2, 1, 3, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    scaled = {
        name: replace(g, weight=g.weight * scale) if name[0] != "e" else g for name, g in graphs.items()
    }
    for one, other in zip(rollout(graphs), rollout(scaled)):
        torch.testing.assert_close(one, other)
    mask = torch.tensor([[True, True, False]] * 2)
    padded = {name: replace(g, query_mask=mask) if name[0] != "e" else g for name, g in graphs.items()}
    result = rollout(padded)
    torch.testing.assert_close(torch.cat(result, -1).sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert result.own[:, 2].tolist() == [[0, 0, 1]] * 2


def test_rollout_of_two_streams_is_the_product_of_square_matrices():
    graphs, _ = two_streams()
    product = torch.eye(7, dtype=torch.float64).expand(2, -1, -1)
    places = {"text": slice(0, 3), "image": slice(3, 7)}
    for names in (["s0"], ["e0"], ["x0", "x0#2"], ["s1"], ["e1"], ["x1", "x1#2"]):
        layer = torch.eye(7, dtype=torch.float64).repeat(2, 1, 1)
        for name in names:
            rows, columns = places[graphs[name].query_modality], places[graphs[name].value_modality]
            layer[:, rows] *= 0.5
            layer[:, rows, columns] += 0.5 * graphs[name].weight.mean(1)
        product = layer @ product
    torch.testing.assert_close(torch.cat(rollout(graphs), -1), product[:, :3])


def test_raw_is_the_mean_over_heads_of_the_last_layer():
    graphs, _ = encoder_and_decoder()
    torch.testing.assert_close(raw(graphs), (graphs["c1"].weight[:, 0] + graphs["c1"].weight[:, 1]) / 2)
    torch.testing.assert_close(raw(graphs, "c0"), graphs["c0"].weight.mean(1))
    torch.testing.assert_close(raw(graphs, heads=[1]), graphs["c1"].weight[:, 1])
    with pytest.raises(ValueError, match=r"heads must be in 0\.\.1 for c1, got \[2\]"):
        raw(graphs, heads=[2])
    with pytest.raises(ValueError, match="layer must be one of c0, c1, got 'c2'"):
        raw(graphs, "c2")
