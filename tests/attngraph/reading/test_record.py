"""Which graphs are recorded, and that nothing is missed silently, nor anything false let through."""

import copy
import subprocess
import sys
from threading import Thread

import pytest
import torch

import attngraph
from attngraph import UserError, capture, record
from tests.attngraph.reading.running import TIGHT, prompt, read, run
from tests.attngraph.reading.zoo import FAMILIES, words


def test_layers_by_name_and_pattern():
    family = FAMILIES["blip"]
    model, inputs = family.model(), family.inputs()
    one = "text_decoder.bert.encoder.layer.1.crossattention.self"
    assert list(read(model, inputs, layers=one)) == [one]
    assert list(read(model, inputs, layers=["*layer.0.cross*", "vision*.0.*"])) == [
        "vision_model.encoder.layers.0.self_attn",
        "text_decoder.bert.encoder.layer.0.crossattention.self",
    ]
    with pytest.raises(
        UserError, match=r"no attention layer is called 'layer.7'; choose from vision_model.encoder.layers.0"
    ):
        read(model, inputs, layers=[one, "layer.7"])
    assert not hasattr(model.get_submodule(one), "attngraph")  # and nothing stays behind


def test_heads():
    family = FAMILIES["llama"]
    model, inputs = family.model(), family.inputs()
    whole, part = read(model, inputs), read(model, inputs, heads=[3, 1])
    for name in whole:
        for field in ("query", "value", "weight"):
            assert torch.equal(getattr(part[name], field), getattr(whole[name], field)[:, [3, 1]])
        assert torch.equal(part[name].metric, whole[name].metric[[3, 1]])
    with pytest.raises(UserError, match=r"model.layers.0.self_attn has heads 0..3, not 4"):
        read(model, inputs, heads=[0, 4])
    for name, graph in read(model, inputs, heads=3).items():
        assert graph.shape[1] == 1 and torch.equal(graph.weight, whole[name].weight[:, 3:])
    for wrong in ("0", 1.5, [0.0], []):
        with pytest.raises(UserError, match="heads must be a head's number or several, such as"):
            read(model, inputs, heads=wrong)
    with record(model, heads=[2]) as steps, torch.no_grad():
        model.generate(**prompt(family), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert all(g.shape[1] == 1 for calls in steps.values() for g in calls)


@pytest.mark.parametrize("rule", [{"top_k": 2}, {"threshold": 0.2}, {"mass": 0.6}], ids=str)
def test_sparse_graphs_hold_their_edges_only(rule):
    model = FAMILIES["llama"].model()
    inputs = {"input_ids": words(40)}
    whole, sparse = read(model, inputs), read(model, inputs, **rule)
    for name in whole:
        want = whole[name].sparsify(**rule)
        assert torch.equal(sparse[name].weight, want.weight)
        assert torch.equal(copy.deepcopy(sparse[name]).value_degree(), want.value_degree())
        edges = vars(sparse[name])["_weight"]
        kept = edges.index.nbytes + edges.values.nbytes
        assert kept == 8 * int((want.weight > 0).sum())
    assert sum(vars(sparse[name])["_weight"].values.nbytes for name in sparse) < sum(
        graph.weight.nbytes for graph in whole.values()
    )
    assert (
        len({graph.value_mask.untyped_storage().data_ptr() for graph in sparse.values()}) == 1
    )  # one mask for all layers


def test_sparse_graphs_in_cached_decoding():
    """Each step sees what the sparse graphs of earlier steps left, as the sparse graph of the whole text has
    it."""
    family = FAMILIES["llama"]
    model = family.model()
    ids = words()
    whole = read(model, {"input_ids": ids}, top_k=2)
    with record(model, top_k=2) as steps, torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).cache
        model(ids[:, 4:], cache=cache, use_cache=True)
    for name in whole:
        torch.testing.assert_close(steps[name][1].value_degree(), whole[name].value_degree()[:, :, 4:])


def test_rules_are_checked_before_the_model_runs():
    model = FAMILIES["llama"].model()
    for rules, message in (({"top_k": 1, "mass": 0.5}, "exactly one"), ({"top_k": 0}, "at least 1")):
        with pytest.raises(ValueError, match=message):
            capture(model, {}, **rules)
    with pytest.raises(UserError, match="sparse graphs keep no gradients"):
        capture(model, {}, top_k=1, detach=False)


def test_streaming():
    model = FAMILIES["llama"].model()
    order = []
    with record(model, on_graph=lambda name, graph: order.append((name, graph.shape[2]))) as graphs:
        for n in (3, 5):
            run(model, {"input_ids": words(n)})
    names = list(FAMILIES["llama"].layers)
    assert order == [(name, n) for n in (3, 5) for name in names]
    assert list(graphs) == names and not any(graphs.values())


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


def test_inputs_may_be_the_models_first_argument():
    model = FAMILIES["llama"].model()
    one, other = capture(model, words()), capture(model, {"input_ids": words()})
    assert all(torch.equal(one[name].weight, other[name].weight) for name in other)


class HomeMadeAttention(torch.nn.Module):
    def forward(self, x):
        return (x @ x.transpose(1, 2)).softmax(-1) @ x


class HomeMadeSelfAttention(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.value = attention.value

    def forward(self, x, *args, **kwargs):
        return self.value(x), None


def with_an_unreadable_layer():
    model = FAMILIES["bert"].model()
    model.encoder.layer[1].output.register_forward_hook(lambda m, a, out: m.extra(out))
    model.encoder.layer[1].output.extra = HomeMadeAttention()
    return model


def test_a_layer_that_ran_unseen_is_named():
    model, inputs = with_an_unreadable_layer(), FAMILIES["bert"].inputs()
    unseen = r"no attention was seen in encoder.layer.1.output.extra \(HomeMadeAttention\)"
    with pytest.raises(UserError, match=unseen) as told:
        capture(model, inputs)
    patterns = ["encoder.layer.*.attention.self"]
    assert f"layers={patterns} (--layers 'encoder.layer.*.attention.self' on the command line)" in str(
        told.value
    )
    assert len(capture(model, inputs, layers=patterns)) == 2


def test_the_layers_that_can_be_read_are_named_one_by_one_where_a_pattern_takes_in_others():
    model, inputs = FAMILIES["bert"].model(), FAMILIES["bert"].inputs()
    attention = model.encoder.layer[0].attention.self
    model.encoder.layer[0].attention.self = HomeMadeSelfAttention(attention)
    with pytest.raises(UserError, match=r"layers=\['encoder.layer.1.attention.self'\]"):
        capture(model, inputs)


def test_models_without_attention():
    with pytest.raises(UserError, match="Linear has no attention layer that can be read$"):
        capture(torch.nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(
        UserError,
        match=r"Sequential has no attention layer that can be read: 0 \(HomeMadeAttention\): uses neither",
    ):
        capture(torch.nn.Sequential(HomeMadeAttention()), torch.ones(1, 2, 2))


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


def test_nan_and_inf_are_refused():
    model = FAMILIES["bert"].model()
    with torch.no_grad():
        model.encoder.layer[1].attention.self.key.weight[0] = float("nan")
    with pytest.raises(
        UserError, match="encoder.layer.1.attention.self: the attention weights hold NaN or Inf"
    ):
        capture(model, FAMILIES["bert"].inputs())
    assert capture(model, FAMILIES["bert"].inputs(), layers="*layer.0*")


def changed_eager(monkeypatch, change):
    from transformers.models.llama import modeling_llama

    eager = modeling_llama.eager_attention_forward

    def changed(module, *args, **kwargs):
        context, weight = eager(module, *args, **kwargs)
        return context, change(weight)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", changed)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda w: 1.1 * w, ": the attention weights are not a distribution"),
        (lambda w: 0.5 * w, ": the attention weights are not a distribution"),
        (
            lambda w: 2 * w - w.flip(-1),
            "(: the attention weights are not| is no graph .weight must not be negative)",
        ),
    ],
    ids=["more than 1", "less than 1", "negative"],
)
def test_weights_that_are_no_distribution_are_refused(change, complaint, monkeypatch):
    changed_eager(monkeypatch, change)
    with pytest.raises(UserError, match=f"model.layers.0.self_attn{complaint}"):
        capture(FAMILIES["llama"].model(), {"input_ids": words()})


def test_attention_sinks_take_a_share():
    import transformers as hf

    config = hf.GptOssConfig(
        vocab_size=41,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = hf.GptOssForCausalLM(config).eval()
    graphs = capture(model, {"input_ids": words()})
    own = run(model, {"input_ids": words()}, output_attentions=True).attentions
    for graph, weight in zip(graphs.values(), own, strict=True):
        torch.testing.assert_close(graph.weight, weight, **TIGHT)
        assert (graph.query_degree() < 0.99).all()


def test_widths_that_differ_are_refused():
    import transformers as hf

    config = hf.DeepseekV3Config(
        vocab_size=41,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=1,
        first_k_dense_replace=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=6,
        n_routed_experts=2,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=1,
    )
    with pytest.raises(
        UserError, match="model.layers.0.self_attn: queries have 8 features per head and values 6"
    ):
        capture(hf.DeepseekV3ForCausalLM(config).eval(), {"input_ids": words()})


def test_without_an_output_projection_there_is_no_metric():
    model = FAMILIES["bert"].model()
    model.encoder.layer[0].attention.output = torch.nn.Module()
    model.encoder.layer[0].attention.output.forward = lambda hidden, residual: hidden + residual
    graphs = capture(model, FAMILIES["bert"].inputs())
    assert [graph.metric is None for graph in graphs.values()] == [True, False]


def test_importing_attngraph_is_quick():
    code = "import sys, attngraph; print(*sys.modules, *attngraph.__all__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"transformers", "torch_geometric", "networkx"}
    assert not slow & set(out.stdout.split()) and "capture" in out.stdout.split()
    assert attngraph.capture is capture
    with pytest.raises(AttributeError):
        getattr(attngraph, "nothing")  # noqa: B009  the attribute is looked up, and is not there


def test_two_threads_at_once_are_refused():
    """One after the other is right, in a thread that is not the caller's too (as ``generate`` with a
    streamer)."""
    model, errors = FAMILIES["llama"].model(), []

    def run() -> None:
        try:
            model(words())
        except UserError as error:
            errors.append(error)

    def run_in_a_thread(*args) -> None:
        thread = Thread(target=run)
        thread.start()
        thread.join()

    with record(model) as graphs, torch.no_grad():
        run_in_a_thread()
        run_in_a_thread()
        assert not errors and [len(calls) for calls in graphs.values()] == [2, 2]
        hook = model.model.layers[1].register_forward_pre_hook(run_in_a_thread)
        model(words())
        hook.remove()
    assert len(errors) == 1 and "two threads run a model whose graphs are read" in str(errors[0])
    assert [len(calls) for calls in graphs.values()] == [3, 3]
