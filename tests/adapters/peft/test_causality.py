"""What an adapted model must not see under any mask: later tokens, padding, other texts (usual masks are in
``test_contract.py``); and absolute positions where a model has relative ones."""

import pytest
import torch

from tests.adapters.peft.blip_decoder import logits
from tests.adapters.peft.blip_decoder import put as put_in_blip
from tests.adapters.peft.helpers import close, differ, put, run
from tests.adapters.peft_models import FAMILIES
from tests.pairwise import pairwise_params

WAYS = [("pgnn", {"steps": 2}), ("pgnn", {"degree": "mean"}), ("gcn", {"normalize": True})]
N = 8


def added(visible: torch.Tensor) -> torch.Tensor:
    """A mask as models add it to scores, from which tokens see which."""
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)


QUERY, VALUE = torch.arange(N)[:, None], torch.arange(N)
SEEN = {  # which tokens see which, bool (n, n)
    "prefix": (VALUE <= QUERY) | (VALUE < 3),
    "blocks": VALUE // 3 <= QUERY // 3,
    "an image in a text": (VALUE <= QUERY) | ((VALUE >= 2) & (VALUE < 5) & (QUERY >= 2)),
    "sliding window": (VALUE <= QUERY) & (VALUE > QUERY - 3),
    "packed texts": (VALUE <= QUERY) & (VALUE // 3 == QUERY // 3),
    "packed prefixes": (VALUE // 4 == QUERY // 4) & ((VALUE <= QUERY) | (VALUE % 4 < 2)),
}


@pytest.mark.parametrize("kind, way", pairwise_params(kind=SEEN, way=WAYS[:2]))
def test_adapters_show_a_token_nothing_that_its_mask_hides(kind, way):
    """A changed token changes logits where the mask lets it, perhaps over others, and nowhere else.

    In a sliding window that is further than in the plain model: degrees are sums over the window's queries,
    and each of these has a window of its own. Modules that say they are not causal change nothing.
    """
    ids, window = FAMILIES["llama"].batch(b=1, n=N)["input_ids"], SEEN[kind]
    model = put("llama", way[0], join="replace", **way[1])
    for layer in model.get_base_model().model.layers:
        layer.self_attn.is_causal = False

    def changes(k: int) -> torch.Tensor:
        other = ids.clone()
        other[0, k] = 5 if ids[0, k] != 5 else 6
        mask = added(window)[None, None]
        one, two = (run(model, {"input_ids": x, "attention_mask": mask}) for x in (ids, other))
        return ((one - two).abs().amax(-1) > 1e-5)[0]

    adapted = torch.stack([changes(k) for k in range(N)], 1)
    may_see = torch.linalg.matrix_power(window.double(), N) > 0
    assert not may_see.all() and not (adapted & ~may_see).any() and (adapted | ~window).all()
    if kind != "sliding window":
        assert torch.equal(adapted, may_see)


@pytest.mark.parametrize("gnn, args", WAYS[1:], ids=str)
def test_packed_texts_do_not_meet_in_the_image(gnn, args, make_decoder, words, image_states):
    """Both look at it: degrees there are sums over the queries of one text."""
    model = make_decoder()
    put_in_blip(model, gnn, args, join="replace")
    ids, states = words(n=N), image_states()
    other = torch.cat([words(n=N, seed=3)[:, :4], ids[:, 4:]], 1)
    mask = added((VALUE <= QUERY) & (VALUE // 4 == QUERY // 4)).expand(2, 1, N, N)
    got, want = logits(model, other, states, mask), logits(model, ids, states, mask)
    close(got[:, 4:], want[:, 4:])
    assert differ(got[:, :4], want[:, :4])


# ---- absolute positions, of queries that a model rotates ---------------------------------------------


def at(batch: dict, by: int) -> dict:
    """The batch with all positions moved."""
    n = batch["input_ids"].shape[1]
    positions = torch.arange(by, n + by)[None].expand(2, -1)
    return batch | dict(
        position_ids=positions[None].expand(3, -1, -1) if "mm_token_type_ids" in batch else positions
    )


BACKENDS = [("pgnn", "dense"), ("pgnn", "tiled"), ("appnp", "sparse")]


@pytest.mark.filterwarnings("ignore:.*in spite of the tiled backend")
@pytest.mark.parametrize(
    "family, training, way",
    pairwise_params(family=["llama", "qwen2-vl", "mllama"], training=[False, True], way=BACKENDS),
)
def test_absolute_positions_do_not_matter(family, training, way):
    """Messages and distances take queries as they are projected; from scores and from weights, with a cache
    and without."""
    model, batch = put(family, way[0], join="replace", backend=way[1]), FAMILIES[family].batch()
    outputs, grads = [], []
    for by in (0, 40):
        model.train(training).zero_grad()
        outputs.append(model(**at(batch, by), use_cache=False).logits)
        outputs[-1].square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    one, other = (x.detach() for x in outputs)
    close(one, other, 1e-4)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * float(a.abs().max()) + 1e-7)
    with torch.no_grad():
        close(model.train(not training)(**at(batch, 0), use_cache=True).logits, one, 1e-4)
