"""In training, adapters start from attention scores in place of weights. That changes no number, and is not
done where only the weights tell the graph."""

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model

from attngraph import capture
from attngraph.adapters import GraphAdapterConfig
from attngraph.reading.attend import Projected, attend
from attngraph.reading.calls import Call
from attngraph.reading.instrument import instrument
from attngraph.reading.state import LayerState, ModelState
from tests.adapters.peft.blip_decoder import JOINS
from tests.adapters.peft.helpers import put
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


def dropping(model, dropout: float):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout
    return model


def train_step(name: str, fast: bool, monkeypatch, padded: str = "both", dropout: float = 0.0, **settings):
    """Logits, gradients and which calls were taken by their scores, in one training step of a family's model.

    Args:
        padded: where the batch is padded: ``right``, also on the left (``both``), or ``no``.
    """
    torch.manual_seed(0)
    given = dict(gnn="pgnn", reduction=4, positions=("self", "cross"), init_weights=False)
    model = get_peft_model(FAMILIES[name].make(), GraphAdapterConfig(**given | settings)).train()
    batch = FAMILIES[name].batch()
    dropping(model, dropout)
    if padded != "no":
        batch["attention_mask"][1, -2:] = 0
    if padded == "both":
        batch["attention_mask"][0, :2] = 0
    torch.manual_seed(1)  # of dropout
    with watched(monkeypatch, fast) as taken:
        logits = model(**batch).logits
    if logits.shape[:2] == batch["attention_mask"].shape:  # what follows a padded query is nobody's business
        logits = logits * batch["attention_mask"][..., None]
    logits.square().mean().backward()
    return logits.detach(), [p.grad for p in model.parameters() if p.grad is not None], taken


ON_THE_GRAPH = {"t5", "paligemma"}
BLIP = pairwise_params(
    name=["blip"],
    gnn=["gcn", "appnp", "pgnn"],
    join=JOINS,
    padded=["no", "right", "both"],
    dropout=[0.0, 0.3],
    backend=["dense"],
)
REST = ("pgnn", "blend", "right", 0.0)
OTHERS = [*by_family(values=lambda x: (x, *REST, "dense")), pytest.param("blip", *REST, "tiled")]


@pytest.mark.parametrize("name, gnn, join, padded, dropout, backend", [*BLIP, *OTHERS])
def test_logits_and_gradients_are_those_of_the_graph(name, gnn, join, padded, dropout, backend, monkeypatch):
    """Under dropout the graph has the weights that it leaves, the same ones with which the model goes on. GCN
    takes the attention output. Decoders have the cache that they make by default; T5's position bias and
    image tokens that see each other keep a model to the graph."""
    settings = dict(padded=padded, dropout=dropout, gnn=gnn, join=join)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tiled backend holds weights where it may not start from scores
        (one, gradients, taken), (other, expected, never) = (
            train_step(name, fast, monkeypatch, backend=backend, **settings) for fast in (True, False)
        )
    assert (
        taken == [name not in ON_THE_GRAPH] * len(taken) and bool(taken) == (gnn != "gcn") and not any(never)
    )
    torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()) + 1e-7, rtol=2e-3)


def test_without_gradients_one_step_of_pgnn_starts_from_scores_too(monkeypatch):
    """With a cache too, in the first pass and after it; not where attentions have gradients, which are to
    count the adapter's part, nor in a scheme that has no faster way."""
    batch = FAMILIES["llama"].batch()
    for steps, cache, gradients, want in (
        (1, False, False, [True]),
        (1, True, False, [True]),
        (1, False, True, []),
        (2, False, False, []),
    ):
        torch.manual_seed(0)
        model = put("llama", positions=("self",), steps=steps)
        logits = []
        for fast in (True, False):
            with watched(monkeypatch, fast) as taken, torch.set_grad_enabled(gradients):
                first = model.eval()(
                    **{k: x[:, : -1 if cache else None] for k, x in batch.items()}, use_cache=cache
                )
                logits.append(first.logits.detach())
                if cache:
                    rest = batch | {"input_ids": batch["input_ids"][:, -1:]}
                    logits[-1] = torch.cat([logits[-1], model(**rest, cache=first.cache).logits], 1)
            if fast:
                assert list(dict.fromkeys(taken)) == want
        scale = float(logits[1].abs().max())
        torch.testing.assert_close(logits[0] / scale, logits[1] / scale, rtol=0, atol=2e-6)


def test_the_model_does_not_attend_a_second_time(monkeypatch):
    """Also where queries are padded, as long as each sees something."""
    own, attended = Call._eager.func, []
    monkeypatch.setattr(Call, "_eager", property(lambda call: attended.append(call.site.name) or own(call)))
    for padded, again in (("no", False), ("right", False), ("both", True)):
        attended.clear()
        assert train_step("blip", True, monkeypatch, padded)[2] == [True] * 4
        assert any(name.startswith("text_decoder") for name in attended) == again


def test_where_only_the_weights_tell_the_graph(monkeypatch):
    """Sparse messages, the heaviest edges, dropout on the tiled backend, or of all weights."""
    assert train_step("blip", True, monkeypatch, backend="sparse")[2] == []
    assert train_step("blip", True, monkeypatch, top_k=4)[2] == []
    model = dropping(put("blip", backend="tiled", positions=("self", "cross")).train(), 0.1)
    with watched(monkeypatch) as taken, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(**FAMILIES["blip"].batch()), model(**FAMILIES["blip"].batch())
    assert taken == [False] * 8
    assert sum("in spite of the tiled backend: dropout" in str(x.message) for x in caught) == 4  # once each
    logits, gradients, taken = train_step("blip", True, monkeypatch, dropout=1.0)
    assert taken == [False] * 4 and all(x.isfinite().all() for x in [logits, *gradients])


def test_attentions_are_those_after_dropout_where_the_model_returns_these(monkeypatch):
    """What the model returns, whatever the adapter has computed by then."""
    model, seen = dropping(put("bert", positions=("self",)).train(), 0.3), []
    for fast in (True, False):
        torch.manual_seed(2)
        with watched(monkeypatch, fast) as taken:
            seen.append(model(**FAMILIES["bert"].batch(), output_attentions=True).attentions)
        assert taken == [fast] * len(taken)
    for one, other in zip(*seen, strict=True):
        assert ((one == 0) == (other == 0)).all() and (one == 0).any()
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


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
        module.attngraph = LayerState(
            SimpleNamespace(module=module), SimpleNamespace(model=ModelState()), None
        )
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
    model, batch = put("llama", backend="tiled").train(), FAMILIES["llama"].batch()
    seen = capture(model, batch)
    assert seen and all(graph.weight.sum(-1).allclose(torch.ones(())) for graph in seen.values())
    model = dropping(put("llama", backend="tiled").train(), 0.1)
    handle = instrument(model.get_base_model())
    for site in handle.sites.values():
        site.listeners.insert(0, Call.hold_weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*in spite of the tiled backend")
        model(**batch, use_cache=False)
