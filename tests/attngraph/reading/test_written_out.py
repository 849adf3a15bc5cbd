"""Families whose attention is written out here: features are the projections' outputs, and what else a family
can do (windows, memories, two streams, talking heads)."""

import subprocess
import sys
from importlib import import_module
from inspect import signature

import pytest
import torch
import transformers as hf
from torch import Tensor

from attngraph import UserError, capture, record
from attngraph.reading.families import FILES, is_stand_in
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.running import rows, run
from tests.attngraph.reading.zoo import FAMILIES, GQA, PAD, TEXT, VOCABULARY, far_from_zero, text, words


def linear(layer: torch.nn.Module, states: Tensor) -> Tensor:
    return torch.nn.functional.linear(states, layer.weight, layer.bias)


def apart(query: str, value: str):
    """Two projections, each with its heads one after the other."""

    def by_hand(module, states, h, d):
        return [
            linear(module.get_submodule(name), states).unflatten(-1, (-1, d)).transpose(1, 2)
            for name in (query, value)
        ]

    return by_hand


def together(name: str, layout: str):
    """One projection: all queries first (``blocks``), each head with its key and value (``heads``), or groups
    of heads with a key and a value each (``groups``)."""

    def by_hand(module, states, h, d):
        rows = linear(module.get_submodule(name), states).unflatten(-1, (-1, d))  # (b, n, vectors, d)
        count = rows.shape[2]
        if layout == "blocks":
            query, value = rows[:, :, :h], rows[:, :, (h + count) // 2 :]
        elif layout == "heads":
            query, value = rows[:, :, 0::3], rows[:, :, 2::3]
        else:
            groups = rows.unflatten(2, ((count - h) // 2, -1))
            query, value = groups[:, :, :, :-2].flatten(2, 3), groups[:, :, :, -1]
        return query.transpose(1, 2), value.transpose(1, 2)

    return by_hand


def deberta(module, states, h, d):
    query, value = together("in_proj", "heads")(module, states, h, d)
    return (x + bias.view(h, 1, d) for x, bias in ((query, module.q_bias), (value, module.v_bias)))


def xlnet(module, states, h, d):
    return (torch.einsum("ibh,hnd->bnid", states, weight) for weight in (module.q, module.v))


PROJECTIONS = {
    "bloom": together("query_key_value", "heads"),
    "falcon": together("query_key_value", "blocks"),
    "falcon, alibi": together("query_key_value", "heads"),
    "falcon, groups": together("query_key_value", "groups"),
    "mpt": together("Wqkv", "blocks"),
    "gpt-neo": apart("q_proj", "v_proj"),
    "xglm": apart("q_proj", "v_proj"),
    "mpnet": apart("q", "v"),
    "roformer": apart("query", "value"),
    "rembert": apart("query", "value"),
    "megatron-bert": apart("query", "value"),
    "deberta": deberta,
    "deberta-v2": apart("query_proj", "value_proj"),
    "xlnet": xlnet,
    "whisper": apart("q_proj", "v_proj"),  # multiplies queries before attention
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_features_are_what_the_projections_put_out(name):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs()
    handle, states = instrument(model), {}
    hooks = [
        site.module.register_forward_pre_hook(
            lambda m, args, kwargs, key=key: states.update(
                {key: args[0] if args else kwargs["hidden_states"]}
            ),
            with_kwargs=True,
        )
        for key, site in handle.sites.items()
    ]
    with record(model) as graphs:
        run(model, inputs)
    for key, (graph,) in graphs.items():
        _, h, _, _, d = graph.shape
        query, value = PROJECTIONS[name](handle.sites[key].module, states[key], h, d)
        torch.testing.assert_close(graph.query, query, rtol=0, atol=1e-6)
        assert not graph.rotated
        if graph.kind == "self":
            value = value.repeat_interleave(h // value.shape[1], 1)
            torch.testing.assert_close(graph.value, value, rtol=0, atol=1e-6)
    for hook in hooks:
        hook.remove()
    handle.remove()


@pytest.mark.parametrize("name", ["blip2", "whisper"])
def test_queries_that_are_multiplied_before_attention(name):
    """Features are projections; scores, with the factor that attention is called with, give the same M."""
    model = FAMILIES[name].model()
    handle, seen = instrument(model), []

    def listen(call):
        kind = type(call.site.module).__name__
        if kind in ("OPTAttention", "WhisperAttention"):
            scores = call.scores()
            assert torch.equal(call.feature * call.site.module.scaling, call.query)
            assert scores is not None and scores.node is call.feature
            valid = rows(call.graph())
            torch.testing.assert_close(scores.weight()[valid], call.weight[valid], rtol=1e-5, atol=1e-6)
            seen.append(kind)

    for site in handle.sites.values():
        site.listeners.append(listen)
    run(model, FAMILIES[name].inputs(), use_cache=False)
    handle.remove()
    assert len(seen) == (2 if name == "blip2" else 6)


def test_gpt_neo_looks_no_further_than_its_window():
    graphs = capture(FAMILIES["gpt-neo"].model(), {"input_ids": words(6)})
    wide, narrow = (graphs[f"transformer.h.{k}.attn.attention"] for k in (0, 1))
    far = torch.ones(6, 6, dtype=torch.bool).tril(-3)
    assert (wide.weight[..., far] > 0).all() and (narrow.weight[..., far] == 0).all()
    assert not narrow.visible[:, far].any() and narrow.causal and wide.causal


def test_mpt_and_clipped_projections():
    config = hf.MptConfig(vocab_size=VOCABULARY, d_model=16, n_layers=1, n_heads=2, max_seq_len=32)
    config.attn_config.clip_qkv = 0.3
    model = far_from_zero(hf.MptModel(config), 0)
    (graph,) = capture(model, {"input_ids": words()}).values()
    assert graph.query.abs().max() == graph.value.abs().max() == torch.tensor(0.3)


@pytest.mark.parametrize("kind", ["bi", "uni"])
def test_xlnet_with_memories(kind):
    """Keys and values of an earlier piece come first; it is self-attention still."""
    model = xlnet_model(attn_type=kind, mem_len=5)
    ids = words(9)
    with torch.no_grad():
        mems = model(ids[:, :5]).mems
        want = model(ids[:, 5:], mems=mems, output_attentions=True)
    with record(model) as graphs, torch.no_grad():
        got = model(ids[:, 5:], mems=mems)
    assert torch.equal(got.last_hidden_state, want.last_hidden_state)
    for (graph,), weight in zip(graphs.values(), want.attentions, strict=True):
        assert graph.shape[2:4] == (4, 9) and graph.kind == "self" and graph.causal == (kind == "uni")
        assert torch.equal(graph.weight, weight)


def xlnet_model(**settings) -> torch.nn.Module:
    sizes = dict(vocab_size=VOCABULARY, d_model=16, n_layer=2, n_head=2, d_inner=24, pad_token_id=PAD)
    return far_from_zero(hf.XLNetModel(hf.XLNetConfig(**sizes, **settings)), 0)


def test_xlnets_query_stream_attends_to_the_other():
    model, ids = xlnet_model(), words(6)
    target = torch.zeros(2, 2, 6)
    target[:, 0, 2] = target[:, 1, 5] = 1
    given = dict(input_ids=ids, target_mapping=target)
    with torch.no_grad():
        want = model(**given, output_attentions=True).attentions
    graphs = capture(model, given)
    assert [graph.kind for graph in graphs.values()] == ["self", "cross"] * 2
    own = [weight for pair in want for weight in pair]
    for graph, weight in zip(graphs.values(), own, strict=True):
        torch.testing.assert_close(graph.weight, weight, rtol=0, atol=1e-7)


def test_an_order_of_factorisation_is_no_order_in_time():
    model, order = xlnet_model(), torch.zeros(2, 6, 6)
    order[:, 0, 3] = 1  # the first word does not see the fourth, which sees it
    with pytest.raises(UserError, match="layer.0.rel_attn: its mask"):
        capture(model, {"input_ids": words(6), "perm_mask": order})


def test_talking_heads_are_refused():
    model = far_from_zero(hf.DebertaModel(hf.DebertaConfig(**TEXT, talking_head=True)), 0)
    want = run(model, text())
    with pytest.raises(UserError, match=r"encoder.layer.0.attention.self mixes the weights of its heads"):
        capture(model, text())
    handle = instrument(model)
    assert torch.equal(run(model, text())[0], want[0])  # read by nobody, it computes what it did
    handle.remove()


def test_differences_of_weights_are_refused():
    config = hf.DiffLlamaConfig(**{name: x for name, x in GQA.items() if name != "model_type"})
    with pytest.raises(UserError, match=r"model.layers.\*.self_attn \(DiffLlamaAttention\): attends twice"):
        capture(hf.DiffLlamaForCausalLM(config), text())


def test_pooled_values_are_the_queries_own():
    graph = capture(FAMILIES["segformer"].model(), FAMILIES["segformer"].inputs())[
        "stages.0.blocks.0.attention"
    ]
    assert graph.shape[2:4] == (16, 4) and graph.kind == "self" and not graph.causal


def test_a_familys_file_is_imported_when_a_model_needs_it():
    """It imports the family's code from transformers, which takes a while for all of them."""
    code = (
        "import sys\nfrom attngraph import capture\n"
        "assert not [x for x in sys.modules if x.startswith('transformers.models.') and '.modeling_' in x]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_belong_to_folders_of_transformers():
    for folder, file in FILES.items():
        found = import_module(f"attngraph.reading.families.{file}")
        kinds = [kind.__module__ for kind in (*found.CLASSES, *found.HOOKS)]
        assert any(f"transformers.models.{folder}." in kind for kind in kinds), folder
        assert all(is_stand_in(kind) for kind in found.CLASSES.values())


def test_bloom_in_slices_is_refused_and_otherwise_left_alone():
    config = hf.BloomConfig(
        vocab_size=41, hidden_size=16, n_layer=2, n_head=2, pretraining_tp=2, slow_but_exact=True
    )
    model, ids = far_from_zero(hf.BloomForCausalLM(config), 0), {"input_ids": words()}
    with torch.no_grad():
        want = model(**ids).logits
        handle = instrument(model)
        assert torch.equal(model(**ids).logits, want)
        handle.remove()
    with pytest.raises(UserError, match="self_attention projects its output in slices"):
        capture(model, ids)


NEWER = (
    "blip",
    "bloom",
    "falcon",
    "git",
    "gpt-neo",
    "megatron-bert",
    "mpnet",
    "mpt",
    "rembert",
    "roformer",
    "trocr",
)


@pytest.mark.parametrize("name", [*NEWER, "xglm"])
def test_arguments_that_a_later_transformers_adds_are_refused(name):
    """Those of which nothing is known; others are handed down everywhere and change nothing."""
    handle = instrument(FAMILIES[name].model())
    sites = [site for site in handle.sites.values() if is_stand_in(type(site.module))]
    for site in sites:
        parameters = signature(type(site.module).forward).parameters.values()
        needed = [None for x in parameters if x.default is x.empty and x.kind is not x.VAR_KEYWORD][1:]
        with pytest.raises(UserError, match=f"{site.name} is given soft_cap, which attngraph does not know"):
            type(site.module).forward(site.module, *needed, soft_cap=30.0, position_ids=words(), logits=None)
    assert sites
    handle.remove()
