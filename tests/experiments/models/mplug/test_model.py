"""mPLUG as a model of transformers: its sizes and the mini-mPLUG's, what it writes, saving and loading."""

import pytest
import torch
from transformers import AutoConfig
from transformers.models.bert.modeling_bert import BertCrossAttention

from experiments.models.blip import grid_positions
from experiments.models.mplug import MPlugConfig, MPlugForConditionalGeneration
from experiments.models.mplug.modeling import FusionLayer, JoinedLayer, build_mini
from experiments.studies.pretrain import MINIS
from tests.attngraph.reading.zoo import far_from_zero
from tests.experiments.models.mplug.inputs import ANSWERS, inputs
from tests.experiments.tiny import mplug


@pytest.fixture(scope="module")
def model():
    """With weights that write different texts."""
    return far_from_zero(mplug(), 65)


def test_the_sizes_of_the_mini():
    tokenizer = MINIS["mini-mplug"].tokenizer()
    model = build_mini(tokenizer)
    assert 3e6 < model.num_parameters() <= 4e6, "in float16 that is within 8 MB"
    depths = [model.vision_model.encoder.layers, model.text_encoder.encoder.layer]
    assert [*map(len, depths), len(model.text_decoder.bert.encoder.layer)] == [4, 2, 4]
    kinds = [type(layer) for layer in model.fusion_encoder.layer]
    assert kinds == [FusionLayer, FusionLayer, FusionLayer, JoinedLayer]
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert model.config.vision_config.attention_dropout == 0
    positions = model.vision_model.embeddings.position_embedding.weight
    assert torch.equal(positions[1:], grid_positions(8, 128))
    asked, written = torch.full((2, 7), 5), torch.full((2, 4), 6)
    logits = model(torch.zeros(2, 3, 64, 64), asked, decoder_input_ids=written).logits
    assert logits.shape == (2, 4, len(tokenizer))


def test_the_cache_changes_no_text(model):
    """And keys of what the decoder looks at are computed once."""
    given, projected = inputs(), []
    with torch.no_grad():
        image = model.vision_model(given["pixel_values"]).last_hidden_state
        seen = model.looked_at(image, given["input_ids"], given["attention_mask"])
    crosses = [part for part in model.text_decoder.modules() if isinstance(part, BertCrossAttention)]
    options = dict(
        input_ids=ANSWERS[:, :1],
        encoder_hidden_states=seen.last_hidden_state,
        encoder_attention_mask=seen.attention_mask,
        num_beams=3,
        max_new_tokens=7,
        do_sample=False,
    )
    hook = crosses[0].key.register_forward_hook(lambda *_: projected.append(1))
    cached = model.text_decoder.generate(**options)
    hook.remove()
    assert len(projected) == 1
    assert torch.equal(cached, model.text_decoder.generate(**options, use_cache=False))


def test_it_comes_back_exactly(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MPlugConfig)
    loaded, told = MPlugForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()) and loaded.config.stride == model.config.stride
    state = loaded.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    head = loaded.text_decoder.get_output_embeddings().weight
    assert head is loaded.text_decoder.get_input_embeddings().weight
    with torch.no_grad():
        got, want = loaded.eval()(**inputs()).logits, model(**inputs()).logits
    assert torch.equal(got, want)


def test_gradient_checkpointing_changes_no_gradient(model):
    grads = []
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    for layer in model.vision_model.encoder.layers:
        layer.self_attn.dropout = 0.0
    model.train()
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        model(**inputs()).logits.square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-5)
