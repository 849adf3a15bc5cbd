"""PyTorch's own attention layer: the same numbers with every kind of mask, and what is no graph is
refused."""

import warnings

import pytest
import torch
from torch import nn

from attngraph import UserError, capture, record
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.zoo import far_from_zero, normal

LOW = float("-inf")
LATER = torch.ones(4, 4, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False] * 4, [False, False, True, True]])
CLOSE = dict(rtol=1e-5, atol=1e-6)


class Model(nn.Module):
    def __init__(self, **more):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **more)

    def forward(self, *args, **kwargs):
        return self.attention(*args, **kwargs)


def layer(**more) -> Model:
    return far_from_zero(Model(**more), 0)


def states(cross: bool, batch_first: bool = True, widths: tuple[int, int] = (8, 8)) -> list[torch.Tensor]:
    query = normal(2, 4, 8)
    key = normal(2, 5, widths[0]) + 1 if cross else query
    value = key if widths[0] == widths[1] else normal(2, 5, widths[1])
    parts = [query, key, value]
    if not batch_first:  # what is one tensor stays one
        turned = {id(x): x.transpose(0, 1) for x in parts}
        parts = [turned[id(x)] for x in parts]
    return parts


def as_float(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(mask, LOW)


MASKS = {
    "none": {},
    "bool padding": dict(key_padding_mask=PADDING),
    "float padding": dict(key_padding_mask=as_float(PADDING)),
    "bool mask": dict(attn_mask=LATER),
    "float mask": dict(attn_mask=as_float(LATER)),
    "bias": dict(attn_mask=normal(4, 4)),
    "by head": dict(attn_mask=LATER.repeat(4, 1, 1)),
    "both": dict(attn_mask=LATER, key_padding_mask=PADDING),
    "causal": dict(attn_mask=as_float(LATER), is_causal=True),
}


WEIGHTS = [dict(need_weights=False), dict(), dict(average_attn_weights=False)]


@pytest.mark.parametrize("name", MASKS)
def test_it_returns_what_the_original_returns(name):
    masks = MASKS[name]
    for k, more in enumerate(WEIGHTS):
        model, given = layer(batch_first=k != 1), states(False, batch_first=k != 1)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                want = model(*given, **masks, **more)
                with record(model) as graphs:
                    got = model(*given, **masks, **more)
            torch.testing.assert_close(got, want, **CLOSE)
        with torch.no_grad():
            weight = model(*given, **masks, average_attn_weights=False)[1]
        (graph,) = graphs["attention"]
        valid = torch.ones(2, 4, dtype=torch.bool) if graph.query_mask is None else graph.query_mask
        rows = [x.transpose(1, 2)[valid] for x in (graph.weight, weight)]
        torch.testing.assert_close(*rows, **CLOSE)
        assert graph.kind == "self" and graph.shape == (2, 2, 4, 4, 4)
        assert graph.causal == (name in ("bool mask", "float mask", "by head", "both", "causal"))
        assert "key_padding_mask" not in masks or torch.equal(graph.query_mask, ~PADDING)


@pytest.mark.parametrize("widths, bias", [((8, 8), True), ((6, 6), False), ((6, 3), True)])
def test_cross_attention_and_other_widths(widths, bias):
    """With padding; the second time under dropout, which is drawn as without us."""
    model = layer(batch_first=True, kdim=widths[0], vdim=widths[1], bias=bias, dropout=0.5)
    given = states(True, widths=widths)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    for training in (True, False):
        torch.manual_seed(1)
        want = model.train(training)(*given, key_padding_mask=padding)
        with record(model) as graphs:
            torch.manual_seed(1)
            torch.testing.assert_close(model(*given, key_padding_mask=padding), want, **CLOSE)
        torch.testing.assert_close(graphs["attention"][0].weight.sum(-1), torch.ones(2, 2, 4))
    (graph,) = graphs["attention"]
    assert graph.kind == "cross" and graph.shape == (2, 2, 4, 5, 4) and graph.metric is not None
    assert not graph.causal and graph.query_mask is None and torch.equal(graph.visible[:, 0], ~padding)
    torch.testing.assert_close(graph.weight.mean(1), want[1], **CLOSE)


def test_a_query_that_sees_nothing():
    """0 where PyTorch has 0, NaN where it has NaN; the graph has an invalid query."""
    model, given = layer(batch_first=True), states(False)
    mask = LATER | PADDING[1] | torch.tensor([[True], [False], [False], [False]])
    for need in (False, True):
        with torch.enable_grad():
            want = model(*given, attn_mask=mask, need_weights=need)[0]
            with record(model) as graphs:
                got = model(*given, attn_mask=mask, need_weights=need)[0]
        torch.testing.assert_close(got, want, equal_nan=True, **CLOSE)
        assert bool(got[:, 0].isnan().all()) == need
        graph = graphs["attention"][0]
        assert (graph.weight[:, :, 0] == 0).all() and not graph.query_mask[:, 0].any()


ADDED = "adds a key and a value .add_bias_kv"
NESTED = "attention is given nested tensors.*use_nested_tensor = False"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "settings, given, more, message",
    [
        (dict(add_bias_kv=True), normal(2, 4, 8), {}, ADDED),
        (dict(add_zero_attn=True), normal(2, 4, 8), {}, ADDED),
        ({}, normal(4, 8), {}, "attention is given a sequence without a batch dimension"),
        ({}, [normal(4, 8), normal(2, 8)], dict(need_weights=False), NESTED),
        ({}, normal(2, 4, 8), dict(is_causal=True), "is called with is_causal and without attn_mask"),
    ],
)
def test_calls_that_are_no_graph_are_refused_where_they_are_read(settings, given, more, message):
    model = layer(batch_first=True, **settings)
    given = torch.nested.nested_tensor(given) if isinstance(given, list) else given
    with torch.no_grad(), pytest.raises(UserError, match=message), record(model):
        model(given, given, given, **more)
    if "is_causal" in more:  # PyTorch refuses it, too
        return
    with torch.no_grad():
        want = model(given, given, given, **more)[0]
        handle = instrument(model)  # nobody listens
        got = model(given, given, given, **more)[0]
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def encoder(**more) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        return far_from_zero(nn.TransformerEncoder(part, 2, **more), 0)


def test_the_fused_encoder_layer_is_not_missed():
    """PyTorch's fused path never calls the attention module; while it is read, the other one is taken."""
    model = encoder(enable_nested_tensor=False)
    called = []
    model.layers[0].self_attn.forward = lambda *args, **kwargs: called.append(args)
    with torch.no_grad():
        want = model(normal(2, 4, 8), src_key_padding_mask=PADDING)
    assert not called
    del model.layers[0].self_attn.forward
    with record(model) as graphs, torch.no_grad():
        got = model(normal(2, 4, 8), src_key_padding_mask=PADDING)
    assert list(graphs) == ["layers.0.self_attn", "layers.1.self_attn"] and all(
        len(calls) == 1 for calls in graphs.values()
    )
    torch.testing.assert_close(got[~PADDING], want[~PADDING], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="layers.0.self_attn is given nested tensors"):
        capture(encoder(), {"src": normal(2, 4, 8), "src_key_padding_mask": PADDING})


def test_a_decoder_of_pytorchs_layers():
    model = far_from_zero(nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, batch_first=True), 1), 0)
    graphs = capture(
        model,
        dict(
            tgt=normal(2, 4, 8),
            memory=normal(2, 5, 8) + 1,
            tgt_mask=as_float(LATER),
            tgt_is_causal=True,
            tgt_key_padding_mask=as_float(PADDING),
        ),
    )
    own, cross = graphs["layers.0.self_attn"], graphs["layers.0.multihead_attn"]
    assert own.kind == "self" and cross.kind == "cross" and own.causal and cross.causal
    assert torch.equal(own.query_mask, ~PADDING) and torch.equal(cross.query_mask, ~PADDING)
