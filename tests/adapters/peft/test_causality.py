"""What an adapted model must not see: later tokens, and padding."""

import pytest
import torch

from attngraph import UserError
from tests.adapters.peft.blip_decoder import JOINS, VARIANTS, logits
from tests.adapters.peft.blip_decoder import put as put_in_blip
from tests.adapters.peft.helpers import GENERATORS, close, differ, families_and_schemes, put, run
from tests.adapters.peft_models import FAMILIES
from tests.pairwise import pairwise_params

STEPS = [("pgnn", {"steps": 1}), ("pgnn", {"steps": 2}), ("appnp", {"steps": 3})]


@pytest.mark.parametrize(
    "gnn, args, backend",
    [
        *((*variant, "dense") for variant in [*VARIANTS, *STEPS]),
        *((*variant, "sparse") for variant in VARIANTS[1:4]),
        ("pgnn", {"degree": "mean"}, "tiled"),
    ],
    ids=str,
)
def test_later_tokens_do_not_change_earlier_logits(gnn, args, backend, make_decoder, words, image_states):
    model = make_decoder()
    put_in_blip(model, gnn, args, join="replace", backend=backend)
    ids, states = words(), image_states()
    want = logits(model, ids, states)
    for k in (1, 3, 6):
        changed = torch.cat([ids[:, :k], words(seed=k + 1)[:, k:]], 1)
        got = logits(model, changed, states)
        close(got[:, :k], want[:, :k], 1e-5)
        assert not torch.allclose(got[:, k:], want[:, k:], atol=0.05)


@pytest.mark.parametrize("family, gnn", families_and_schemes(GENERATORS, ("llava", "t5")))
def test_later_tokens_do_not_change_earlier_logits_in_any_family(family, gnn):
    model, batch = put(family, gnn, join="replace"), FAMILIES[family].batch()
    name = "decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"
    want = run(model, batch)
    k = batch[name].shape[1] - 2
    changed = dict(batch, **{name: torch.cat([batch[name][:, :k], batch[name][:, k:].flip(0)], 1)})
    got = run(model, changed)
    close(got[:, :k], want[:, :k], 1e-5)
    assert differ(got[:, k:], want[:, k:])


@pytest.mark.parametrize(
    "variant, join, left", pairwise_params(variant=VARIANTS, join=JOINS, left=[False, True])
)
def test_padding(variant, join, left, make_decoder, words, image_states):
    model = make_decoder()
    put_in_blip(model, *variant, join=join)
    ids, states = words(3, 7), image_states(3)
    mask = torch.ones(3, 7, dtype=torch.long)
    columns = [slice(0, 7), slice(2, 7) if left else slice(0, 5), slice(6, 7) if left else slice(0, 1)]
    for row, column in enumerate(columns):
        mask[row] = 0
        mask[row, column] = 1
    together = logits(model, ids, states, mask, left)
    for row, column in enumerate(columns):
        alone = logits(model, ids[row : row + 1, column], states[row : row + 1])
        close(together[row : row + 1, column], alone)


def test_padding_under_a_4d_mask(make_decoder, words, image_states):
    """A mask made by the caller, as for packed texts, counts as well as a 2D one."""
    model = make_decoder()
    put_in_blip(model, "pgnn", {"degree": "mean"}, join="replace")
    ids, states = words(), image_states()
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    allowed = torch.ones(7, 7, dtype=torch.bool).tril() & mask[:, None, None].bool()
    added = torch.zeros(2, 1, 7, 7).masked_fill(~allowed, torch.finfo(torch.float32).min)
    rows = mask.bool()
    close(logits(model, ids, states, added)[rows], logits(model, ids, states, mask)[rows])


@pytest.mark.parametrize("gnn", ["pgnn", "appnp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_right_padding(family, gnn):
    model, batch = put(family, gnn, join="replace"), FAMILIES[family].batch(n=6)
    batch["attention_mask"][1, -2:] = 0
    width = batch["input_ids"].shape[1]
    alone = {k: v[1:] if len(v) == 2 else v[len(v) // 2 :] for k, v in batch.items()}
    for k in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if k in alone:
            alone[k] = alone[k][:, : width - 2]
    got, want = run(model, batch)[1:], run(model, alone)
    close(got[:, : want.shape[1]], want)


@pytest.mark.parametrize("gnn", ["pgnn", "appnp"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_left_padding(family, gnn):
    model, batch = put(family, gnn, join="replace"), FAMILIES[family].batch(n=6)
    batch["attention_mask"][1, :2] = 0
    batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    close(run(model, batch)[1:, 2:], run(model, {k: v[1:, 2:] for k, v in batch.items()}))


def seen(kind: str, n: int = 8) -> torch.Tensor:
    """Which tokens see which, bool ``(n, n)``."""
    query, value = torch.arange(n)[:, None], torch.arange(n)
    return {
        "prefix": (value <= query) | (value < 3),
        "blocks": value // 3 <= query // 3,
        "an image in a text": (value <= query) | ((value >= 2) & (value < 5) & (query >= 2)),
        "sliding window": (value <= query) & (value > query - 3),
        "packed texts": (value <= query) & (value // 3 == query // 3),
        "packed prefixes": (value // 4 == query // 4) & ((value <= query) | (value % 4 < 2)),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["prefix", "blocks", "an image in a text", "sliding window", "packed texts", "packed prefixes"]
)
@pytest.mark.parametrize(
    "gnn, args", [*STEPS, ("gcn", {"normalize": True}), ("pgnn", {"degree": "mean"})], ids=str
)
def test_adapters_show_a_token_nothing_that_its_mask_hides(kind, gnn, args):
    """A changed token changes logits where the mask lets it, perhaps over others, and nowhere else.

    In a sliding window that is further than in the plain model: degrees are sums over the window's queries,
    and each of these has a window of its own. Modules that say they are not causal change nothing.
    """
    ids, window = FAMILIES["llama"].batch(b=1, n=8)["input_ids"], seen(kind)
    mask = torch.zeros(1, 1, 8, 8).masked_fill(~window, torch.finfo(torch.float32).min)
    model = put("llama", gnn, join="replace", **args)
    for layer in model.get_base_model().model.layers:
        layer.self_attn.is_causal = False

    def changes(k: int) -> torch.Tensor:
        other = ids.clone()
        other[0, k] = 5 if ids[0, k] != 5 else 6
        one, two = (run(model, {"input_ids": x, "attention_mask": mask}) for x in (ids, other))
        return ((one - two).abs().amax(-1) > 1e-5)[0]

    adapted = torch.stack([changes(k) for k in range(8)], 1)
    may_see = torch.linalg.matrix_power(window.double(), 8) > 0
    assert not may_see.all() and not (adapted & ~may_see).any() and (adapted | ~window).all()
    if kind != "sliding window":
        assert torch.equal(adapted, may_see)


@pytest.mark.parametrize("gnn, args", [*STEPS, ("pgnn", {"degree": "mean"})], ids=str)
@pytest.mark.parametrize("kind", ["packed texts", "packed prefixes"])
def test_packed_texts_give_what_each_gives_alone(kind, gnn, args):
    ids = FAMILIES["llama"].batch(b=1, n=8)["input_ids"]
    model = put("llama", gnn, join="replace", **args)

    def logits_of(part: slice) -> torch.Tensor:
        hidden = ~seen(kind)[part, part]
        mask = torch.zeros(1, 1, *hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
        places = torch.arange(8)[None, part]
        return run(model, {"input_ids": ids[:, part], "attention_mask": mask, "position_ids": places})

    size = 3 if kind == "packed texts" else 4
    together = logits_of(slice(0, 8))
    for start in range(0, 8, size):
        part = slice(start, min(8, start + size))
        close(together[:, part], logits_of(part))


@pytest.mark.parametrize(
    "gnn, args", [*STEPS, ("gcn", {"normalize": True}), ("pgnn", {"degree": "mean"})], ids=str
)
def test_packed_texts_do_not_meet_in_the_image(gnn, args, make_decoder, words, image_states):
    """Both look at it: degrees there are sums over the queries of one text."""
    model = make_decoder()
    put_in_blip(model, gnn, args, join="replace")
    ids, states = words(n=8), image_states()
    other = torch.cat([words(n=8, seed=3)[:, :4], ids[:, 4:]], 1)
    place = torch.arange(8)
    visible = (place <= place[:, None]) & (place // 4 == place[:, None] // 4)
    mask = torch.zeros(2, 1, 8, 8).masked_fill(~visible, torch.finfo(torch.float32).min)
    got, want = logits(model, other, states, mask), logits(model, ids, states, mask)
    close(got[:, 4:], want[:, 4:])
    assert differ(got[:, :4], want[:, :4])


def test_a_mask_without_an_order_is_refused():
    """Its first token sees the last, which does not see it."""
    hidden = torch.ones(4, 4, dtype=torch.bool).tril().logical_not()
    hidden[0, 3], hidden[3, 0] = False, True
    mask = torch.zeros(1, 1, 4, 4).masked_fill(hidden, torch.finfo(torch.float32).min)
    with pytest.raises(UserError, match="layers.0.self_attn: its mask shows a query a later one") as caught:
        run(put("llama"), {"input_ids": FAMILIES["llama"].batch(1, 4)["input_ids"], "attention_mask": mask})
    assert "exclude=" in str(caught.value)
