"""Families whose attention is their own: what a family can do (windows, memories, two streams, talking
heads)."""

from inspect import signature

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import nn

from attngraph import UserError, capture, record
from attngraph.adapters import GraphAdapterConfig
from attngraph.reading.families import is_stand_in
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.running import run
from tests.attngraph.reading.zoo import FAMILIES, TEXT, far_from_zero, normal, sized, text, words


def test_gpt_neo_looks_no_further_than_its_window():
    graphs = capture(FAMILIES["gpt-neo"].model(), {"input_ids": words(6)})
    wide, narrow = (graphs[f"transformer.h.{k}.attn.attention"] for k in (0, 1))
    far = torch.ones(6, 6, dtype=torch.bool).tril(-3)
    assert (wide.weight[..., far] > 0).all() and (narrow.weight[..., far] == 0).all()
    assert not narrow.visible[:, far].any() and narrow.causal and wide.causal


@pytest.mark.parametrize("name", ["XLM", "Flaubert"])
def test_an_encoder_that_has_a_cache_is_in_no_order(name):
    """It would be taken for a decoder whose prompt sees itself; as a decoder it makes a mask that says so."""
    for causal in (False, True):
        for head in ("Model", "WithLMHeadModel"):
            sizes = dict(vocab_size=41, emb_dim=16, n_layers=1, n_heads=2, max_position_embeddings=64)
            config = getattr(hf, f"{name}Config")(**sizes, causal=causal)
            model = far_from_zero(getattr(hf, f"{name}{head}")(config), 0)
            (graph,) = capture(model, {"input_ids": words()}).values()
            assert graph.causal == causal == (graph.weight[0, 0, 0, -1] == 0)


def test_a_prompt_that_sees_itself_is_followed_in_a_model_that_generates():
    """CPM-Ant makes its masks itself, and its modules do not say that they are a decoder's."""
    sizes = dict(vocab_size=41, hidden_size=16, num_attention_heads=2, dim_head=8, dim_ff=24)
    config = hf.CpmAntConfig(**sizes, num_hidden_layers=1, prompt_length=4, prompt_types=8, segment_types=8)
    model = far_from_zero(hf.CpmAntForCausalLM(config), 0)
    with record(model) as graphs, torch.no_grad():
        model.generate(words(5), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    (steps,) = graphs.values()
    assert [graph.causal for graph in steps] == [True] * 3
    assert steps[0].weight[0, 0, 0, -1] > 0 and steps[-1].past_degree is not None


@pytest.mark.parametrize("cached", [True, False])
def test_fsmt_attends_to_its_encoder_whatever_the_lengths(cached):
    """The states are an argument ``key``, which self-attention has too; text and source are of one length."""
    sizes = dict(src_vocab_size=41, tgt_vocab_size=41, d_model=16, encoder_layers=1, decoder_layers=1)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64)
    config = hf.FSMTConfig(langs=["a", "b"], **sizes, **heads, encoder_ffn_dim=24, decoder_ffn_dim=24)
    model = far_from_zero(hf.FSMTForConditionalGeneration(config), 0)
    given = {"input_ids": words(), "decoder_input_ids": words(seed=1), "use_cache": cached}
    graphs = capture(model, given)
    kinds = {name.split(".", 1)[1]: (graph.kind, graph.causal) for name, graph in graphs.items()}
    assert kinds == {
        "encoder.layers.0.self_attn": ("self", False),
        "decoder.layers.0.self_attn": ("self", not cached),  # with a cache it has no mask
        "decoder.layers.0.encoder_attn": ("cross", not cached),
    }


def test_perceiver_attends_to_as_many_inputs_as_it_has_latents():
    sizes = dict(num_latents=7, d_latents=16, d_model=16, num_blocks=1, num_self_attends_per_block=1)
    config = hf.PerceiverConfig(**sizes, num_self_attention_heads=2, num_cross_attention_heads=2)
    graphs = capture(far_from_zero(hf.PerceiverModel(config), 0), {"inputs": normal(2, 7, 16)})
    assert [graph.kind for graph in graphs.values()] == ["cross", "self"]


def test_prophetnet_is_refused_whose_words_are_in_no_known_order():
    """Its self-attention, which is not read, makes a mask of its own: later words would change others."""
    sizes = dict(vocab_size=41, hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, ngram=2)
    heads = dict(num_encoder_attention_heads=2, num_decoder_attention_heads=2, max_position_embeddings=64)
    model = hf.ProphetNetForConditionalGeneration(hf.ProphetNetConfig(**sizes, **heads))
    for cached in (True, False):
        given = {"input_ids": words(), "decoder_input_ids": words(5), "use_cache": cached}
        with pytest.raises(UserError, match="cross_attn attends .* before any self-attention .* been read"):
            capture(model, given)


class ColumnAttention(nn.Module):
    """Self-attention that is not read, and hides what is later."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(8, 8)

    def forward(self, hidden_states):
        scores = self.projection(hidden_states) @ hidden_states.transpose(1, 2)
        return scores.transpose(1, 2).triu().softmax(1).transpose(1, 2).tril() @ hidden_states


class Layer(nn.Module):
    """Cross-attention, after something else."""

    def __init__(self, before):
        super().__init__()
        self.before, self.cross = before, nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, words, seen):
        return self.cross(self.before(words), seen, seen)[0]


@pytest.mark.parametrize("before, known", [(ColumnAttention(), False), (nn.Linear(8, 8), True)])
def test_cross_attention_after_attention_that_is_not_read(before, known):
    """The queries may be a decoder's; where there is no other attention, they are in no order."""
    given = {"words": normal(2, 5, 8), "seen": normal(2, 6, 8)}
    if known:
        assert not capture(Layer(before), given)["cross"].causal
        return
    with pytest.raises(UserError, match="cross attends to other states before any self-attention"):
        capture(Layer(before), given, layers="cross")


@pytest.mark.parametrize("name, known", [("ToyTextDecoder", False), ("ToyMaskDecoder", True)])
def test_a_decoder_of_masks_orders_nothing_in_time(name, known):
    """SAM 3's mask decoder begins with cross-attention of pixels; a text decoder's words have an order."""
    model, given = (
        type(name, (Layer,), {})(nn.Linear(8, 8)),
        {"words": normal(2, 5, 8), "seen": normal(2, 6, 8)},
    )
    if known:
        assert not capture(model, given)["cross"].causal
        return
    with pytest.raises(UserError, match=f"been read in {name}"):
        capture(model, given)


def test_mpt_and_clipped_projections():
    config = sized("Mpt", n_layers=1, max_seq_len=7)  # as many as there are words
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
    return far_from_zero(hf.XLNetModel(sized("XLNet", **settings)), 0)


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
    with pytest.raises(UserError, match="layer.0.rel_attn: in its mask"):
        capture(model, {"input_ids": words(6), "perm_mask": order})


def test_talking_heads_are_refused():
    model = far_from_zero(hf.DebertaModel(hf.DebertaConfig(**TEXT, talking_head=True)), 0)
    want = run(model, text())
    with pytest.raises(UserError, match=r"layer.0.attention.self .*: the weights of its softmax are mixed"):
        capture(model, text())
    handle = instrument(model)
    assert torch.equal(run(model, text())[0], want[0])  # read by nobody, it computes what it did
    handle.remove()


def test_differences_of_weights_are_refused():
    config = sized("DiffLlama", num_attention_heads=4, num_key_value_heads=2)
    with pytest.raises(UserError, match=r"model.layers.\*.self_attn \(DiffLlamaAttention\): attends twice"):
        capture(hf.DiffLlamaForCausalLM(config), text())


def test_pooled_values_are_the_queries_own():
    graph = capture(FAMILIES["segformer"].model(), FAMILIES["segformer"].inputs())[
        "stages.0.blocks.0.attention"
    ]
    assert graph.shape[2:4] == (16, 4) and graph.kind == "self" and not graph.causal


def test_bloom_in_slices_is_read_and_not_adapted():
    """Slices are what both settings together ask for: the layer reads the weight of its projection."""
    ids = {"input_ids": words()}

    def model(slices: int, exact: bool):
        config = sized("Bloom", pretraining_tp=slices, slow_but_exact=exact)
        return far_from_zero(hf.BloomForCausalLM(config), 0)

    plain = capture(model(1, False), ids)
    for slices, exact in ((1, True), (2, False), (2, True)):
        for name, graph in list(capture(model(slices, exact), ids).items())[:1]:
            assert torch.equal(graph.weight, plain[name].weight) and torch.equal(
                graph.metric, plain[name].metric
            )
    adapted = get_peft_model(model(2, True), GraphAdapterConfig(positions="self"))
    with pytest.raises(UserError, match="self_attention.dense was not used in a pass of BloomAttention"):
        run(adapted, ids)


def test_arguments_that_a_later_transformers_adds_are_refused():
    """Those of which nothing is known; others are handed down everywhere and change nothing. Where the
    model's own code runs, it knows them."""
    handle = instrument(FAMILIES["blip"].model())
    sites = [site for site in handle.sites.values() if is_stand_in(type(site.module))]
    for site in sites:
        parameters = signature(type(site.module).forward).parameters.values()
        needed = [None for x in parameters if x.default is x.empty and x.kind is not x.VAR_KEYWORD][1:]
        with pytest.raises(UserError, match=f"{site.name} is given soft_cap, which attngraph does not know"):
            type(site.module).forward(site.module, *needed, soft_cap=30.0, position_ids=words(), logits=None)
    assert sites
    handle.remove()
