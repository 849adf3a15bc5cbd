"""In training, adapters take attention before its weights are computed; that changes no number, and is left where it must be."""

import pytest
import torch

from adapters.blip import attach
from adapters.config import AdapterConfig
from attngraph.calls import Call
from experiments.models.mini_blip import load_model


def train_step(fast: bool, monkeypatch, gnn: str = "pgnn", padded: bool = True, dropout: float = 0.0, **config):
    """Loss, gradients and how many calls went by scores, of one training step of mini-BLIP."""
    torch.manual_seed(0)
    model, _ = load_model()
    adapters = attach(model, AdapterConfig(gnn, **config))
    for name, parameter in ((n, p) for m in adapters.modules.values() for n, p in m.named_parameters()):
        if name.endswith("share"):
            torch.nn.init.constant_(parameter, 0.4)
    model.train()
    for module in model.text_decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    asked, original = [], Call.scores

    def scores(call, metric=None):
        found = original(call, metric) if fast else None
        asked.append(found is not None)
        return found

    monkeypatch.setattr(Call, "scores", scores)
    ids = torch.randint(10, 200, (3, 9))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 6:] = 0
        mask[2, :2] = 0
    states = torch.randn(3, 65, 128)
    labels = ids.masked_fill(mask == 0, -100)
    labels[2, 2] = -100  # its prediction would come from a padded query
    for _ in range(2):  # the first call tries out whether the fast path agrees
        loss = model.text_decoder(ids, attention_mask=mask, encoder_hidden_states=states, labels=labels, reduction="mean").loss
    loss.backward()
    monkeypatch.undo()
    return loss.detach(), [p.grad.clone() for p in adapters.parameters() if p.grad is not None], asked


@pytest.mark.parametrize("gnn", ["gcn", "appnp", "gcnii", "pgnn"])
@pytest.mark.parametrize("join", ["replace", "gated", "blend"])
@pytest.mark.parametrize("padded", [False, True])
def test_loss_and_gradients_are_those_of_the_graph(gnn, join, padded, monkeypatch):
    loss, gradients, asked = train_step(True, monkeypatch, gnn, padded, join=join)
    expected, expected_gradients, _ = train_step(False, monkeypatch, gnn, padded, join=join)
    assert all(asked) and asked
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 + 1e-4 * float(other.abs().max()), rtol=1e-3)


def test_dropout_keeps_to_the_graph(monkeypatch):
    asked = train_step(True, monkeypatch, dropout=0.1)[2]
    assert asked and not any(asked)


def test_sparse_messages_keep_to_the_graph(monkeypatch):
    assert train_step(True, monkeypatch, backend="sparse")[2] == []
    assert train_step(True, monkeypatch, top_k=4)[2] == []


def test_attentions_are_returned_where_they_are_asked_for():
    model, _ = load_model()
    attach(model, AdapterConfig("pgnn"))
    model.train()
    ids, states = torch.randint(10, 200, (1, 5)), torch.randn(1, 65, 128)
    for _ in range(2):
        out = model.text_decoder(ids, encoder_hidden_states=states, output_attentions=True)
        assert all(torch.allclose(x.sum(-1), torch.ones(())) for x in out.attentions)
