"""Finding W_o, and the metric it puts on each head."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from attngraph import UserError
from attngraph.reading.outputs import Metric, find_output, head_metric, widths
from tests.attngraph.reading.quantised import PackedLinear, Scaled


def test_where_the_projection_is():
    inside, beside, nowhere = nn.Module(), nn.Module(), nn.Module()
    inside.o_proj = nn.Linear(6, 4)
    parent = nn.Module()
    parent.output = nn.Module()
    parent.output.dense = nn.Linear(6, 4)
    assert find_output(inside, parent) == ("o_proj", inside.o_proj)
    assert find_output(beside, parent) == ("output.dense", parent.output.dense)
    assert find_output(nowhere, None) is None and find_output(nowhere, nn.Module()) is None
    nowhere.out_proj = PackedLinear(nn.Linear(6, 4))
    assert find_output(nowhere, None) == ("out_proj", nowhere.out_proj)


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


@pytest.mark.parametrize("make", [Scaled, partial(Scaled, dtype=torch.float8_e4m3fn), PackedLinear])
def test_the_metric_of_weights_that_are_kept_otherwise(make):
    output, like = make(nn.Linear(16, 12)), torch.zeros(1, dtype=torch.bfloat16)
    assert widths(output) == (16, 12)
    plain = nn.Linear(16, 12)
    plain.weight.data.copy_(output.dequantized())
    torch.testing.assert_close(head_metric(output, 2), head_metric(plain, 2))
    torch.testing.assert_close(head_metric(output, 2, like), head_metric(plain, 2), rtol=0.05, atol=0.05)


class Cut(Scaled):
    """As with activations that are quantised to a fixed range."""

    def forward(self, x):
        return super().forward(x.clamp(-0.5, 0.5))


class Stuck(Scaled):
    """As where there is no kernel for a device."""

    def forward(self, x):
        raise RuntimeError("no kernel")


@pytest.mark.parametrize("kind, message", [(Cut, "is not linear"), (Stuck, "does not run .no kernel.")])
def test_no_metric_is_made_up(kind, message):
    with pytest.raises(UserError, match=f"{kind.__name__}. {message}.*exclude the layer"):
        head_metric(kind(nn.Linear(16, 12)), 2)


@pytest.mark.parametrize("held, write", [("weight", "in place"), ("weight", "behind"), ("scale", "behind")])
def test_the_metric_is_kept_but_never_older_than_the_projection(held, write):
    """Also where something is written behind the counter of a tensor's versions."""
    output, like = nn.Linear(6, 4).requires_grad_(False), torch.zeros(1)
    if held == "scale":
        output = Scaled(output)
    metric = Metric(output)
    first = metric(2, like)
    assert metric(2, like) is first
    tensor = getattr(output, held)
    (tensor if write == "in place" else tensor.data).mul_(2)
    torch.testing.assert_close(metric(2, like), 4 * first)
    assert metric(3, like).shape == (3, 2, 2)
    with torch.inference_mode():
        assert not Metric(output)(2, like).is_inference()
