"""Which parameters an optimiser moves how far, and that the adapters can learn at all."""

import math

import pytest
import torch
from peft import get_peft_model
from torch import nn

from adapters import Scalar
from adapters.peft import learned_scalars, optimizer_groups, trainer_optimizer
from tests.adapters.peft.blip_decoder import JOINS, SCHEME_ARGS, adapters_of
from tests.adapters.peft.helpers import config
from tests.adapters.peft.test_training import model_of, trainer
from tests.adapters.peft_models import FAMILIES


@pytest.mark.parametrize("join", JOINS)
def test_scalars_and_biases_are_never_decayed(join, make_decoder):
    model = get_peft_model(make_decoder(), config(learn_mu=True, join=join))
    matrices, others = groups = optimizer_groups(model, 1e-3, 0.05)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert [group["lr"] for group in groups] == [1e-3, 1e-3]
    names = {
        id(p): name.removesuffix(".stored").split(".")[-1]
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert [{names[id(p)] for p in group["params"]} for group in groups] == [
        {"weight"},
        {"bias", "p_logit", "log_mu"} | ({"share"} if join == "blend" else set()),
    ]
    p, matrix = others["params"][0], matrices["params"][0]
    before = p.detach().clone(), matrix.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(groups).step()
    assert torch.equal(p, before[0]) and not torch.equal(matrix, before[1])


def test_a_new_layer_of_adapters_can_learn(make_decoder, words, image_states):
    """Under blend, the share and what lies next to the zero W_up get a gradient from the start."""
    model = get_peft_model(make_decoder(), config(init_weights=True)).train()
    output = model(input_ids=words(), encoder_hidden_states=image_states()).logits
    nn.functional.cross_entropy(output.flatten(0, 1), words(seed=1).flatten()).backward()
    adapters = [adapter for adapter in adapters_of(model).values() if hasattr(adapter, "join")]
    assert len(adapters) == 4
    for adapter in adapters:
        assert adapter.join.share.stored.grad.abs() > 0
        assert adapter.join.bottleneck.up.weight.grad.abs().sum() > 0


def test_a_plain_optimiser_moves_single_numbers_far_enough():
    """And PEFT's users, FSDP and ``.half()`` need know nothing of them."""
    model = get_peft_model(FAMILIES["llama"].make(), config(learn_mu=True, init_weights=True)).half()
    scalars = {name: p for name, p in model.named_parameters() if name.endswith(".stored")}
    assert len(scalars) == 6 and {(p.dtype, p.shape) for p in scalars.values()} == {(torch.float32, (1,))}
    model, before = model.float(), learned_scalars(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = learned_scalars(model)
    assert all(after[name] == pytest.approx(-0.01) for name in after if name.endswith("share"))
    assert all(math.log(after[x] / before[x]) == pytest.approx(-0.01, rel=0.02) for x in after if "mu" in x)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_single_number_moves_as_one_with_ten_times_the_rate(kind):
    """A derivative by what is stored, ten times as large, would dominate the norm that clipping sees."""
    scalar, plain = Scalar(0.3), nn.Parameter(torch.tensor(0.3))
    optimisers = kind(scalar.parameters(), lr=1e-2), kind([plain], lr=10 * 1e-2)
    for _ in range(20):
        for value, optimiser in zip((scalar(), plain), optimisers):
            optimiser.zero_grad()
            (value.sin() + value**2).backward()
            optimiser.step()
        torch.testing.assert_close(scalar.stored.grad[0], plain.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scalar(), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("join", JOINS)
def test_the_four_schemes_have_equal_parameter_counts(join, make_decoder):
    counts = {}
    for gnn in SCHEME_ARGS:
        model = get_peft_model(make_decoder(), config(gnn, join=join, reduction=8))
        counts[gnn] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        scalars = [
            p.numel()
            for adapter in adapters_of(model).values()
            if hasattr(adapter, "scheme")
            for p in adapter.scheme.parameters()
        ]
        assert scalars == ([1] * 4 if gnn == "pgnn" else [])
    assert counts["gcn"] == counts["appnp"] == counts["gcnii"] == counts["pgnn"] - 4
    bottleneck = 2 * 16 * 2 + 2 + 16  # width 16, reduction 8
    extra = {"replace": 0, "gated": 16 * 2 + 2, "blend": 1}[join]
    assert counts["gcn"] == 2 * (3 * bottleneck + 2 * extra)


def test_trainer_uses_these_groups(tmp_path):
    one = trainer(model_of(), tmp_path, optimizer_cls_and_kwargs=trainer_optimizer)
    one.create_optimizer()
    assert [(g["lr"], g["weight_decay"]) for g in one.optimizer.param_groups] == [
        (2e-2, 0.1),
        (2e-2, 0.0),
    ]
    assert type(one.optimizer) is torch.optim.AdamW
