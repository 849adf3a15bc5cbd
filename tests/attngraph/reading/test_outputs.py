"""Finding W_o, and the metric it puts on each head."""

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from attngraph.reading.outputs import Metric, find_output, head_metric, widths


def test_where_the_projection_is():
    inside, beside, nowhere = nn.Module(), nn.Module(), nn.Module()
    inside.o_proj = nn.Linear(6, 4)
    parent = nn.Module()
    parent.output = nn.Module()
    parent.output.dense = nn.Linear(6, 4)
    assert find_output(inside, parent) == ("o_proj", inside.o_proj)
    assert find_output(beside, parent) == ("output.dense", parent.output.dense)
    assert find_output(nowhere, None) is None and find_output(nowhere, nn.Module()) is None
    packed = nn.Linear(6, 4)
    packed.weight = nn.Parameter(
        torch.zeros(12, 1, dtype=torch.uint8), requires_grad=False
    )  # as quantised layers keep it
    nowhere.out_proj = packed
    assert find_output(nowhere, None) is None


def test_the_metric_is_the_gram_matrix_of_each_head():
    dense, gpt = nn.Linear(16, 12), Conv1D(12, 16)
    gpt.weight = nn.Parameter(dense.weight.T.clone())
    assert widths(dense) == widths(gpt) == (16, 12)
    metric = head_metric(dense, 2)
    for h in range(2):
        w = dense.weight[:, 8 * h : 8 * h + 8].T  # W_o^h: features of one head to the model's width
        torch.testing.assert_close(metric[h], w @ w.T)
    torch.testing.assert_close(head_metric(gpt, 2), metric)
    half = head_metric(dense.to(torch.bfloat16), 2)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, metric, rtol=0.05, atol=0.05)


def test_the_metric_is_kept_but_never_older_than_the_projection():
    dense = nn.Linear(6, 4).requires_grad_(False)
    metric = Metric(dense)
    first = metric(2)
    assert metric(2) is first and metric(3).shape == (3, 2, 2)
    dense.weight.mul_(2)
    torch.testing.assert_close(metric(2), 4 * first)
    with torch.inference_mode():
        assert not Metric(dense)(2).is_inference()
    dense.requires_grad_(True)
    assert metric(2).requires_grad  # a trained projection has a trained metric
    with torch.no_grad():
        assert not metric(2).requires_grad
