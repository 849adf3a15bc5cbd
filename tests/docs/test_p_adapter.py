"""docs/examples/p_adapter.py computes what the package computes: logits, gradients and a step of training."""

import re

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy

from attngraph import AttentionGraph
from attngraph.adapters import PGNN, GraphAdapterConfig
from attngraph.adapters.peft import optimizer_groups
from attngraph.adapters.scalar import SPEED
from docs.examples.p_adapter import Config, TextDecoder, make_optimizer, p_laplacian_step
from tests.conftest import IMAGE_WIDTH, VOCABULARY, WIDTH

NAMES = {  # of the package's parameters, as regular expressions, and of the example's
    r"base_model\.model\.(bert\.)?": "",
    r"\.(base_layer|default|join|scheme|stored|self)(?=\.|$)": "",
    r"\.gnn_adapter": ".adapter",
    r"embeddings\.(word|position)_embeddings\.weight": r"\1s.weight",
    r"embeddings\.LayerNorm": "norm",
    r"cls\.predictions\.transform\.dense": "head",
    r"cls\.predictions\.transform\.LayerNorm": "head_norm",
    r"cls\.predictions\.decoder": "logits",
    r"encoder\.layer": "layers",
    r"crossattention": "cross_attention",
    r"\.attention": ".self_attention",
    r"(\d)\.output": r"\1.feed_forward.output",
    r"intermediate": "feed_forward.inner",
    r"output\.LayerNorm": "norm",
    r"dense\.adapter": "adapter",
    r"\.dense": "",
    r"output\.adapter": "adapter",
    r"inner\.dense": "inner",
    r"share": "g",
}
PADDING = {"none": [], "on the right": [5, 6], "on the left": [0, 1], "in the middle": [3]}


def plain_name(name: str) -> str:
    """The example's name of a parameter of the package."""
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture
def both(make_decoder):
    """The package's model and the example's, with the same weights in double precision, none of them neutral;
    and pairs of their parameters that learn, by the example's names."""
    theirs = make_decoder()
    torch.manual_seed(0)
    adapted = GraphAdapterConfig(gnn="pgnn", reduction=4, init_weights=False)
    theirs = get_peft_model(theirs, adapted).double()
    with torch.no_grad():
        for k, (name, x) in enumerate(theirs.named_parameters()):
            if name.endswith("stored"):
                x += 0.002 * k  # no two layers have the same p or share
    sizes = dict(width=WIDTH, image_width=IMAGE_WIDTH, layers=2, heads=2, inner=24, positions=32)
    ours = TextDecoder(Config(VOCABULARY, **sizes))
    ours.add_adapters(reduction=4)
    ours = ours.double()
    mine = dict(ours.named_parameters())
    found = {plain_name(name): (name, x) for name, x in theirs.named_parameters(remove_duplicate=False)}
    del found["cls.predictions.bias"]  # that of `logits`, under a second name
    assert found.keys() == mine.keys()
    with torch.no_grad():
        for name, (given, x) in found.items():
            mine[name].copy_((SPEED * x if given.endswith("stored") else x).reshape(mine[name].shape))
    return theirs, ours, {name: (x, mine[name]) for name, (_, x) in found.items() if x.requires_grad}


def seen(words, image_states, padding):
    ids, image, valid = words(2, 7), image_states(2, 5).double(), torch.ones(2, 7, dtype=torch.bool)
    valid[1, PADDING[padding]] = False
    return ids, image, valid


def compare(got, want, name=""):
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("training", [True, False])  # the package has a faster way in training
@pytest.mark.parametrize("padding", PADDING)
def test_it_computes_the_logits_and_gradients_of_the_package(both, words, image_states, padding, training):
    """Catches any difference from the package in a term of the equations, in masks, in the metric, in where
    an adapter follows: to 1e-6 in double precision, far below the effect of any of them."""
    theirs, ours, learned = both
    ids, image, valid = seen(words, image_states, padding)
    theirs.train(training)
    want = theirs(
        input_ids=ids, encoder_hidden_states=image, attention_mask=valid.long(), use_cache=False
    ).logits
    got = ours(ids, image, valid)
    compare(got[valid], want[valid])
    for logits in (want, got):
        cross_entropy(logits[valid], ids[valid]).backward()
    assert {plain.split("adapter.")[1] for plain in learned} >= {"g", "p_logit", "bottleneck.up.weight"}
    for name, (x, mine) in learned.items():
        assert mine.grad.abs().max() > 1e-6, name  # else equality would say nothing
        compare(mine.grad, x.grad.reshape(mine.shape), name)


def test_a_training_step_is_that_of_the_package(both, words, image_states):
    """Catches weight decay on other parameters than matrices, and another rate for single numbers."""
    theirs, ours, learned = both
    ids, image, valid = seen(words, image_states, "none")
    more = dict(encoder_hidden_states=image, attention_mask=valid.long(), use_cache=False)
    optimizers = torch.optim.AdamW(optimizer_groups(theirs, 0.02, 0.05)), make_optimizer(ours, 0.02)
    for _ in range(3):
        for logits, optimizer in zip(
            (theirs.train()(input_ids=ids, **more).logits, ours(ids, image, valid)), optimizers
        ):
            optimizer.zero_grad()
            cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
            optimizer.step()
    for name, (x, mine) in learned.items():
        compare(mine, (x if mine.dim() else SPEED * x).reshape(mine.shape), name)


def test_a_distance_of_zero_has_a_finite_weight():
    """Catches a bound on R that is missing or is not the package's, and query degrees taken for 1."""
    torch.manual_seed(0)
    M = torch.tensor([0.3, 0.5]).double().expand(1, 2, 1, 2)  # (b, h, n, m)    one query, two values
    q = torch.randn(1, 2, 1, 4, dtype=torch.double, requires_grad=True)
    near = q.detach() * (0.3 / 0.8) ** 0.5  # v / sqrt(e) is q / sqrt(d)
    v, G = torch.cat([near, torch.randn_like(near)], 2), torch.eye(4).double().expand(2, 4, 4)
    got = p_laplacian_step(M, q, v, G, torch.tensor(1.25).double(), 0.1)
    graph = AttentionGraph(query=q.detach(), value=v, weight=M, causal=True)
    torch.testing.assert_close(got.detach(), PGNN(p=1.25, learn_p=False)(graph), rtol=0, atol=1e-10)
    got.sum().backward()
    assert q.grad.isfinite().all()


def test_new_adapters_change_nothing(words, image_states):
    """Catches a start at which the output differs from that of the frozen decoder."""
    torch.manual_seed(0)
    model = TextDecoder(Config(VOCABULARY, image_width=IMAGE_WIDTH))
    given = words(2, 7), image_states(2, 5), torch.ones(2, 7, dtype=torch.bool)
    want = model(*given)
    model.add_adapters()
    torch.testing.assert_close(model(*given), want, rtol=0, atol=1e-6)
