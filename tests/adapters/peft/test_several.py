"""Something more in a model that holds graph adapters: what learns, what runs, what is saved."""

import warnings
import weakref

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from torch import nn

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


def test_unload_thaws_what_took_the_place_of_a_parameter():
    """And nothing keeps the old one."""
    base = FAMILIES["llama"].make()
    model, old = get_peft_model(base, config()), weakref.ref(base.lm_head.weight)
    base.lm_head = nn.Linear(16, 5, bias=False).requires_grad_(False)
    assert old() is None
    assert all(p.requires_grad for p in model.unload().parameters())


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


LEFT_OUT = r"on model.layers.0.self_attn.o_proj uses the frozen weight and bypasses .* choose other"
TURNED = "on model.layers.0.self_attn.o_proj changes the attention output before the graph adapter gets it"
PLAIN = "No layers? types compatible"  # PEFT's own: around a plain nn.Linear only
OTHERS = {  # settings of each method, and how the two orders end where they do not both train
    "ADALORA": (dict(total_step=10), None, "supports only 1 trainable adapter"),
    "ADAMSS": ({}, None, None),
    "BEFT": ({}, None, None),
    "BOFT": (dict(boft_block_size=4), TURNED, TURNED),
    "C3A": (dict(block_size=4), None, None),
    "DEFT": ({}, None, None),
    "DELORA": ({}, None, None),
    "FOURIERFT": (dict(n_frequency=8), None, None),
    "FROD": ({}, LEFT_OUT, PLAIN),
    "GLORA": ({}, LEFT_OUT, LEFT_OUT),
    "GRALORA": ({}, None, None),
    "HIRA": ({}, None, None),
    "HRA": ({}, LEFT_OUT, LEFT_OUT),
    "IA3": (dict(feedforward_modules=[]), None, None),
    "IA3 on inputs": (dict(feedforward_modules=["here"]), TURNED, TURNED),
    "LILY": ({}, None, None),
    "LN_TUNING": (dict(target_modules=None), None, None),
    "LOHA": ({}, None, None),
    "LOKR": ({}, None, None),
    "LORA": ({}, None, None),
    "LORA with DoRA": (dict(use_dora=True), None, None),
    "MISS": (dict(r=4), None, None),
    "MISS as bat": (dict(r=4, init_weights="bat"), LEFT_OUT, LEFT_OUT),
    "OFT": (dict(oft_block_size=4), TURNED, TURNED),
    "OSF": ({}, None, None),
    "PEANUT": ({}, None, None),
    "PSOFT": (dict(r=4), None, None),
    "PVERA": ({}, None, PLAIN),
    "RANDLORA": ({}, None, PLAIN),
    "ROAD": (dict(group_size=4), None, None),
    "SHIRA": (dict(r=4), LEFT_OUT, "does not support nested base layers"),
    "SUPERTUNING": ({}, LEFT_OUT, "no attribute"),  # PEFT's own
    "TINYLORA": ({}, None, "no attribute"),
    "UNILORA": ({}, None, None),
    "VBLORA": (dict(num_vectors=8, vector_length=4), None, None),
    "VERA": ({}, None, PLAIN),
    "WAVEFT": (dict(n_frequency=8), None, None),
}
OTHERS = {name: row for name, row in OTHERS.items() if name.split()[0] in peft.PeftType.__members__}
NO_PROJECTION = """
    ADAPTION_PROMPT CARTRIDGE CPT MULTITASK_PROMPT_TUNING POLY PREFIX_TUNING PROMPT_TUNING P_TUNING SHADOW
    TRAINABLE_TOKENS XLORA
""".split()  # they wrap no projection, or need inputs of their own


def test_every_method_of_peft_is_in_the_table():
    known = {str(getattr(kind, "value", kind)) for kind in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING}
    missing = known - {"GRAPH_ADAPTER", *NO_PROJECTION} - {name.split()[0] for name in OTHERS}
    assert not missing


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["o_proj", "down_proj"])
@pytest.mark.parametrize("order", ["below", "over"])
@pytest.mark.parametrize("name", OTHERS)
def test_beside_any_method_of_peft_both_train_or_one_is_refused(name, order, where):
    settings, *ends = OTHERS[name]
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
