"""Something more in a model that holds graph adapters: what learns, what runs, what is saved."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Event, current_thread

import peft
import pytest
import torch
import transformers as hf
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from torch import nn

from attngraph import UserError
from attngraph.adapters.peft import load_adapter
from attngraph.adapters.peft.layer import GraphLayer, OutputLayer
from tests.adapters.peft.helpers import close, config, differ, put, run
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.zoo import IMAGE, TEXT, far_from_zero, words

BATCH = FAMILIES["llama"].batch()


def lora(*modules: str, **settings) -> LoraConfig:
    targets = list(modules or ("q_proj", "o_proj"))
    return LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **settings)


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
    outputs = [run(model.eval(), BATCH) for model in (alone, both, over)]
    merges = [x.merge_adapter for x in (alone, below, over)]
    for merge in (*merges, *(x.merge_and_unload for x in (alone, below, over))):
        with pytest.raises(UserError, match="can't be merged into the weights: remove it with delete_ada"):
            merge()
        for model, output in zip((alone, both, over), outputs):
            assert torch.equal(run(model, BATCH), output), "a merge that stops half-way changes the model"
    with pytest.warns(UserWarning, match="graph adapters are never merged into weights"):
        alone.unmerge_adapter()
    assert not any(p.requires_grad for p in both.unload().parameters())


@pytest.mark.parametrize(
    "family, modules",
    [("llama", ["q_proj", "o_proj"]), ("t5", ["q", "o"]), ("blip", ["query", "output.dense"])],
)
def test_lora_is_merged_after_the_last_graph_adapter_is_deleted(family, modules):
    """Nothing of the graph adapters is left; the model with LoRA computes and merges as without them."""
    base = FAMILIES[family].make()
    below = get_peft_model(base, lora(*modules)).eval()
    batch, parts = FAMILIES[family].batch(), dict(base.named_modules())
    want, attention = run(below, batch), base.config._attn_implementation
    both = get_peft_model(below, config("pgnn", init_weights=False), "graph").eval()
    both.add_adapter("second", config("gcn", init_weights=False))
    assert differ(run(both, batch), want)
    both.delete_adapter("graph")
    assert differ(run(both, batch), want)
    with pytest.raises(UserError, match="'second' is a graph adapter: call delete_adapter on the PeftModel "):
        below.delete_adapter("second")
    both.delete_adapter("second")
    assert dict(base.named_modules()) == parts and base.config._attn_implementation == attention
    for model in (both, below):
        assert torch.equal(run(model, batch), want)
    close(run(below.merge_and_unload(), batch), want, 1e-5)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    return hf.BertForSequenceClassification(hf.BertConfig(vocab_size=100, **sizes)).eval()


def test_a_head_that_lora_trains_goes_on_below_graph_adapters(tmp_path):
    """PEFT runs the original module instead wherever the chosen adapter has no copy."""
    ids = {"input_ids": torch.randint(3, 100, (4, 7))}
    below = get_peft_model(classifier(), lora("query", task_type="SEQ_CLS")).eval()
    (head,) = (m for name, m in below.named_modules() if name.endswith("classifier.modules_to_save.default"))
    nn.init.constant_(head.bias, 5.0)
    want = run(below, ids)
    both = get_peft_model(below, config("pgnn", init_weights=True), "graph").eval()  # without effect
    close(run(both, ids), want, 1e-6)
    both.add_adapter("second", config("gcn", init_weights=False))
    both.set_adapter("second")
    assert head.bias.requires_grad and differ(run(both, ids), want)
    both.set_adapter("graph")
    close(run(both, ids), want, 1e-6)
    both.train()(**ids).logits.square().sum().backward()
    assert head.bias.grad.abs().sum() > 0
    with pytest.raises(UserError, match="classifier is in modules_to_save of 'default' already"):
        get_peft_model(below, config(modules_to_save=["classifier"]), "third")
    prompt = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    with pytest.raises(UserError, match="classifier is in modules_to_save of 'prompt' already"):
        get_peft_model(get_peft_model(classifier(), prompt, "prompt"), config(task_type="SEQ_CLS"))
    both.eval().save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(classifier(), tmp_path)
    again = PeftModel.from_pretrained(again, tmp_path / "graph", "graph").eval()
    assert torch.equal(run(again, ids), run(both, ids))


@pytest.mark.parametrize("heads", [None, ["classifier"]])
def test_after_the_last_adapter_is_deleted_another_can_be_added(heads):
    ids, base = {"input_ids": torch.randint(3, 100, (4, 7))}, classifier()
    base.bert.embeddings.requires_grad_(False)
    learned = {name for name, p in base.named_parameters() if p.requires_grad}
    want, model = run(base, ids), get_peft_model(base, config(modules_to_save=heads)).eval()
    model.delete_adapter("default")
    assert torch.equal(run(base, ids), want) and base.config._attn_implementation == "sdpa"
    with pytest.raises(UserError):
        get_peft_model(base, config(target_modules=["none"]))
    if heads is None:
        unloaded = get_peft_model(base, config(), "other").unload()
        assert {name for name, p in unloaded.named_parameters() if p.requires_grad} == learned
    model.add_adapter("again", config("pgnn", init_weights=False, modules_to_save=heads))
    model.set_adapter("again")
    assert differ(run(model.eval(), ids), want)
    model.delete_adapter("again")
    assert torch.equal(run(model.unload(), ids), want)
    base.requires_grad_(False)  # what learned before the first ones is of the past
    assert not any(p.requires_grad for p in get_peft_model(base, config()).unload().parameters())


def test_tokens_that_lora_trains_go_on_below_graph_adapters():
    """Also after the graph adapter is deleted, and in the merged weights."""
    tokens = sorted(set(BATCH["input_ids"].flatten().tolist()))[:3]
    below = get_peft_model(FAMILIES["llama"].make(), lora(trainable_token_indices={"embed_tokens": tokens}))
    (deltas,) = (p for name, p in below.named_parameters() if "trainable_tokens_delta" in name)
    deltas.data += 1
    want = run(below.eval(), BATCH)
    both = get_peft_model(below, config("pgnn", init_weights=True), "graph").eval()
    close(run(both, BATCH), want, 1e-5)
    both(**BATCH).logits.square().sum().backward()
    assert deltas.grad.abs().sum() > 0
    both.delete_adapter("graph")
    assert torch.equal(run(below, BATCH), want)
    close(run(below.merge_and_unload(), BATCH), want, 1e-5)


def test_an_adapter_that_cannot_be_loaded_leaves_the_active_one(tmp_path):
    model = mixed("llama")
    model.set_adapter("other")
    want, flags = run(model, BATCH), [p.requires_grad for p in model.parameters()]
    put("gpt2").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="do not fit this"):
        load_adapter(model, tmp_path, "third")
    assert torch.equal(run(model, BATCH), want) and [p.requires_grad for p in model.parameters()] == flags


@pytest.mark.parametrize("way", ["unload", "delete_adapter"])
def test_layers_with_hooks_of_accelerate_are_not_taken_out(way):
    """Such a hook would keep calling the method of the class that the layer has while adapters run."""
    batch = FAMILIES["blip"].batch()
    model = put("blip").eval()
    want = run(model, batch)
    layer = next(m for name, m in model.named_modules() if "vision" in name and name.endswith("self_attn"))
    add_hook_to_module(layer, AlignDevicesHook("cpu"))
    with pytest.raises(UserError, match="has hooks on its forward method"):
        getattr(model, way)(*["default"] * (way == "delete_adapter"))
    assert torch.equal(run(model, batch), want)


def test_two_peft_models_around_one_model_leave_nothing_behind():
    """Whichever of them is switched off or unloaded."""
    ids, base = {"input_ids": torch.randint(3, 100, (4, 7))}, classifier()
    want = run(base, ids)
    first = get_peft_model(base, config("pgnn", init_weights=False), "a").eval()
    second = get_peft_model(base, config("appnp", init_weights=False), "b").eval()
    for model in (first, second):
        with model.disable_adapter():
            assert base.config._attn_implementation == "sdpa" and torch.equal(run(model, ids), want)
        assert differ(run(model, ids), want)
    for model in (second, first):
        assert torch.equal(run(model.unload(), ids), want) and base.config._attn_implementation == "sdpa"


def mixed(family: str, **settings) -> PeftModel:
    """Two graph adapters, the first one active."""
    model = put(family, **settings)
    torch.manual_seed(1)
    model.add_adapter("other", config("pgnn", join="replace", **settings))
    return model.eval()


@pytest.mark.parametrize(
    "family, beams, settings",
    [("llama", 3, {}), ("t5", 3, {}), ("blip", 1, {}), ("llama", 1, dict(steps=1))],  # one step: from scores
    ids=str,
)
def test_generating_for_a_mixed_batch(family, beams, settings):
    """With a cache, whose degrees both adapters share, and with beams, of which an encoder knows nothing."""
    model, batch, names = (
        mixed(family, **settings),
        FAMILIES[family].batch(b=3, n=4),
        ["other", "__base__", "default"],
    )
    batch.pop("decoder_input_ids", None)
    options = dict(num_beams=beams, do_sample=False, max_new_tokens=5, min_new_tokens=5, output_scores=True)
    options |= dict(return_dict_in_generate=True, suppress_tokens=[IMAGE])
    got = model.generate(**batch, **options, adapter_names=names)
    for k, name in enumerate(names):
        one = {x: value[k : k + 1] for x, value in batch.items()}
        model.set_adapter("default" if name == "__base__" else name)
        with model.disable_adapter() if name == "__base__" else nullcontext():
            want = model.generate(**one, **options)
        assert torch.equal(got.sequences[k], want.sequences[0])
        for mine, alone in zip(got.scores, want.scores, strict=True):
            torch.testing.assert_close(mine[k * beams : (k + 1) * beams], alone, rtol=1e-4, atol=1e-3)


def test_heads_of_a_mixed_batch():
    """Each example has the classification head of its adapter, or the model's; whichever is active."""
    base = far_from_zero(hf.BertForSequenceClassification(hf.BertConfig(**TEXT, num_labels=3)), 0)
    model, ids = get_peft_model(base, config(modules_to_save=["classifier"]), "first"), words().repeat(2, 1)
    model.add_adapter("second", config(modules_to_save=["classifier"]))
    for k, name in enumerate(("first", "second")):
        torch.manual_seed(k)
        nn.init.normal_(base.classifier.modules_to_save[name].weight)
    model.add_adapter("third", config())
    names, alone = ["second", "first", "third", "__base__"], {}
    with torch.no_grad():
        for name in names[:3]:
            model.eval().set_adapter(name)
            alone[name] = model(ids).logits
        with model.disable_adapter():
            alone["__base__"] = model(ids).logits
        for active in ("first", "third"):
            model.set_adapter(active)
            got = model(ids, adapter_names=names).logits
            for k, name in enumerate(names):
                close(got[k], alone[name][k])


def test_a_mixed_batch_concerns_its_own_thread():
    """A pass in another thread meanwhile runs the active adapter."""
    model, batch = mixed("llama"), FAMILIES["llama"].batch(b=2)
    names, main, inside, go_on = ["other", "other"], current_thread(), Event(), Event()
    want = run(model, batch)
    model.set_adapter("other")
    other = run(model, batch)
    model.set_adapter("default")

    def wait(*_):
        if current_thread() is not main:
            inside.set()
            go_on.wait(30)

    model.get_base_model().model.layers[0].register_forward_pre_hook(wait)
    with ThreadPoolExecutor(1) as pool, torch.no_grad():
        future = pool.submit(lambda: model(**batch, adapter_names=names).logits.detach())
        assert inside.wait(30)
        got = run(model, batch)
        go_on.set()
    assert torch.equal(got, want)
    close(future.result(), other)


def test_mixed_batches_that_are_refused():
    """And the model runs the active adapter again after an error."""
    model, batch = mixed("llama"), FAMILIES["llama"].batch(b=2)
    want, base = run(model, batch), "__base__"
    for names, message in (
        ([base], "adapter_names has 1 names for a batch of 2: use one for each example"),
        ([base] * 3, "adapter_names has 3 names for a batch of 2"),
        ([base, "ohter"], "there is no graph adapter 'ohter': choose from default, other, __base__"),
        ("other", "adapter_names must be a list with a name for each example, got 'other'"),
    ):
        with pytest.raises(UserError, match=message):
            model(**batch, adapter_names=names)
        assert torch.equal(run(model, batch), want)
    with pytest.raises(UserError, match="adapter_names is for evaluation"):
        model.train()(**batch, adapter_names=["other", base])
    both = get_peft_model(get_peft_model(FAMILIES["llama"].make(), lora()), config(), "graph").eval()
    with pytest.raises(UserError, match="PEFT's lora .* in the same model would act on every example"):
        both(**batch, adapter_names=["graph", base])


def frozen_lines(model) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(**BATCH)
    return [str(x.message) for x in caught if "the graph adapters learn nothing" in str(x.message)]


def test_prompt_tuning_over_graph_adapters_says_that_it_froze_them(tmp_path):
    """PEFT freezes all that is below a prompt."""
    graph = put("llama").train()
    assert not frozen_lines(graph)
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(graph, prompt, "prompt").train()
    assert learning(model) == {"default": False} and "set_requires_grad" in frozen_lines(model)[0]
    assert not frozen_lines(model.eval())
    graph.set_requires_grad("default")
    assert learning(model) == {"default": True} and not frozen_lines(model.train())
    graph.set_requires_grad("default", False)  # on purpose, as in a loaded model
    assert learning(model) == {"default": False} and not frozen_lines(model)
    graph.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(FAMILIES["llama"].make(), tmp_path).train()
    assert learning(loaded) == {"default": False} and not frozen_lines(loaded)


LEFT_OUT = r"on model.layers.0.self_attn.o_proj uses the frozen weight and bypasses .* choose other"
TURNED = "on model.layers.0.self_attn.o_proj changes the attention output before the graph adapter, so"
METHODS = {  # of PEFT, with settings, and how they end below graph adapters and over them: None if both train
    "LORA": ({}, None, None),
    "LORA with DoRA": (dict(use_dora=True), None, None),
    "IA3": (dict(feedforward_modules=[]), None, None),
    "MISS": (dict(r=4), None, None),
    "VERA": ({}, None, "No layers? types compatible"),  # PEFT's own: around a plain nn.Linear only
    "BOFT": (dict(boft_block_size=4), TURNED, TURNED),
    "IA3 on inputs": (dict(feedforward_modules=["o_proj"]), TURNED, TURNED),
    "OFT": (dict(oft_block_size=4), TURNED, TURNED),
    "GLORA": ({}, LEFT_OUT, LEFT_OUT),
    "HRA": ({}, LEFT_OUT, LEFT_OUT),
    "MISS as bat": (dict(r=4, init_weights="bat"), LEFT_OUT, LEFT_OUT),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("order", ["below", "over"])
def test_beside_another_method_of_peft_both_train_or_one_is_refused(name, order):
    settings, *ends = METHODS[name]
    kind = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[name.split()[0]]]
    other = kind(target_modules=["o_proj"], **settings)
    end = ends[order == "over"]

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
