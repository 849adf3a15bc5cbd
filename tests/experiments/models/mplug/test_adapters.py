"""Graph adapters in a tiny mPLUG, with weights as if they were trained: in its decoder, or in all that reads
text."""

from dataclasses import replace

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from attngraph.adapters import GraphAdapterConfig
from tests.adapters.peft.blip_decoder import JOINS, VARIANTS, adapters_of
from tests.adapters.peft.helpers import differ
from tests.experiments.models.mplug.inputs import inputs
from tests.experiments.models.test_contract import check_ranking, check_words
from tests.experiments.models.writers import SAMPLES, load
from tests.experiments.tiny import mplug
from tests.pairwise import pairwise_params

EVERYWHERE = r"(text_encoder|fusion_encoder|text_decoder)\..*"
WHERE = {"decoder": {}, "everywhere": {"target_modules": EVERYWHERE}}
CASES = pairwise_params(variant=VARIANTS[::2], join=JOINS, where=list(WHERE), asks=[True, False])
ALL = ("self", "cross", "ffn")


def put(model, variant, join: str, where: str = "decoder", **more) -> PeftModel:
    gnn, args = variant
    torch.manual_seed(0)
    settings = dict(gnn=gnn, **args, join=join, reduction=4, init_weights=False) | WHERE[where] | more
    return get_peft_model(model, GraphAdapterConfig(**settings)).eval()


def eager():
    model = mplug()
    model.set_attn_implementation("eager")
    return model


@torch.no_grad()
def run(model) -> Tensor:
    return model(**inputs()).logits


def test_places():
    """By default where the slides have them: in the decoder; elsewhere by target_modules."""
    decoder = "text_decoder.bert.encoder.layer"
    parts = {"self": "attention.output.dense", "cross": "crossattention.output.dense", "ffn": "output.dense"}
    for positions in (("self",), ("cross",), ALL):
        model = put(mplug(), VARIANTS[0], "replace", positions=positions)
        wanted = {f"{decoder}.{k}.{parts[position]}" for k in range(2) for position in positions}
        assert set(adapters_of(model)) == wanted, positions
    names = adapters_of(put(mplug(), VARIANTS[0], "replace", "everywhere", positions=ALL))
    assert len(names) == 2 * 3 + 2 * 2 + 4 * 3 - 1, "a joined layer has no cross-attention"
    assert not any(name.startswith("vision_model") for name in names)


@pytest.mark.parametrize("variant, join, where, asks", CASES)
def test_later_words_padding_and_the_cache_change_nothing(variant, join, where, asks):
    family = load("mplug")
    put(family.model, variant, join, where)
    samples = SAMPLES if asks else [replace(sample, prompt="") for sample in SAMPLES]
    check_words(family, samples)
    check_ranking(family, samples[:2], ("a", "red ball a", "star star"), 3)


def test_switched_off_saved_and_removed_it_is_the_model(tmp_path):
    want, model = run(eager()), put(eager(), VARIANTS[3], "gated", "everywhere", positions=ALL)
    got = run(model)
    assert differ(got, want)
    with model.disable_adapter():
        assert torch.equal(run(model), want)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(PeftModel.from_pretrained(eager(), tmp_path).eval()), got)
    assert torch.equal(run(model.unload()), want)
