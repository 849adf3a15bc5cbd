"""One p for all layers, as an option."""

import torch

from adapters.blip import attach
from adapters.config import AdapterConfig
from experiments.models.mini_blip import build_model
from experiments.pretraining.tokenizer import build_tokenizer


def make(shared):
    torch.manual_seed(0)
    model = build_model(build_tokenizer(["a"]), width=16, vision_layers=1, text_layers=2, heads=2)
    return attach(model, AdapterConfig(gnn="pgnn", shared=shared))


def test_a_shared_p_is_one_parameter_and_survives_saving(tmp_path):
    one, many = make(True), make(False)
    assert many.count() - one.count() == 3  # 2 layers × (self, cross): four p's or one
    logits = {id(module.scheme.p_logit) for module in one.modules.values() if hasattr(module, "scheme")}
    assert len(logits) == 1
    for parameter in one.parameters():
        parameter.data += 0.1
    one.save(tmp_path / "a.safetensors")
    other = make(True)
    other.load(tmp_path / "a.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
