"""In training, adapters start from attention scores in place of weights. That changes no number, and is not
done where only the weights tell the graph."""

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model

from adapters import GraphAdapterConfig
from attngraph import capture
from attngraph.reading.attend import Projected, attend
from attngraph.reading.calls import Call
from attngraph.reading.flow import Flow
from attngraph.reading.hub import Hub
from attngraph.reading.instrument import instrument
from tests.adapters.peft.blip_decoder import JOINS, put
from tests.adapters.peft_models import FAMILIES, by_family
from tests.pairwise import pairwise_params


@contextmanager
def watched(monkeypatch, fast: bool = True):
    """Lists of each attention call whether its scores were taken; without ``fast`` they never are."""
    taken, original = [], Call.scores

    def scores(call, *args, **options):
        started = original(call, *args, **options) if fast else None
        taken.append(started is not None)
        return started

    with monkeypatch.context() as patch:
        patch.setattr(Call, "scores", scores)
        yield taken


def train_step(decoder, fast: bool, monkeypatch, gnn: str = "pgnn", padded: str = "both", **settings):
    """Loss, gradients and which calls were taken by their scores, in one training step of a BLIP decoder.

    Args:
        padded: where the batch is padded: ``right``, also on the left (``both``), or ``no``.
    """
    model = put(decoder, gnn, **settings).train()
    torch.manual_seed(1)  # of dropout
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 41, (3, 9), generator=draw)
    mask = torch.ones_like(ids)
    if padded != "no":
        mask[1, 6:] = 0
    if padded == "both":
        mask[2, :2] = 0
    states = torch.randn(3, 40, 12, generator=draw)
    labels = ids.masked_fill(mask == 0, -100)
    with watched(monkeypatch, fast) as taken:
        loss = model(input_ids=ids, attention_mask=mask, encoder_hidden_states=states, labels=labels).loss
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.requires_grad], taken


@pytest.mark.parametrize(
    "gnn, join, padded, dropout",
    pairwise_params(
        gnn=["gcn", "appnp", "pgnn"], join=JOINS, padded=["no", "right", "both"], dropout=[0.0, 0.3]
    ),
)
def test_loss_and_gradients_are_those_of_the_graph(gnn, join, padded, dropout, make_decoder, monkeypatch):
    """Under dropout the graph has the weights that it leaves, the same ones with which the model goes on."""
    noisy = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    (loss, gradients, taken), (expected, expected_gradients, never) = (
        train_step(make_decoder(**noisy), fast, monkeypatch, gnn, padded, join=join) for fast in (True, False)
    )
    assert taken == [True] * 4 and never == [False] * 4
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 + 1e-4 * float(other.abs().max()), rtol=1e-3)


def test_the_model_does_not_attend_a_second_time(make_decoder, monkeypatch):
    """Also where queries are padded, as long as each sees something."""

    def attended(call):
        raise AssertionError(f"{call.site.name} attends beside its adapter")

    monkeypatch.setattr(Call, "_eager", property(attended))
    for padded in ("no", "right"):
        assert train_step(make_decoder(), True, monkeypatch, padded=padded)[2] == [True] * 4
    with pytest.raises(AssertionError, match="attends beside its adapter"):
        train_step(make_decoder(), True, monkeypatch, padded="both")


def test_where_only_the_weights_tell_the_graph(make_decoder, monkeypatch):
    """Sparse messages, the heaviest edges, dropout on the tiled backend, or of all weights."""
    assert train_step(make_decoder(), True, monkeypatch, backend="sparse")[2] == []
    assert train_step(make_decoder(), True, monkeypatch, top_k=4)[2] == []
    decoder = make_decoder(attention_probs_dropout_prob=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert train_step(decoder, True, monkeypatch, backend="tiled")[2] == [False] * 4
        decoder(input_ids=torch.tensor([[3, 4]]), encoder_hidden_states=torch.ones(1, 5, 12))
    assert sum("in spite of the tiled backend: dropout" in str(x.message) for x in caught) == 4  # once each
    decoder = make_decoder(attention_probs_dropout_prob=1.0)
    loss, gradients, taken = train_step(decoder, True, monkeypatch)
    assert taken == [False] * 4 and loss.isfinite()
    assert all(x.isfinite().all() for x in gradients)


def peft(name: str, init_weights: bool = False, dropout: float = 0.0, **config):
    """A model of a family with graph adapters, in training."""
    torch.manual_seed(0)
    settings = dict(gnn="pgnn", reduction=4, positions=("self", "cross"), init_weights=init_weights)
    model = get_peft_model(FAMILIES[name].make(), GraphAdapterConfig(**settings, **config))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return model.train()


def padded_batch(name: str) -> dict:
    batch = FAMILIES[name].batch()
    batch["attention_mask"][1, -2:] = 0
    return batch


def test_attentions_are_those_after_dropout_where_the_model_returns_these(monkeypatch):
    """What the model returns, whatever the adapter has computed by then."""
    model, batch, seen = peft("bert", dropout=0.3), padded_batch("bert"), []
    for fast in (True, False):
        torch.manual_seed(2)
        with watched(monkeypatch, fast) as taken:
            seen.append(model(**batch, output_attentions=True).attentions)
        assert taken == [fast] * len(taken)
    for one, other in zip(*seen, strict=True):
        assert ((one == 0) == (other == 0)).all() and (one == 0).any()
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


ON_THE_GRAPH = {"t5", "git", "paligemma", "gemma3"}


@pytest.mark.parametrize("name, backend", [*by_family(values=lambda x: (x, "dense")), ("blip", "tiled")])
def test_every_family_has_the_same_loss_and_gradients(name, backend, monkeypatch):
    """Decoders with the cache that they make by default; T5's position bias and image tokens that see each
    other keep a model to the graph."""
    batch, results = padded_batch(name), []
    for fast in (True, False):
        model = peft(name, backend=backend)
        with warnings.catch_warnings(), watched(monkeypatch, fast) as taken:
            warnings.simplefilter("ignore")
            logits = model(**batch).logits
        logits.square().mean().backward()
        results.append((logits.detach(), [p.grad for p in model.parameters() if p.grad is not None], taken))
    (one, gradients, taken), (other, expected, _) = results
    assert taken and all(fast == (name not in ON_THE_GRAPH) for fast in taken)
    valid = batch["attention_mask"].bool() if one.shape[:2] == batch["attention_mask"].shape else ...
    torch.testing.assert_close(one[valid], other[valid], atol=2e-4, rtol=2e-4)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()) + 1e-7, rtol=2e-3)


def test_attention_that_is_more_than_a_softmax_is_found_out():
    """A soft cap, a forgotten scale, a bias: whatever the batch and its precision are."""
    query, key = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 4, 8)

    def eager(change):
        def attention(module, query, key, value, mask, dropout=0.0, scaling=8**-0.5, **kwargs):
            scores = query @ key.transpose(-1, -2) * scaling
            scores = change(scores if mask is None else scores + mask)
            return (scores.softmax(-1) @ value).transpose(1, 2), scores.softmax(-1)

        return attention

    def plain(change, dtype=torch.float32, **kwargs) -> bool:
        module = torch.nn.Module()
        module.attngraph = Hub(SimpleNamespace(module=module), SimpleNamespace(flow=Flow()), None)
        projected = Projected(*(t.to(dtype) for t in (query, key, key)))
        call = attend(module, projected, None, eager(change), **kwargs)
        return call.scores() is not None

    for dtype in (torch.float32, torch.bfloat16):
        assert plain(lambda s: s, dtype) and plain(
            lambda s: s, dtype, scaling=0.25, position_ids=torch.arange(3)[None]
        )
        assert not plain(lambda s: 50 * (s / 50).tanh(), dtype)
        assert not plain(lambda s: 0.5 * s, dtype)
        assert not plain(lambda s: s, dtype, position_bias=torch.zeros(1, 2, 3, 4))


def test_an_adapted_model_can_be_captured_and_its_weights_held():
    """A tiled adapter does not complain of weights that a listener asks for."""
    model, batch = peft("llama", backend="tiled"), FAMILIES["llama"].batch()
    seen = capture(model, batch)
    assert seen and all(graph.weight.sum(-1).allclose(torch.ones(())) for graph in seen.values())
    model = peft("llama", backend="tiled")
    handle = instrument(model.get_base_model())
    for site in handle.sites.values():
        site.listeners.insert(0, Call.hold_weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*in spite of the tiled backend")
        model(**batch, use_cache=False)
