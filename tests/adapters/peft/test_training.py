"""Training graph adapters: which parameters an optimiser moves how far; transformers' Trainer; LoRA beside
them."""

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from attngraph.adapters import GraphAdapterConfig, Scalar
from attngraph.adapters.peft import optimizer_groups, trainer_optimizer
from tests.adapters.peft.blip_decoder import JOINS
from tests.adapters.peft.helpers import config, run
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.zoo import TEXT, far_from_zero, words

LORA = {
    "gpt2": ["c_attn", "attn.c_proj"],
    "llama": ["q_proj", "o_proj", "down_proj"],
}


def learned(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


# ---- optimisers ---------------------------------------------------------------------------------------


def test_scalars_and_biases_are_never_decayed(make_decoder):
    model = get_peft_model(make_decoder(), config(learn_mu=True))
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
        {"bias", "p_logit", "log_mu", "share"},
    ]
    p, matrix = others["params"][0], matrices["params"][0]
    before = p.detach().clone(), matrix.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(groups).step()
    assert torch.equal(p, before[0]) and not torch.equal(matrix, before[1])


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
    for gnn in ("gcn", "appnp", "gcnii", "pgnn"):
        model = get_peft_model(make_decoder(), config(gnn, join=join, reduction=8))
        counts[gnn] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counts["gcn"] == counts["appnp"] == counts["gcnii"] == counts["pgnn"] - 4
    bottleneck = 2 * 16 * 2 + 2 + 16  # width 16, reduction 8
    extra = {"replace": 0, "gated": 16 * 2 + 2, "blend": 1}[join]
    assert counts["gcn"] == 2 * (3 * bottleneck + 2 * extra)


# ---- Trainer ------------------------------------------------------------------------------------------


class Counting(Dataset):
    """Sequences that count upwards: easy to learn."""

    def __len__(self):
        return 16

    def __getitem__(self, k):
        ids = torch.arange(3 + k, 11 + k)
        return {"input_ids": ids, "labels": ids}


def trainer(model, folder, **more) -> Trainer:
    args = TrainingArguments(
        str(folder),
        max_steps=12,
        save_steps=6,
        per_device_train_batch_size=8,
        learning_rate=2e-2,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        seed=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
    )
    more = {name: value(model, args) for name, value in more.items()}
    return Trainer(model, args, train_dataset=Counting(), **more)


@pytest.mark.parametrize(
    "lora, more",
    [(True, {}), (False, {"optimizer_cls_and_kwargs": trainer_optimizer})],
    ids=["with LoRA", "own groups"],
)
def test_trainer_learns_and_resumes_exactly(lora, more, tmp_path):
    def model_of(seed):
        torch.manual_seed(seed)
        model, name = FAMILIES["llama"].make(), "default"
        if lora:
            model, name = get_peft_model(model, lora_config("llama")), "graph"
        return get_peft_model(model, GraphAdapterConfig(reduction=2), name)

    model = model_of(0)
    base = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    whole = trainer(model, tmp_path / "whole", **more)
    whole.train()
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    if more:
        groups = [(group["lr"], group["weight_decay"]) for group in whole.optimizer.optimizer.param_groups]
        assert groups == [(2e-2, 0.1), (2e-2, 0.0)]
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if name in base)
    again, checkpoint = model_of(5), tmp_path / "whole" / "checkpoint-6"
    trainer(again, tmp_path / "again", **more).train(resume_from_checkpoint=str(checkpoint))
    assert learned(again).keys() == learned(model).keys()
    assert all(torch.equal(p, learned(again)[name]) for name, p in learned(model).items())
    assert {path.name for path in checkpoint.rglob("adapter_model*")} == {"adapter_model.safetensors"}


def test_a_head_of_its_own(tmp_path):
    """``modules_to_save`` trains and saves a classification head along with the adapters."""

    def base():
        return far_from_zero(hf.BertForSequenceClassification(hf.BertConfig(**TEXT, num_labels=3)), 0)

    ids = words()
    model = get_peft_model(base(), GraphAdapterConfig(task_type="SEQ_CLS", init_weights=False)).eval()
    assert any("classifier" in name for name in learned(model))
    with torch.no_grad():
        model.get_base_model().classifier.modules_to_save["default"].weight.normal_()
        want = model(input_ids=ids).logits
        model.save_pretrained(tmp_path)
        assert torch.equal(PeftModel.from_pretrained(base(), tmp_path)(input_ids=ids).logits, want)
    model.add_adapter("other", GraphAdapterConfig())  # to which PEFT adds all names of heads
    assert "other" in model.get_base_model().classifier.modules_to_save


# ---- with LoRA ----------------------------------------------------------------------------------------


def lora_config(family):
    return LoraConfig(r=2, target_modules=LORA[family], init_lora_weights=False)


@pytest.mark.parametrize("family, way", [("gpt2", "on top"), ("llama", "injected")])
def test_both_run_learn_are_saved_and_switched_off_together(family, way, tmp_path):
    base, only_lora, batch = FAMILIES[family].make(), FAMILIES[family].make(), FAMILIES[family].batch()
    torch.manual_seed(0)
    only_lora = get_peft_model(only_lora, lora_config(family)).eval()
    model = FAMILIES[family].make()
    torch.manual_seed(0)
    if way == "on top":
        model = get_peft_model(model, lora_config(family))
    else:
        inject_adapter_in_model(lora_config(family), model)
    model = get_peft_model(model, config(p=1.25), "graph").eval()
    want, lora, got = run(base, batch), run(only_lora, batch), run(model, batch)
    assert not torch.allclose(got, lora, atol=0.05) and not torch.allclose(lora, want, atol=0.05)
    model.base_model.set_adapter([])  # no graph adapter
    torch.testing.assert_close(run(model, batch), lora)
    model.set_adapter("graph")
    with model.disable_adapter():
        assert torch.equal(run(model, batch), want)
    assert torch.equal(run(model, batch), got)
    for mark in (".gnn_adapter.graph.", ".lora_A.default."):
        assert any(mark in name for name in learned(model))
    assert all(".gnn_adapter." in name or ".lora_" in name for name in learned(model))
    if way == "on top":  # one call saves both, as two ordinary checkpoints; LoRA's can be used without us
        model.save_pretrained(tmp_path)
        alone = PeftModel.from_pretrained(FAMILIES[family].make(), tmp_path)
        torch.testing.assert_close(run(alone, batch), lora)
        again = PeftModel.from_pretrained(alone, tmp_path / "graph", adapter_name="graph")
        assert torch.equal(run(again, batch), got)
    model(**batch).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert torch.equal(run(model.unload(), batch), want)
