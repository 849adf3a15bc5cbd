"""Half precision, autocast, gradient checkpointing; models made in inference mode, quantised or offloaded."""

import warnings
from copy import deepcopy

import accelerate
import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from attngraph.adapters.peft import adapter_effects, load_adapter, optimizer_groups
from attngraph.errors import UserError
from tests.adapters.peft.helpers import close, config, put, run
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.quantised import PackedLinear, Scaled, quantise


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("family", ["llama", "blip"])
def test_gradient_checkpointing_with_two_batches(family):
    """Layers that run again in the backward pass see the masks of their own batch."""
    batches = [FAMILIES[family].batch(seed=seed) for seed in (0, 1)]
    batches[0]["attention_mask"][0, -2:] = 0

    def grads(checkpointing):
        model = put(family, join="replace").train()
        torch.manual_seed(1)  # dropout
        if checkpointing:
            model.gradient_checkpointing_enable()
        sum(model(**batch).logits.square().mean() for batch in batches).backward()
        return [p.grad for p in trainable(model)]

    for got, want in zip(grads(True), grads(False), strict=True):
        close(got, want, 1e-4)


def test_p_learns_in_a_bfloat16_model(make_decoder, words, image_states):
    """Near p = 1.25 a step of bfloat16 is larger than a step of the optimiser."""
    settings = config(p=1.25, init_weights=True)
    model = get_peft_model(make_decoder().bfloat16(), settings, autocast_adapter_dtype=False).train()
    scalars = {name: p for name, p in model.named_parameters() if name.endswith("stored")}
    assert len(scalars) == 8 and all(p.dtype == torch.float32 for p in scalars.values())
    assert any(p.dtype == torch.bfloat16 for p in trainable(model))
    for name, parameter in scalars.items():
        if name.endswith("share.stored"):
            nn.init.constant_(parameter, 0.05)
    before = {name: p.detach().clone() for name, p in scalars.items()}
    optimizer = torch.optim.AdamW(optimizer_groups(model, 1e-5, 0.0))
    for seed in range(5):
        optimizer.zero_grad()
        ids = words(seed=seed)
        model(input_ids=ids, encoder_hidden_states=image_states().bfloat16(), labels=ids).loss.backward()
        optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in scalars.items())


def test_attentions_without_gradients_are_told():
    """A loss on them would train nothing; with the sparse backend they carry gradients."""
    batch = FAMILIES["bert"].batch()
    for backend in ("dense", "sparse"):
        model = put("bert", backend=backend).train()
        model.get_input_embeddings().weight.requires_grad_(True)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            attentions = model(**batch, output_attentions=True).attentions
        said = any("carry no gradient" in str(warning.message) for warning in told)
        assert said == (backend == "dense") and attentions[-1].requires_grad == (backend == "sparse")


def dynamic(linear):
    """torch's layer, whose weight is a method."""
    whole = nn.Sequential(linear)
    return torch.ao.quantization.quantize_dynamic(whole, {nn.Linear}, torch.qint8)[0]


def dequantised(module):
    if callable(getattr(module, "weight", None)):
        return module.weight().dequantize()
    return module.dequantized() if hasattr(module, "scale") else dequantize_module_weight(deepcopy(module))


@pytest.mark.parametrize("kind, family", [(Scaled, "bert"), (PackedLinear, "llama"), (dynamic, "bert")])
def test_a_quantised_base(kind, family, tmp_path):
    """Against adapters on the numbers that the quantised weights stand for; and saved, and loaded again."""
    model, plain = FAMILIES[family].make(), FAMILIES[family].make()
    quantise(model, kind)
    for name, module in plain.named_modules():
        other = model.get_submodule(name)
        if isinstance(module, nn.Linear) and type(other) is not nn.Linear:
            module.weight.data.copy_(dequantised(other))
    batch = FAMILIES[family].batch()
    models = []
    for base in (model, plain):
        torch.manual_seed(0)
        models.append(get_peft_model(base, config(join="replace", rescale=True)).eval())
    exact = kind is not dynamic  # whose activations are in eight bits
    close(run(models[0], batch), run(models[1], batch), 2e-5 if exact else 0.1)
    cosines = [[x.whole_cosine for x in adapter_effects(adapted, batch).values()] for adapted in models]
    assert cosines[0] == pytest.approx(cosines[1], rel=1e-4 if exact else 0.1)
    models[0].save_pretrained(tmp_path)
    other = FAMILIES[family].make()
    quantise(other, kind)
    assert torch.equal(run(load_adapter(other, tmp_path).eval(), batch), run(models[0], batch))
    if kind is dynamic:
        with pytest.raises(UserError, match="quantised by torch.ao.quantization, and no gradient passes"):
            models[0].train()(**batch)
        assert all("weight" not in vars(module) for module in models[0].unload().modules())
        return
    models[0].train()(**batch).logits.square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in trainable(models[0]))


def test_an_offloaded_base(tmp_path):
    """accelerate keeps its weights on meta, and brings each layer's when it runs."""
    model, batch = FAMILIES["gpt2"].make(), FAMILIES["gpt2"].batch()
    accelerate.disk_offload(model, tmp_path / "weights", execution_device=torch.device("cpu"))
    plain = put("gpt2", join="replace", rescale=True)
    plain.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(0)
    adapted = get_peft_model(model, config(join="replace", rescale=True)).eval()
    want = run(plain, batch)
    close(run(adapted, batch), want)
    base = adapted.unload()
    assert all(p.is_meta for p in base.parameters())
    close(run(PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), batch), want)
