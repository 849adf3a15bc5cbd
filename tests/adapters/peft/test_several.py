"""Something more in a model that holds graph adapters: what learns, what runs, what is saved."""

import warnings
from itertools import product

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model, inject_adapter_in_model

from adapters.peft import load_adapter
from adapters.peft.layer import GraphLayer, OutputLayer
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


SECOND = {  # how another adapter goes in, which graph adapter runs then, and whether both learn
    "get_peft_model": (lambda x: get_peft_model(x, config("appnp"), "second"), "second", True),
    "inject_adapter_in_model": (
        lambda x: inject_adapter_in_model(config("appnp"), x.get_base_model(), "second"),
        "second",
        True,
    ),
    "add_adapter": (lambda x: x.add_adapter("second", config("appnp")) or x, "default", False),
    "LoRA": (lambda x: get_peft_model(x, lora(), "second"), "default", True),
    "LoRA on the base": (lambda x: get_peft_model(x.get_base_model(), lora(), "second"), "default", True),
}


@pytest.mark.parametrize("way", SECOND)
def test_the_first_ones_still_learn_and_what_they_froze_is_thawed(way):
    put_in, runs, learns = SECOND[way]
    base = FAMILIES["llama"].make()
    base.model.embed_tokens.requires_grad_(False)
    before = [p.requires_grad for p in base.parameters()]
    first = get_peft_model(base, config())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are trying to modify a model with PEFT for a second time")
        model = put_in(first)
    assert learning(model) == {"default": True, "second": learns}
    assert {x for m in model.modules() if isinstance(m, GraphLayer) for x in m.active_adapters} == {runs}
    model.train()
    model(**BATCH).logits.square().mean().backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert got and all(f".{runs}." in name or ".lora_" in name for name in got)
    if way != "inject_adapter_in_model":
        owner = first if "LoRA" in way else model
        assert [p.requires_grad for p in owner.unload().parameters()] == before
        base.requires_grad_(False)  # nothing of the past is left
        assert not any(p.requires_grad for p in get_peft_model(base, config()).unload().parameters())


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


def test_merging_is_refused():
    """Of graph adapters, and of LoRA below or over them. What LoRA froze stays frozen, as after its own
    ``unload``: nobody knows what learned before."""
    alone, below = put("llama"), get_peft_model(FAMILIES["llama"].make(), lora())
    both = get_peft_model(below, config(), "graph")
    over = get_peft_model(put("llama"), lora(), "lora")
    for merge in (alone.merge_adapter, *(x.merge_and_unload for x in (alone, below, over))):
        with pytest.raises(UserError, match=r"can't be merged into the weights: use unload\(\)"):
            merge()
    assert not any(p.requires_grad for p in both.unload().parameters())


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


LEFT_OUT = r"on model.layers.0.self_attn.o_proj uses the frozen weight and bypasses .* choose other"
TURNED = "on model.layers.0.self_attn.o_proj changes the attention output before the graph adapter gets it"
PLAIN = "No layers? types compatible"  # PEFT's own: around a plain nn.Linear only
ENDS = {  # settings of methods that don't train in both orders, and how these end
    "BOFT": (dict(boft_block_size=4), TURNED, TURNED),
    "FROD": ({}, LEFT_OUT, PLAIN),
    "GLORA": ({}, LEFT_OUT, LEFT_OUT),
    "HRA": ({}, LEFT_OUT, LEFT_OUT),
    "IA3 on inputs": (dict(feedforward_modules=["here"]), TURNED, TURNED),
    "MISS as bat": (dict(r=4, init_weights="bat"), LEFT_OUT, LEFT_OUT),
    "OFT": (dict(oft_block_size=4), TURNED, TURNED),
    "PVERA": ({}, None, PLAIN),
    "RANDLORA": ({}, None, PLAIN),
    "SHIRA": (dict(r=4), LEFT_OUT, "does not support nested base layers"),
    "SUPERTUNING": ({}, LEFT_OUT, "no attribute"),  # PEFT's own
    "TINYLORA": ({}, None, "no attribute"),
    "VERA": ({}, None, PLAIN),
    "ADALORA": (dict(total_step=10), None, "supports only 1 trainable adapter"),
}
SETTINGS = {  # of methods that do
    "C3A": dict(block_size=4),
    "FOURIERFT": dict(n_frequency=8),
    "IA3": dict(feedforward_modules=[]),
    "LN_TUNING": dict(target_modules=None),
    "LORA with DoRA": dict(use_dora=True),
    "MISS": dict(r=4),
    "PSOFT": dict(r=4),
    "ROAD": dict(group_size=4),
    "VBLORA": dict(num_vectors=8, vector_length=4),
    "WAVEFT": dict(n_frequency=8),
}
NO_PROJECTION = """
    ADAPTION_PROMPT CARTRIDGE CPT GRAPH_ADAPTER MULTITASK_PROMPT_TUNING POLY PREFIX_TUNING PROMPT_TUNING
    P_TUNING SHADOW TRAINABLE_TOKENS XLORA
""".split()  # they wrap no projection, or need inputs of their own


def every_method() -> list:
    """By default those that a graph adapter refuses, in attention, and what most others do."""
    known = {str(getattr(kind, "value", kind)) for kind in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING}
    names = known - set(NO_PROJECTION) | {x for x in {*ENDS, *SETTINGS} if x.split()[0] in known}
    cases = []
    for name, order, where in product(sorted(names), ["below", "over"], ["o_proj", "down_proj"]):
        ours = {LEFT_OUT, TURNED} & set(ENDS.get(name, ({},))[1:])
        quick = (ours and where == "o_proj") or name in ("LORA", "GLORA", "MISS as bat")
        marks = [] if quick else pytest.mark.slow
        cases.append(pytest.param(name, order, where, id=f"{name}-{order}-{where}", marks=marks))
    return cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, order, where", every_method())
def test_beside_any_method_of_peft_both_train_or_one_is_refused(name, order, where):
    settings, *ends = ENDS.get(name, (SETTINGS.get(name, {}), None, None))
    kind = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[name.split()[0]]]
    settings = {key: [where] if value == ["here"] else value for key, value in settings.items()}
    other = kind(**{"target_modules": [where], **settings})
    end = ends[order == "over"]
    if where == "down_proj" and end == LEFT_OUT:
        end = LEFT_OUT.replace("self_attn.o_proj", "mlp.down_proj")
    elif where == "down_proj" and end == TURNED:
        end = None  # what the feed-forward adapter follows may well be another output

    def train():
        if order == "below":
            model = get_peft_model(get_peft_model(FAMILIES["llama"].make(), other), config(), "graph")
        else:
            model = get_peft_model(put("llama"), other, "other")
        model.train()
        model(**BATCH)
        torch.manual_seed(1)
        with torch.no_grad():  # some start where they change nothing
            for key, p in model.named_parameters():
                if p.requires_grad and ".gnn_adapter." not in key:
                    p += 0.1 * torch.randn_like(p)
        for layer in model.modules():
            if isinstance(layer, OutputLayer):
                layer._checked = None
        model(**BATCH).logits.square().mean().backward()
        for ours in (True, False):
            learn = [p for key, p in model.named_parameters() if p.requires_grad and (".gnn_" in key) == ours]
            assert learn and all(p.grad is not None and p.grad.abs().sum() > 0 for p in learn)

    if end is None:
        train()
    else:
        with pytest.raises((UserError, ValueError, TypeError, AttributeError), match=end):
            train()
