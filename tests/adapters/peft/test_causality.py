"""What an adapted model must not see: later tokens, and padding."""

import pytest
import torch

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
    for k in ("input_ids", "attention_mask", "mm_token_type_ids"):
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
