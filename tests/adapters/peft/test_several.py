"""Something more in a model that holds graph adapters: what learns, what runs, what is saved."""

import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model, inject_adapter_in_model

from adapters.peft import load_adapter
from adapters.peft.layer import GraphLayer
from attngraph import UserError
from tests.adapters.peft.helpers import close, config, differ, put, run
from tests.adapters.peft_models import FAMILIES

BATCH = FAMILIES["llama"].batch()


def lora(**settings) -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False, **settings)


def learning(model) -> dict[str, bool]:
    """Which adapters learn, by name; None where some of their parameters do."""
    found: dict[str, set[bool]] = {}
    for name, p in model.named_parameters():
        for mark in (".gnn_adapter.", ".lora_A.", ".lora_B."):
            if mark in name:
                found.setdefault(name.split(mark)[1].split(".")[0], set()).add(p.requires_grad)
    return {name: flags.pop() if len(flags) == 1 else None for name, flags in found.items()}


def active(model) -> set[str]:
    return {x for m in model.modules() if isinstance(m, GraphLayer) for x in m.active_adapters}


def add(model):
    model.add_adapter("second", config("appnp"))
    return model


SECOND = {
    "get_peft_model": (lambda model: get_peft_model(model, config("appnp"), "second"), "second", True),
    "get_peft_model on the base": (
        lambda model: get_peft_model(model.get_base_model(), config("appnp"), "second"),
        "second",
        True,
    ),
    "inject_adapter_in_model": (
        lambda model: inject_adapter_in_model(config("appnp"), model.get_base_model(), "second"),
        "second",
        True,
    ),
    "add_adapter": (add, "default", False),
    "LoRA": (lambda model: get_peft_model(model, lora(), "second"), "default", True),
    "LoRA on the base": (
        lambda model: get_peft_model(model.get_base_model(), lora(), "second"),
        "default",
        True,
    ),
}


@pytest.mark.parametrize("way", SECOND)
def test_the_first_ones_still_learn(way):
    put_in, runs, learns = SECOND[way]
    first = put("llama")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are trying to modify a model with PEFT for a second time")
        model = put_in(first)
    assert learning(model) == {"default": True, "second": learns} and active(model) == {runs}
    model.train()
    model(**BATCH).logits.square().mean().backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert got and all(f".{runs}." in name or ".lora_" in name for name in got)


@pytest.mark.parametrize("way", [name for name in SECOND if name != "inject_adapter_in_model"])
def test_unload_thaws_what_the_first_ones_froze(way):
    base = FAMILIES["llama"].make()
    base.model.embed_tokens.requires_grad_(False)
    before = [p.requires_grad for p in base.parameters()]
    first = get_peft_model(base, config())
    model = SECOND[way][0](first)
    owner = first if "LoRA" in way else model
    assert [p.requires_grad for p in owner.unload().parameters()] == before
    base.requires_grad_(False)  # nothing of the past is left
    assert not any(p.requires_grad for p in get_peft_model(base, config()).unload().parameters())


def test_what_lora_froze_stays_frozen():
    """As after LoRA's own ``unload``: nobody knows what learned before."""
    both = get_peft_model(get_peft_model(FAMILIES["llama"].make(), lora()), config(), "graph")
    assert not any(p.requires_grad for p in both.unload().parameters())


def test_both_orders_of_lora_are_saved_and_come_back(tmp_path):
    graph = put("llama")
    alone = run(graph, BATCH)
    over = get_peft_model(graph, lora(), "lora").eval()
    want = run(over, BATCH)
    assert differ(want, alone)
    over.save_pretrained(tmp_path)
    graph = PeftModel.from_pretrained(FAMILIES["llama"].make(), tmp_path).eval()
    assert torch.equal(run(graph, BATCH), alone)
    again = PeftModel.from_pretrained(graph, tmp_path / "lora", "lora").eval()
    close(run(again, BATCH), want, 1e-6)
    assert torch.equal(run(load_adapter(FAMILIES["llama"].make(), tmp_path).eval(), BATCH), alone)


@pytest.mark.parametrize("order", ["below", "over"])
def test_merging_lora_beside_graph_adapters_is_refused(order):
    if order == "below":
        model = get_peft_model(FAMILIES["llama"].make(), lora())
        get_peft_model(model, config(), "graph")
    else:
        model = get_peft_model(put("llama"), lora(), "lora")
    with pytest.raises(UserError, match=r"can't be merged into the weights: use unload\(\)"):
        model.merge_and_unload()


def frozen_lines(model) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(**BATCH)
    return [str(x.message) for x in caught if "the graph adapters learn nothing" in str(x.message)]


def test_prompt_tuning_over_graph_adapters_says_that_it_froze_them():
    """PEFT freezes all that is below a prompt."""
    graph = put("llama").train()
    assert not frozen_lines(graph)
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(graph, prompt, "prompt").train()
    assert learning(model) == {"default": False} and "set_requires_grad" in frozen_lines(model)[0]
    assert not frozen_lines(model.eval())
    graph.set_requires_grad("default")
    assert learning(model) == {"default": True} and not frozen_lines(model.train())
    graph.set_requires_grad("default", False)
    assert learning(model) == {"default": False} and not frozen_lines(model)


def test_adapters_frozen_on_purpose_are_not_complained_of(tmp_path):
    put("llama").save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(FAMILIES["llama"].make(), tmp_path).train()
    assert learning(model) == {"default": False} and not frozen_lines(model)
    assert not frozen_lines(get_peft_model(model, lora(), "lora").train())


@pytest.mark.parametrize("name", ["", "a.b", ".", "a/b", "..\\x", "keys", "pop"])
def test_a_name_that_no_module_can_have_is_refused(name):
    for put_in in (
        lambda: get_peft_model(FAMILIES["gpt2"].make(), config(), name),
        lambda: put("gpt2").add_adapter(name, config()),
    ):
        with pytest.raises(UserError, match="the adapter name .* cannot be the name of a module"):
            put_in()
