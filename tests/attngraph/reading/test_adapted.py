"""Families that are watched, and others whose order in time is not plain to see, with adapters that change
what they compute: nothing leaks from later words, padding does not count, and decoding with a cache gives
what the whole text gives."""

import copy
from threading import Thread

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model

from attngraph import UserError, capture
from attngraph.adapters import GraphAdapterConfig
from attngraph.reading.families.notes import HOOKS
from tests.attngraph.reading.zoo import (
    FAMILIES,
    GQA,
    IMAGE,
    MLLAMA_VISION,
    VISION,
    far_from_zero,
    normal,
    sized,
    words,
)

DECODERS = ("bloom", "falcon", "falcon, alibi", "falcon, groups", "mpt", "gpt-neo", "xglm", "megatron-bert")
DECODERS += ("gemma4, shared keys",)
ENCODERS = ("mpnet", "roformer", "rembert", "deberta", "deberta-v2")
LED = ("rembert, a decoder", "roformer, a decoder")


CROSS_FIRST = {
    "idefics": lambda: hf.IdeficsForVisionText2Text(
        sized(
            "Idefics",
            additional_vocab_size=0,
            num_hidden_layers=4,
            cross_layer_interval=2,
            alpha_initializer="ones",
            vision_config=VISION | dict(embed_dim=12),
        )
    ),
    "mllama": lambda: hf.MllamaForConditionalGeneration(
        hf.MllamaConfig(
            vision_config=MLLAMA_VISION,
            image_token_index=IMAGE,
            text_config=GQA
            | dict(model_type="mllama_text_model", num_hidden_layers=4, cross_attention_layers=[0, 2]),
        )
    ),
}
"""Models with cross-attention before any self-attention of their decoder."""
UNSAID = {
    "idefics": CROSS_FIRST["idefics"],
    "nllb-moe": lambda: hf.NllbMoeForConditionalGeneration(
        sized("NllbMoe", num_experts=2, encoder_sparse_step=2, decoder_sparse_step=2)
    ),
    "pegasus-x": lambda: hf.PegasusXForConditionalGeneration(
        sized("PegasusX", block_size=4, num_global_tokens=2)
    ),
    "doge": lambda: hf.DogeForCausalLM(sized("Doge", num_attention_heads=4, num_key_value_heads=2)),
}
"""Decoders whose attention modules do not say that they are ordered in time, or where in a cache they are."""


def adapted(name: str, make=None, **settings):
    torch.manual_seed(0)
    config = GraphAdapterConfig(gnn="pgnn", reduction=4, join="replace", init_weights=False, **settings)
    model = FAMILIES[name].model() if make is None else far_from_zero(make[name](), 0)
    return get_peft_model(model, config).eval()


def seen_with(name: str, ids: torch.Tensor) -> dict:
    """An image, or a text that is translated, of which every word sees all."""
    b, n = ids.shape
    if name == "idefics":
        seen = torch.ones(b, n, 1, dtype=torch.long)
        return dict(input_ids=ids, pixel_values=normal(b, 1, 3, 8, 8), image_attention_mask=seen)
    if name == "mllama":
        tiles = torch.ones(b, 1, 2, dtype=torch.long)
        return dict(
            input_ids=ids,
            pixel_values=normal(b, 1, 2, 3, 8, 8),
            aspect_ratio_ids=torch.full((b, 1), 2),
            aspect_ratio_mask=tiles,
            cross_attention_mask=tiles[:, None].expand(-1, n, -1, -1),
        )
    if name == "doge":
        return dict(input_ids=ids)
    return dict(input_ids=words(8, seed=5)[:b], decoder_input_ids=ids)


def run(model, **given) -> torch.Tensor:
    with torch.no_grad():
        return model(**given)[0]


def decode(model, sizes, given: dict, grows) -> torch.Tensor:
    """The logits of a text that is given in parts, with the model's cache."""
    cache, got = None, []
    with torch.no_grad():
        for part in zip(*(given[key].split(sizes, 1) for key in grows)):
            output = model(**given | dict(zip(grows, part)), cache=cache, use_cache=True)
            cache = output.cache
            got.append(output.logits)
    return torch.cat(got, 1)


@pytest.mark.parametrize("name", [*DECODERS, *LED])
def test_later_words_change_nothing_and_a_cache_goes_on(name):
    model, ids, text = adapted(name), words(8), "input_ids"
    given = {}
    if name in LED:
        given, text = dict(pixel_values=FAMILIES[name].inputs()["pixel_values"]), "decoder_input_ids"
    want = run(model, **given, **{text: ids})
    with model.disable_adapter():
        assert (run(model, **given, **{text: ids}) - want).abs().max() > 0.1
    for k in (2, 5, 7):
        got = run(model, **given, **{text: torch.cat([ids[:, :k], ids[:, k:].flip(0)], 1)})
        torch.testing.assert_close(got[:, :k], want[:, :k], rtol=1e-5, atol=1e-5)
        assert (got[:, k:] - want[:, k:]).abs().max() > 0.1
    got = decode(model, [4, 1, 1, 2], given | {text: ids}, [text])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_padding_does_not_count(name):
    model, ids = adapted(name), words(7)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    together = run(model, input_ids=ids, attention_mask=mask)[1, :5]
    torch.testing.assert_close(together, run(model, input_ids=ids[1:, :5])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", CROSS_FIRST)
def test_order_and_padding_are_those_of_this_pass(name, cached):
    """Whatever ran before: nothing, the same, another batch with padding."""
    model, ids = adapted(name, CROSS_FIRST), words(7)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    want = run(model, **seen_with(name, ids), use_cache=cached)
    assert torch.equal(run(model, **seen_with(name, ids), use_cache=cached), want)
    other = torch.cat([ids[:, :5], words(7, seed=1)[:, 5:]], 1)
    got = run(model, **seen_with(name, other), use_cache=cached)
    torch.testing.assert_close(got[:, :5], want[:, :5], rtol=1e-5, atol=1e-5)
    assert (got[:, 5:] - want[:, 5:]).abs().max() > 0.1
    padded = run(model, **seen_with(name, other), attention_mask=mask, use_cache=cached)
    torch.testing.assert_close(padded[1, :5], want[1, :5], rtol=1e-5, atol=1e-5)
    assert torch.equal(run(model, **seen_with(name, ids), use_cache=cached), want)


@pytest.mark.parametrize("name", CROSS_FIRST)
def test_layers_that_run_again_keep_the_order_and_padding_of_their_pass(name):
    """Gradients of two passes, the second of which has padding, with and without checkpointing, where layers
    run again in another thread, as on a GPU."""
    grads = []
    for again in (False, True):
        model, ids = adapted(name, CROSS_FIRST).train(), words(7)
        if again:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable()
        mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
        passes = [model(**seen_with(name, ids), use_cache=False, attention_mask=x) for x in (None, mask)]
        backward = Thread(target=sum(output.logits.sum() for output in passes).backward)
        backward.start()
        backward.join()
        grads.append([x.grad for x in model.parameters() if x.grad is not None])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_queries_of_which_nothing_is_known_are_refused(monkeypatch):
    """A model of one's own with such layers has nothing that notes its mask."""
    monkeypatch.delitem(HOOKS, "MllamaCrossAttentionDecoderLayer")
    model = far_from_zero(CROSS_FIRST["mllama"](), 0)
    given = seen_with("mllama", words(5))
    with pytest.raises(
        UserError, match="layers.0.cross_attn attends to other states before any self-attention"
    ):
        capture(model, given)
    assert capture(model, given, layers=["*self_attn", "*.2.cross_attn"])


@pytest.mark.parametrize("name", UNSAID)
def test_decoders_that_do_not_say_so_are_ordered(name):
    """Word by word with a cache, in parts, and one word without a cache."""
    model, ids = adapted(name, UNSAID, steps=2), words(7)
    want = run(model, **seen_with(name, ids), use_cache=False)
    given = seen_with(name, ids)
    texts = ["image_attention_mask", "decoder_input_ids" if "decoder_input_ids" in given else "input_ids"]
    for sizes in ([1] * 7, [4, 1, 2]):
        got = decode(model, sizes, given, [key for key in texts if key in given])
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    alone = run(model, **seen_with(name, ids[:, :1]), use_cache=False)
    torch.testing.assert_close(alone, want[:, :1], rtol=1e-4, atol=1e-4)


def test_an_encoder_of_one_valid_token_is_in_no_order():
    """Classes that are encoders or decoders as they are configured, and whose attention says nothing."""
    mask = torch.tensor([[1, 0, 0]])
    for kind in ("RoFormer", "RemBert", "MegatronBert"):
        model = getattr(hf, f"{kind}Model")(sized(kind)).eval()
        graphs = capture(model, {"input_ids": 7 * mask, "attention_mask": mask})
        assert not any(graph.causal for graph in graphs.values()), kind


def test_lora_on_the_output_projection():
    """The metric is that of the merged model, also before merging and without LoRA's dropout; with graph
    adapters, which read the frozen projection, that of the frozen one."""
    model, inputs = FAMILIES["llama"].model(), {"input_ids": words(7)}
    frozen = capture(model, inputs)["model.layers.0.self_attn"].metric
    lora = LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False, lora_dropout=0.5)
    tuned = get_peft_model(model, lora).train()
    name = "base_model.model.model.layers.0.self_attn"
    found = capture(tuned, inputs)[name].metric
    assert all(module.training for module in tuned.modules())
    with torch.no_grad():
        both = get_peft_model(copy.deepcopy(tuned), GraphAdapterConfig(), adapter_name="graph")
        torch.testing.assert_close(next(iter(capture(both, inputs).values())).metric, frozen)
    tuned.merge_adapter()
    torch.testing.assert_close(found, capture(tuned, inputs)[name].metric)
    assert torch.dist(found, frozen) > 0.1 * frozen.norm()
