"""Which graphs are recorded, and that nothing is missed silently, nor anything false let through."""

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from inspect import signature

import pytest
import torch
import transformers as hf
from transformers.models.llama import modeling_llama

from attngraph import UserError, capture, record
from tests.attngraph.reading.running import TIGHT, read, run
from tests.attngraph.reading.zoo import FAMILIES, sized, words


def test_heads():
    family = FAMILIES["llama"]
    model, inputs = family.model(), family.inputs()
    whole, part = read(model, inputs), read(model, inputs, heads=[3, 1])
    for name in whole:
        for field in ("query", "value", "weight"):
            assert torch.equal(getattr(part[name], field), getattr(whole[name], field)[:, [3, 1]])
        assert torch.equal(part[name].metric, whole[name].metric[[3, 1]])
    for name, graph in read(model, inputs, heads=3).items():
        assert graph.shape[1] == 1 and torch.equal(graph.weight, whole[name].weight[:, 3:])


@pytest.mark.parametrize("rule", [{"top_k": 2}, {"threshold": 0.2}, {"mass": 0.6}], ids=str)
def test_sparse_graphs_hold_their_edges_only(rule):
    model, inputs = FAMILIES["llama"].model(), {"input_ids": words(40)}
    whole, sparse = read(model, inputs), read(model, inputs, **rule)
    for name in whole:
        want = whole[name].sparsify(**rule)
        assert torch.equal(sparse[name].weight, want.weight)
        assert torch.equal(copy.deepcopy(sparse[name]).value_degree(), want.value_degree())
        edges = vars(sparse[name])["_weight"]
        assert edges.index.nbytes + edges.values.nbytes == 8 * int((want.weight > 0).sum())
    masks = {graph.value_mask.untyped_storage().data_ptr() for graph in sparse.values()}
    assert len(masks) == 1  # one mask for all layers


@pytest.mark.parametrize("stream", [False, True])
def test_sparse_graphs_in_cached_decoding(stream):
    """Each step sees what the sparse graphs of earlier steps left, as the sparse graph of the whole text has
    it."""
    family = FAMILIES["llama"]
    model = family.model()
    ids = words()
    whole = read(model, {"input_ids": ids}, top_k=2)
    with record(model, top_k=2, stream=stream) as steps, torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).cache
        model(ids[:, 4:], cache=cache, use_cache=True)
    for name in whole:
        torch.testing.assert_close(steps[name][1].value_degree(), whole[name].value_degree()[:, :, 4:])


def test_wrong_options():
    model = FAMILIES["llama"].model()
    for options, message in (
        (dict(top_k=1, mass=0.5), "exactly one"),
        (dict(top_k=1, detach=False), "sparse graphs keep no gradients"),
        (dict(heads=[0, 4]), "model.layers.0.self_attn has heads 0..3, not 4"),
        (dict(heads="0"), "heads must be a head's number or several, such as"),
        (dict(heads=[]), "heads must be a head's number or several, such as"),
        (dict(layers=[]), "layers must name at least one layer, got"),
        (dict(layers=["*.0.*", "layer.7"]), "is called 'layer.7'; choose from model.layers.0.self_attn"),
    ):
        with pytest.raises((UserError, ValueError), match=message):
            capture(model, {"input_ids": words()}, **options)
        assert not any("attngraph" in vars(module) for module in model.modules())


@pytest.mark.parametrize("name", ["bert", "blip"])
def test_inputs_are_a_mapping_or_keywords(name):
    """Keywords that reach capture but not the model, or not all of them."""
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs()
    first = next(iter(signature(model.forward).parameters))
    forms = (
        capture(model, inputs, heads=1),
        capture(model, **inputs, heads=1),
        capture(model, inputs.pop(first), heads=1, **inputs),
    )
    for graphs in forms[1:]:
        assert list(graphs) == list(forms[0])
        for layer, graph in graphs.items():
            assert torch.equal(graph.weight, forms[0][layer].weight)


def test_wrong_inputs():
    model, ids = FAMILIES["llama"].model(), words()
    for inputs, options, message in (
        ((), {}, "has no inputs: use capture"),
        (({"input_ids": ids},), {"use_cache": False}, r"also keyword arguments \(use_cache\)"),
        ((), {"input_ids": ids, "layer": "*"}, r"no option 'layer' \(did you mean layers\?\)"),
        (({"input_ids": ids},), {"topk": 2}, r"no option 'topk' \(did you mean top_k\?\)"),
    ):
        with pytest.raises(UserError, match=message):
            capture(model, *inputs, **options)


def test_arguments_of_the_model_are_not_misspelled_options():
    """Names near to an option's are the model's if its forward pass has them."""

    class Steaming(hf.LlamaModel):
        def forward(self, input_ids, steam):
            return super().forward(input_ids + steam)

    model, ids = Steaming(FAMILIES["llama"].model().config).eval(), words()
    assert len(capture(model, input_ids=ids, steam=1)) == len(FAMILIES["llama"].layers)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        capture(model, input_ids=ids, steam=1, colour=1)


def test_streaming():
    model = FAMILIES["llama"].model()
    order = []
    with record(model, on_graph=lambda name, graph: order.append((name, graph.shape[2]))) as graphs:
        run(model, {"input_ids": words(3)})
        with ThreadPoolExecutor(1) as other:  # one after the other
            other.submit(run, model, {"input_ids": words(5)}).result()
    names = list(FAMILIES["llama"].layers)
    assert order == [(name, n) for n in (3, 5) for name in names]
    assert list(graphs) == names and not any(graphs.values())
    for layers, chosen in ((names[1], names[1:]), (["*.0.*", "model.*.1.*"], names)):
        assert list(read(model, {"input_ids": words()}, layers=layers)) == chosen


def test_gradients():
    family = FAMILIES["bert"]
    model, inputs = family.model(), family.inputs()
    assert not any(g.weight.requires_grad for g in capture(model, inputs).values())
    graphs = capture(model, inputs, detach=False)
    graph = graphs["encoder.layer.1.attention.self"]
    assert graph.metric.requires_grad
    graph.weight.square().sum().backward()
    assert model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    with record(model) as graphs:
        loss = model(**inputs).last_hidden_state.sum()
    loss.backward()  # training goes on while its graphs are kept, cut off
    assert not any(g.weight.requires_grad for calls in graphs.values() for g in calls)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    """One graph for each layer of a step, though the backward pass computes the layers again."""
    model, inputs = FAMILIES["llama"].model().train(), {"input_ids": words()}
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with record(model) as graphs:
        model(**inputs).logits.sum().backward()
    assert [len(calls) for calls in graphs.values()] == [1] * len(FAMILIES["llama"].layers)
    with pytest.raises(UserError, match="gradient checkpointing .* call model.eval()"):
        capture(model, inputs, detach=False)


class HomeMadeAttention(torch.nn.Module):
    def forward(self, x):
        return (x @ x.transpose(1, 2)).sigmoid() @ x


class HomeMadeSelfAttention(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.value = attention.value

    def forward(self, x, *args, **kwargs):
        return self.value(x), None


def test_a_layer_that_ran_unseen_is_named():
    """And how to leave it out: by a pattern, or layer by layer where a pattern takes in others."""
    inputs, model = FAMILIES["bert"].inputs(), FAMILIES["bert"].model()
    model.encoder.layer[1].output.register_forward_hook(lambda m, a, out: m.extra(out))
    model.encoder.layer[1].output.extra = HomeMadeAttention()
    patterns = ["encoder.layer.*.attention.self"]
    with pytest.raises(UserError, match=r"encoder.layer.1.output.extra \(HomeMadeAttention\)") as told:
        capture(model, inputs)
    command = "(--layers 'encoder.layer.*.attention.self' on the command line)"
    assert f"layers={patterns} {command}" in str(told.value)
    assert len(capture(model, inputs, layers=patterns)) == 2
    model = FAMILIES["bert"].model()
    model.encoder.layer[0].attention.self = HomeMadeSelfAttention(model.encoder.layer[0].attention.self)
    with pytest.raises(UserError, match=r"layers=\['encoder.layer.1.attention.self'\]"):
        capture(model, inputs)
    model = FAMILIES["bert"].model()
    for layer in model.encoder.layer:  # what is called attention then is only what holds it
        layer.attention.self.__class__ = type("Mixer", (type(layer.attention.self),), {})
    assert len(capture(model, inputs)) == 2


def test_models_without_attention():
    with pytest.raises(UserError, match="Linear has no attention layer that can be read$"):
        capture(torch.nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(
        UserError,
        match=r"Sequential has no attention layer that can be read: 0 \(HomeMadeAttention\): neither uses",
    ):
        capture(torch.nn.Sequential(HomeMadeAttention()), torch.ones(1, 2, 2))
    sizes = dict(vocab_size=41, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(UserError, match='attends in blocks.* with attention_type="original_full" it can'):
        capture(hf.BigBirdModel(hf.BigBirdConfig(**sizes)), {"input_ids": torch.ones(1, 4).long()})


def test_nothing_ran():
    family = FAMILIES["t5"]
    model = family.model()
    with pytest.raises(UserError, match="no attention layer ran"), record(model):
        pass
    with pytest.raises(UserError, match="no attention layer ran"), record(model, layers="decoder.*"):
        run(model.encoder, {"input_ids": words()})
    graphs = capture(
        FAMILIES["blip"].model().text_decoder, {"input_ids": words()}
    )  # no image: no cross-attention, no error
    assert len(graphs) == 2 and all(graph.kind == "self" for graph in graphs.values())


@pytest.mark.parametrize("change", [lambda w: 1.1 * w, lambda w: 0.5 * w, lambda w: 2 * w - w.flip(-1)])
def test_weights_that_are_no_distribution_are_refused(change, monkeypatch):
    """More than 1, less than 1, negative."""
    eager = modeling_llama.eager_attention_forward

    def changed(module, *args, **kwargs):
        context, weight = eager(module, *args, **kwargs)
        return context, change(weight)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", changed)
    complaint = "(: the attention weights are not a distribution| is not a graph .weight must not)"
    with pytest.raises(UserError, match=f"model.layers.0.self_attn{complaint}"):
        capture(FAMILIES["llama"].model(), words())


def test_nan_and_inf_are_refused():
    model = FAMILIES["bert"].model()
    with torch.no_grad():
        model.encoder.layer[1].attention.self.key.weight[0] = float("nan")
    with pytest.raises(UserError, match="layer.1.attention.self: the attention weights hold NaN or Inf"):
        capture(model, FAMILIES["bert"].inputs())
    assert capture(model, FAMILIES["bert"].inputs(), layers="*layer.0*")


def test_attention_sinks_take_a_share():
    config = sized("GptOss", num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = hf.GptOssForCausalLM(config).eval()
    graphs = capture(model, {"input_ids": words()})
    own = run(model, {"input_ids": words()}, output_attentions=True).attentions
    for graph, weight in zip(graphs.values(), own, strict=True):
        torch.testing.assert_close(graph.weight, weight, **TIGHT)
        assert (graph.query_degree() < 0.99).all()


def test_widths_that_differ_are_refused():
    heads = dict(num_key_value_heads=2, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=6)
    experts = dict(
        n_routed_experts=2, n_group=1, topk_group=1, num_experts_per_tok=1, first_k_dense_replace=1
    )
    config = sized("DeepseekV3", num_hidden_layers=1, q_lora_rank=8, kv_lora_rank=8, **heads, **experts)
    message = "model.layers.0.self_attn: queries have 8 features per head and values 6"
    with pytest.raises(UserError, match=message):
        capture(hf.DeepseekV3ForCausalLM(config).eval(), words())


def test_importing_attngraph_is_quick():
    """transformers is imported by what reads models, and a family's code when a model needs it."""
    code = (
        "import sys, attngraph\nprint(*sys.modules, *attngraph.__all__)\n"
        "attngraph.capture\nprint(*sys.modules)\nattngraph.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, second = map(str.split, done.stdout.splitlines())
    assert not {"transformers", "torch_geometric", "networkx"} & set(first) and "capture" in first
    assert not [x for x in second if x.startswith("transformers.models.") and ".modeling_" in x]
    assert "AttributeError: module 'attngraph' has no attribute 'nothing'" in done.stderr
