"""Graph adapters in a tiny mPLUG, with weights as if they were trained: in its decoder, or in all that reads
text."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from adapters import GraphAdapterConfig
from adapters.peft.layer import GraphLayer
from experiments.models.mplug import MPlugForConditionalGeneration
from tests.adapters.peft.blip_decoder import JOINS, VARIANTS
from tests.adapters.peft.helpers import close, differ
from tests.experiments.models.mplug.inputs import ANSWERS, QUESTIONS, inputs
from tests.experiments.tiny import mplug
from tests.pairwise import pairwise_params

EVERYWHERE = r"(text_encoder|fusion_encoder|text_decoder)\..*"
WHERE = {"decoder": {}, "everywhere": {"target_modules": EVERYWHERE}}
CASES = pairwise_params(variant=VARIANTS[::2], join=JOINS, where=list(WHERE), asks=[True, False])


def put(variant, join: str, where: str = "decoder", **more) -> PeftModel:
    gnn, args = variant
    torch.manual_seed(0)
    settings = dict(gnn=gnn, **args, join=join, reduction=4, init_weights=False) | WHERE[where] | more
    return get_peft_model(plain(), GraphAdapterConfig(**settings)).eval()


def plain() -> MPlugForConditionalGeneration:
    model = mplug()
    model.set_attn_implementation("eager")
    return model


def adapted(model) -> list[str]:
    return [module.name for module in model.modules() if isinstance(module, GraphLayer)]


@torch.no_grad()
def run(model, given) -> Tensor:
    return model(**given).logits


def test_places():
    """By default where the slides have them: in the decoder; elsewhere by target_modules."""
    decoder = "text_decoder.bert.encoder.layer"
    parts = {"self": "attention.output.dense", "cross": "crossattention.output.dense", "ffn": "output.dense"}
    for positions in (("self",), ("cross",), ("self", "cross", "ffn")):
        model = put(VARIANTS[0], "replace", positions=positions)
        wanted = {f"{decoder}.{k}.{parts[position]}" for k in range(2) for position in positions}
        assert set(adapted(model)) == wanted, positions
    names = adapted(put(VARIANTS[0], "replace", "everywhere", positions=("self", "cross", "ffn")))
    assert len(names) == 2 * 3 + 2 * 2 + 4 * 3 - 1, "a joined layer has no cross-attention"
    assert not any(name.startswith("vision_model") for name in names)


@pytest.mark.parametrize("variant, join, where, asks", CASES)
def test_later_words_padding_and_the_cache_change_nothing(variant, join, where, asks):
    model, given = put(variant, join, where), inputs(asks)
    want = run(model, given)
    later_words(model, given, want)
    padding(model, given, want[1, :5], asks)
    cached(model.get_base_model(), given, want)


def later_words(model, given, want) -> None:
    for k in (1, 3):
        changed = ANSWERS.clone()
        changed[:, k:] = ANSWERS[:, k:].flip(0)
        other = {"decoder_input_ids": changed, "decoder_attention_mask": torch.ones_like(changed)}
        got = run(model, given | other)
        close(got[:, :k], want[:, :k], 1e-5)
        assert differ(got[:, k:], want[:, k:])


def padding(model, given, got, asks: bool) -> None:
    """The second question and answer are padded: alone, without padding, they give the same; and what stands
    at padding is nothing to anybody."""
    alone = {name: tensor[1:] for name, tensor in given.items()}
    for name in alone.keys() - {"pixel_values"}:
        alone[name] = alone[name][:, : 5 if name.startswith("decoder") else 3]
    close(got, run(model, alone)[0])
    if asks:
        garbled = QUESTIONS.masked_fill(given["attention_mask"] == 0, 7)
        assert torch.equal(run(model, given | {"input_ids": garbled})[1, :5], got)


@torch.no_grad()
def cached(model, given, want) -> None:
    ids, mask = given["decoder_input_ids"], given["decoder_attention_mask"]
    image = model.vision_model(given["pixel_values"]).last_hidden_state
    seen = model.looked_at(image, given.get("input_ids"), given.get("attention_mask"))
    cache, got = None, []
    for start, end in ((0, 2), (2, 3), (3, 6)):
        out = model.text_decoder(
            input_ids=ids[:, start:end],
            attention_mask=mask[:, :end],
            encoder_hidden_states=seen.last_hidden_state,
            encoder_attention_mask=seen.attention_mask,
            use_cache=True,
            cache=cache,
        )
        cache = out.cache
        got.append(out.logits)
    rows = mask.bool()
    close(torch.cat(got, 1)[rows], want[rows])


def test_switched_off_saved_and_removed_it_is_the_model(tmp_path):
    given, positions = inputs(), ("self", "cross", "ffn")
    want, model = run(plain(), given), put(VARIANTS[3], "gated", "everywhere", positions=positions)
    got = run(model, given)
    assert differ(got, want)
    with model.disable_adapter():
        assert torch.equal(run(model, given), want)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(PeftModel.from_pretrained(plain(), tmp_path).eval(), given), got)
    assert torch.equal(run(model.unload(), given), want)
