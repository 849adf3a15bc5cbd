"""Training graph adapters with transformers' Trainer, resuming it, and LoRA beside them."""

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from adapters import GraphAdapterConfig
from adapters.peft import trainer_optimizer
from attngraph.errors import UserError
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.zoo import TEXT, far_from_zero, words

LORA = {
    "gpt2": ["c_attn", "attn.c_proj"],
    "llama": ["q_proj", "o_proj", "down_proj"],
    "t5": ["q", "o", "wo"],
    "blip": ["query", "attention.output.dense"],
}
with_lora = pytest.mark.parametrize("family", LORA)


class Counting(Dataset):
    """Sequences that count upwards: easy to learn."""

    def __len__(self):
        return 16

    def __getitem__(self, k):
        ids = torch.arange(3 + k, 11 + k)
        return {"input_ids": ids, "labels": ids}


def model_of(seed=0, lora=False, **settings) -> PeftModel:
    model = FAMILIES["llama"].make()
    torch.manual_seed(seed)
    name = "default"
    if lora:
        model, name = get_peft_model(model, lora_config("llama")), "graph"
    return get_peft_model(model, GraphAdapterConfig(reduction=2, **settings), name)


def lora_config(family):
    return LoraConfig(r=2, target_modules=LORA[family], init_lora_weights=False)


def trainer(model, folder, **more) -> Trainer:
    args = TrainingArguments(
        str(folder),
        max_steps=24,
        save_steps=12,
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


def learned(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("lora", [False, True], ids=["alone", "with LoRA"])
@pytest.mark.parametrize(
    "more", [{}, {"optimizer_cls_and_kwargs": trainer_optimizer}], ids=["", "own groups"]
)
def test_trainer_learns_and_resumes_exactly(lora, more, tmp_path):
    model = model_of(lora=lora)
    base = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    whole = trainer(model, tmp_path / "whole", **more)
    whole.train()
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if name in base)
    again = model_of(seed=5, lora=lora)
    trainer(again, tmp_path / "again", **more).train(
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-12")
    )
    assert learned(again).keys() == learned(model).keys()
    assert all(torch.equal(p, learned(again)[name]) for name, p in learned(model).items())
    names = {path.name for path in (tmp_path / "whole" / "checkpoint-12").rglob("adapter_model*")}
    assert names == {"adapter_model.safetensors"}


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


# ---- with LoRA ----------------------------------------------------------------------------------------


def both(family, way="on top"):
    """A model with LoRA, on W_o too, and graph adapters."""
    model = FAMILIES[family].make()
    torch.manual_seed(0)
    if way == "on top":
        model = get_peft_model(model, lora_config(family))
    else:
        inject_adapter_in_model(lora_config(family), model)
    return get_peft_model(model, GraphAdapterConfig(p=1.25, reduction=4, init_weights=False), "graph").eval()


def run(model, family):
    with torch.no_grad():
        return model(**FAMILIES[family].batch()).logits


@pytest.mark.parametrize("way", ["on top", "injected"])
@with_lora
def test_both_run_learn_and_are_switched_off_together(family, way):
    base, only_lora = FAMILIES[family].make(), FAMILIES[family].make()
    torch.manual_seed(0)
    only_lora = get_peft_model(only_lora, lora_config(family)).eval()
    model = both(family, way)
    want, lora, got = run(base, family), run(only_lora, family), run(model, family)
    assert not torch.allclose(got, lora, atol=0.05) and not torch.allclose(lora, want, atol=0.05)
    model.base_model.set_adapter([])  # no graph adapter
    torch.testing.assert_close(run(model, family), lora)
    model.set_adapter("graph")
    with model.disable_adapter():
        assert torch.equal(run(model, family), want)
    assert torch.equal(run(model, family), got)
    learn = learned(model)
    assert any(".gnn_adapter.graph." in name for name in learn) and any(
        ".lora_A.default." in name for name in learn
    )
    assert all(".gnn_adapter." in name or ".lora_" in name for name in learn)
    model(**FAMILIES[family].batch()).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert torch.equal(run(model.unload(), family), want)


@with_lora
def test_both_are_saved_together(family, tmp_path):
    """One call saves both, as two ordinary checkpoints; LoRA's can be used without us."""
    model = both(family)
    model.save_pretrained(tmp_path)
    with_lora = PeftModel.from_pretrained(FAMILIES[family].make(), tmp_path)
    again = PeftModel.from_pretrained(with_lora, tmp_path / "graph", adapter_name="graph")
    assert torch.equal(run(again, family), run(model, family))
    alone = PeftModel.from_pretrained(FAMILIES[family].make(), tmp_path)
    model.base_model.set_adapter([])
    torch.testing.assert_close(run(alone, family), run(model, family))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_both_generate_with_a_cache(family):
    model, batch = both(family), FAMILIES[family].batch(n=4)
    batch.pop("decoder_input_ids", None)
    more = dict(num_beams=2, do_sample=False, max_new_tokens=5)
    assert torch.equal(model.generate(**batch, **more), model.generate(**batch, **more, use_cache=False))


def test_one_name_for_both_is_refused():
    model = get_peft_model(FAMILIES["llama"].make(), lora_config("llama"))
    with pytest.raises(UserError, match="'default' is taken by a LORA adapter in this model: give another"):
        get_peft_model(model, GraphAdapterConfig())


def test_deleting_the_lora_below_is_refused():
    with pytest.raises(UserError, match="'default' is a LORA adapter below the graph adapters"):
        both("llama").delete_adapter("default")
