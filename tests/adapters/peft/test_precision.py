"""Half precision, autocast, gradient checkpointing; models made in inference mode, quantised or offloaded."""

import warnings
from copy import deepcopy
from functools import partial

import accelerate
import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from adapters.peft import adapter_effects, optimizer_groups
from attngraph.errors import UserError
from tests.adapters.peft import blip_decoder as blip
from tests.adapters.peft.blip_decoder import JOINS, SCHEME_ARGS, VARIANTS, logits
from tests.adapters.peft.helpers import close, config, families_and_schemes, put, run
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.quantised import PackedLinear, Scaled, quantise


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    "gnn, args, dtype",
    [*((*x, torch.bfloat16) for x in VARIANTS), *((*x, torch.float16) for x in SCHEME_ARGS.items())],
    ids=str,
)
def test_half_precision(gnn, args, dtype, make_decoder, words, image_states):
    model = blip.put(make_decoder(), gnn, args, join="replace")
    model.to(dtype)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, :4] = 0  # left padding: fully masked rows
    ids, states = words(), image_states().to(dtype)
    ids[1] = 7  # the same token everywhere: nodes that are nearly equal
    output = model(input_ids=ids, attention_mask=mask, encoder_hidden_states=states).logits
    assert output.dtype == dtype and output.isfinite().all()
    nn.functional.cross_entropy(output[mask.bool()].float(), ids[mask.bool()]).backward()
    assert all(p.grad.isfinite().all() for p in trainable(model))


@pytest.mark.parametrize("family, gnn", families_and_schemes(list(FAMILIES), ("llava", "t5")))
def test_half_precision_in_every_family(family, gnn):
    torch.manual_seed(0)
    model = get_peft_model(FAMILIES[family].make().bfloat16(), config(gnn, join="replace")).train()
    batch = {k: v.bfloat16() if v.is_floating_point() else v for k, v in FAMILIES[family].batch().items()}
    batch["input_ids"][1, -4:] = 7  # nodes that are nearly equal
    batch["attention_mask"][0, -2:] = 0
    output = model(**batch).logits
    assert output.dtype == torch.bfloat16 and output.isfinite().all()
    output.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_autocast_does_not_leave_traces(make_decoder, words, image_states):
    """The same numbers after a forward pass under autocast, in evaluation or in inference mode as before."""
    model, clean = (blip.put(make_decoder(), join="replace") for _ in range(2))
    ids, states = words(), image_states()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        rough = model(input_ids=ids, encoder_hidden_states=states).logits
    want = logits(clean, ids, states)
    assert torch.equal(logits(model, ids, states), want)
    assert nn.functional.cosine_similarity(rough.float().flatten(), want.flatten(), dim=0) > 0.95
    model(input_ids=ids, encoder_hidden_states=states).logits.sum().backward()
    assert all(p.grad is not None for p in trainable(model))


@pytest.mark.parametrize("family, join", [(family, JOINS[k % 3]) for k, family in enumerate(FAMILIES)])
def test_autocast_does_not_leave_traces_in_any_family(family, join):
    model, batch = put(family, join=join), FAMILIES[family].batch()
    want = run(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(**batch).logits
        rough.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert torch.nn.functional.cosine_similarity(rough.float().flatten(), want.flatten(), dim=0) > 0.99
    assert torch.equal(run(model, batch), want)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "blip"])
def test_gradient_checkpointing(family):
    def grads(checkpointing):
        model = put(family, join="replace").train()
        torch.manual_seed(1)  # dropout
        if checkpointing:
            model.gradient_checkpointing_enable()
        batch = FAMILIES[family].batch()
        model(**batch).logits.square().mean().backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    for got, want in zip(grads(True), grads(False), strict=True):
        close(got, want, 1e-4)


@pytest.mark.parametrize("positions", [("self", "cross", "ffn"), ("cross",)], ids="+".join)
def test_gradient_checkpointing_with_two_batches(positions, make_captioner, words):
    """Layers that run again in the backward pass see the masks of their own batch."""
    pixels, ids, other = torch.randn(2, 3, 8, 8), words(), words(seed=1)
    mask, ones = torch.ones_like(ids), torch.ones_like(ids)
    mask[0, 3:] = 0

    def grads(checkpointing):
        model = blip.put(make_captioner(), join="replace", positions=positions)
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable()
        model.train()
        batches = ((ids, mask), (other, ones))
        losses = [
            model(pixel_values=pixels, input_ids=x, attention_mask=m, labels=x).loss for x, m in batches
        ]
        sum(losses).backward()
        return [p.grad for p in trainable(model)]

    for got, want in zip(grads(True), grads(False), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("join", JOINS)
def test_p_learns_in_a_bfloat16_model(join, make_decoder, words, image_states):
    """Near p = 1.25 a step of bfloat16 is larger than a step of the optimiser."""
    model = get_peft_model(
        make_decoder().bfloat16(), config(p=1.25, join=join, init_weights=True), autocast_adapter_dtype=False
    ).train()
    scalars = {name: p for name, p in model.named_parameters() if name.endswith("stored")}
    assert len(scalars) == (8 if join == "blend" else 4)
    assert all(p.dtype == torch.float32 for p in scalars.values())
    assert any(p.dtype == torch.bfloat16 for p in trainable(model))
    for name, parameter in model.named_parameters():
        if name.endswith("share.stored"):
            nn.init.constant_(parameter, 0.05)
        elif join == "gated" and name.endswith("bottleneck.up.weight"):
            nn.init.normal_(parameter, std=0.3)  # it starts at zero, where p has no gradient
    before = {name: p.detach().clone() for name, p in scalars.items()}
    optimizer = torch.optim.AdamW(optimizer_groups(model, 1e-5, 0.0))
    for seed in range(5):
        optimizer.zero_grad()
        ids = words(seed=seed)
        model(input_ids=ids, encoder_hidden_states=image_states().bfloat16(), labels=ids).loss.backward()
        optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in scalars.items())


def test_a_model_made_in_inference_mode(make_decoder, words, image_states):
    want = logits(blip.put(make_decoder()), words(), image_states())
    with torch.inference_mode():
        model = blip.put(make_decoder())
        got = model(input_ids=words(), encoder_hidden_states=image_states(), use_cache=False).logits
    close(got, want)


@pytest.mark.parametrize("gnn", ["appnp", "pgnn"])
def test_a_mask_that_was_read_in_inference_mode_serves_training(gnn):
    model, ids = put("llama", gnn), torch.arange(3, 9)[None]
    mask = torch.full((6, 6), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.inference_mode():
        want = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.clone()
    got = model.train()(input_ids=ids, attention_mask=mask, use_cache=False).logits
    got.sum().backward()
    close(got.detach(), want)


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


def four_bits(linear):
    """bitsandbytes' layer."""
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(*linear.weight.T.shape, linear.bias is not None, compute_dtype=torch.float32)
    layer.load_state_dict(linear.state_dict())
    return layer.to("cpu")


def eight_bits(linear):
    """bitsandbytes' layer."""
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear8bitLt(*linear.weight.T.shape, linear.bias is not None, has_fp16_weights=False)
    layer.load_state_dict(linear.state_dict())
    return layer.to("cpu")


def dynamic(linear):
    """torch's layer, whose weight is a method."""
    whole = nn.Sequential(linear)
    return torch.ao.quantization.quantize_dynamic(whole, {nn.Linear}, torch.qint8)[0]


def dequantised(module):
    if callable(getattr(module, "weight", None)):
        return module.weight().dequantize()
    return module.dequantized() if hasattr(module, "scale") else dequantize_module_weight(deepcopy(module))


QUANTISED = {
    "int8": Scaled,
    "float8": partial(Scaled, dtype=torch.float8_e4m3fn),
    "packed": PackedLinear,
    "bnb-4": four_bits,
    "bnb-8": eight_bits,
    "dynamic": dynamic,
}
ROUGH = {"bnb-8", "dynamic"}  # with activations in eight bits


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_base(family, kind):
    """Against adapters on the numbers that the quantised weights stand for."""
    model, plain = FAMILIES[family].make(), FAMILIES[family].make()
    quantise(model, QUANTISED[kind])
    for name, module in plain.named_modules():
        other = model.get_submodule(name)
        if isinstance(module, nn.Linear) and type(other) is not nn.Linear:
            module.weight.data.copy_(dequantised(other))
    batch = FAMILIES[family].batch()
    models = []
    for base in (model, plain):
        torch.manual_seed(0)
        models.append(get_peft_model(base, config(join="replace", rescale=True)).eval())
    exact = kind not in ROUGH
    close(run(models[0], batch), run(models[1], batch), 2e-5 if exact else 0.1)
    cosines = [[x.whole_cosine for x in adapter_effects(adapted, batch).values()] for adapted in models]
    assert cosines[0] == pytest.approx(cosines[1], rel=1e-4 if exact else 0.1)
    if kind == "dynamic":
        with pytest.raises(UserError, match="quantised by torch.ao.quantization, and no gradient passes"):
            models[0].train()(**batch)
        assert all("weight" not in vars(module) for module in models[0].unload().modules())
        return
    models[0].train()(**batch).logits.square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in trainable(models[0]))


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_an_offloaded_base(family, where, tmp_path):
    """accelerate keeps its weights on meta, and brings each layer's when it runs."""
    model, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    if where == "memory":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, tmp_path / "weights", execution_device=torch.device("cpu"))
    plain = put(family, join="replace", rescale=True)
    plain.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(0)
    adapted = get_peft_model(model, config(join="replace", rescale=True)).eval()
    want = run(plain, batch)
    close(run(adapted, batch), want)
    base = adapted.unload()
    assert all(p.is_meta for p in base.parameters())
    close(run(PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), batch), want)
