"""Attention rollout against products of square matrices over all nodes."""

from dataclasses import replace

import torch

from analysis.relevance import rollout
from tests.analysis.relevance.made_up_graphs import encoder_and_decoder, two_streams


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
