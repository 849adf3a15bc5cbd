"""Prefix tuning: against PEFT's where that reaches, against brute force where it does not; and what holds of
any model with a prefix."""

from functools import partial

import accelerate
import pytest
import torch
import transformers as hf
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

import attngraph
from adapters.prefix import ATTRIBUTE, PrefixConfig, PrefixTuning, load_prefix
from attngraph.errors import UserError
from attngraph.reading.instrument import instrument
from attngraph.reading.prepend import check_prepended, prepended
from tests.adapters.peft.helpers import GENERATORS, close, differ, run
from tests.adapters.peft.helpers import put as adapters_in
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.zoo import FAMILIES as ZOO
from tests.attngraph.reading.zoo import GQA, far_from_zero

TOKENS = 3
GPT2 = dict(vocab_size=41, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=1)


def put(model: nn.Module, seed: int = 0, **settings) -> PrefixTuning:
    """A prefix whose keys and values are as large as a model's own."""
    prefix = PrefixTuning(model, PrefixConfig(**{"tokens": TOKENS, **settings}))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prefix.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return prefix


def tiny(kind: str, **more) -> hf.PreTrainedModel:
    if kind == "gpt2":
        return far_from_zero(hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)), 0)
    return far_from_zero(hf.LlamaForCausalLM(hf.LlamaConfig(**{**GQA, **more})), 0)


def positions(mask: Tensor, start: int = 0) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0) + start


@pytest.mark.parametrize("projection", [None, 12])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_is_that_of_peft(kind, projection):
    """PEFT's tokens move all others up: the same positions are given here. With a projection, PEFT has one
    embedding and one hidden layer for all layers, each of which has a copy here."""
    words, base, other = torch.randint(2, 41, (2, 7)), tiny(kind), tiny(kind)
    config = base.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    features = config.hidden_size // config.num_attention_heads
    peft = get_peft_model(
        base,
        PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=TOKENS,
            prefix_projection=projection is not None,
            encoder_hidden_size=projection,
            num_attention_heads=heads,
            token_dim=heads * features,
            num_layers=config.num_hidden_layers,
        ),
    ).eval()
    encoder = peft.prompt_encoder["default"]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_()
        ours = put(other)
        made = encoder(torch.arange(TOKENS)).view(TOKENS, config.num_hidden_layers, 2, heads, features)
        for layer, prefix in enumerate(ours.prefixes().values()):
            prefix.key.copy_(made[:, layer, 0].transpose(0, 1))
            prefix.value.copy_(made[:, layer, 1].transpose(0, 1))
        want = peft(input_ids=words).logits
        place = torch.arange(TOKENS, TOKENS + 7)[None]
        got = other(input_ids=words, position_ids=place).logits
    assert (got - want).abs().max() < 1e-5
    assert (got - base(input_ids=words, position_ids=place).logits).abs().max() > 0.1


def test_a_projection_makes_what_li_and_liang_write():
    prefix = next(iter(put(tiny("llama"), projection=12).prefixes().values()))
    first, second = prefix.mlp[0], prefix.mlp[2]
    hidden = (prefix.embedding @ first.weight.T + first.bias).tanh() @ second.weight.T + second.bias
    g, t, d = prefix.shape
    for got, part in zip(prefix(), hidden.split(g * d, 1)):
        for group in range(g):
            assert torch.allclose(got[0, group], part[:, group * d : (group + 1) * d], atol=1e-6)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_both_attentions_against_brute_force(kind, make_decoder, words, image_states):
    """In float64, and with a mask, one sum at a time."""
    model = make_decoder().double()
    ids, mask = words(2, 5), torch.ones(2, 5, dtype=torch.long)
    mask[1, :2] = 0
    prefix = put(model)
    handle, calls = instrument(model), {}
    for name, site in handle.sites.items():
        site.listeners.append(lambda call, name=name: calls.update({name: call}))
    with torch.no_grad():
        model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            encoder_hidden_states=image_states().double(),
            use_cache=False,
        )
    handle.remove()
    found = {name: call for name, call in calls.items() if call.kind == kind}
    assert len(found) == 2
    for name, call in found.items():
        key, value = prefix.prefixes()[name]()
        b, h, n, d = call.query.shape
        module = model.get_submodule(name)
        own = call.key[:, :, TOKENS:], call.value[:, :, TOKENS:]
        assert own[0].shape[2] == (5 if kind == "self" else image_states().shape[1])
        for i in range(b):
            for k in range(h):
                for q in range(n):
                    if not mask[i, q]:
                        continue
                    seen = [j for j in range(own[0].shape[2]) if kind == "cross" or (j <= q and mask[i, j])]
                    keys = [*key[0, k], *(own[0][i, k, j] for j in seen)]
                    values = [*value[0, k], *(own[1][i, k, j] for j in seen)]
                    weights = [torch.exp(call.query[i, k, q] @ x / d**0.5) for x in keys]
                    want = sum(w * x for w, x in zip(weights, values)) / sum(weights)
                    assert torch.allclose(call.context[i, k, q], want, atol=1e-12), name
        assert hasattr(module, ATTRIBUTE)


@pytest.mark.parametrize("family", GENERATORS)
def test_off_is_the_model_itself_and_on_is_not(family):
    model, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    plain = run(model, batch)
    prefix = put(model)
    moved = run(model, batch)
    assert differ(moved, plain)
    with prefix.disabled():
        assert torch.equal(run(model, batch), plain)
    assert torch.equal(run(model, batch), moved)
    assert prefix.remove() is model
    assert torch.equal(run(model, batch), plain)
    assert not any(ATTRIBUTE in name for name, _ in model.named_modules())


@pytest.mark.parametrize("family", [name for name in GENERATORS if FAMILIES[name].kind == "decoder"])
def test_no_word_sees_a_later_one(family):
    model, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    put(model)
    before = run(model, batch)
    batch["input_ids"] = batch["input_ids"].clone()
    batch["input_ids"][:, -1] = 5 + (batch["input_ids"][:, -1] - 4) % 3
    after = run(model, batch)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert differ(before[:, -1], after[:, -1])


def test_padding_changes_nothing(make_decoder, words, image_states):
    model, ids, states = make_decoder(), words(1, 6), image_states(1)
    put(model)
    with torch.no_grad():
        want = model(input_ids=ids, encoder_hidden_states=states, use_cache=False).logits
        padded = torch.cat([torch.full((1, 3), 7), ids], 1)
        mask = torch.tensor([[0] * 3 + [1] * 6])
        got = model(
            input_ids=padded,
            attention_mask=mask,
            position_ids=positions(mask),
            encoder_hidden_states=states,
            use_cache=False,
        ).logits
    close(got[:, 3:], want)


def test_decoding_with_a_cache_is_a_pass_over_all(make_decoder, words, image_states):
    model, ids, states = make_decoder(), words(), image_states()
    put(model)
    with torch.no_grad():
        want = model(input_ids=ids, encoder_hidden_states=states, use_cache=False).logits
        got, cache = [], None
        for place in range(ids.shape[1]):
            out = model(
                input_ids=ids[:, place : place + 1],
                attention_mask=torch.ones(len(ids), place + 1, dtype=torch.long),
                position_ids=torch.full((len(ids), 1), place),
                encoder_hidden_states=states,
                use_cache=True,
                cache=cache,
            )
            got.append(out.logits)
            cache = out.cache
    close(torch.cat(got, 1), want)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart", "llava", "qwen2-vl"])
def test_beams_with_a_cache_are_those_without(family):
    model, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    put(model)
    batch.pop("decoder_input_ids", None)
    options = dict(max_new_tokens=5, num_beams=3, do_sample=False, pad_token_id=0)
    with_cache = model.generate(**batch, **options, use_cache=True)
    assert torch.equal(with_cache, model.generate(**batch, **options, use_cache=False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["blip", "llama", "t5"])
def test_half_precision_is_finite(family, dtype):
    model, batch = FAMILIES[family].make().to(dtype), FAMILIES[family].batch()
    batch = {name: x.to(dtype) if x.is_floating_point() else x for name, x in batch.items()}
    prefix = put(model)
    assert all(parameter.dtype == torch.float32 for parameter in prefix.parameters().values())
    assert run(model, batch).isfinite().all()


def test_only_the_prefix_learns_and_gradients_reach_all_of_it(make_decoder, words, image_states):
    model = make_decoder(attention_probs_dropout_prob=0.1).train()
    prefix = put(model)
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learned == set(prefix.parameters())
    model(
        input_ids=words(), encoder_hidden_states=image_states(), use_cache=False
    ).logits.square().mean().backward()
    assert all(p.grad.abs().min() > 0 for p in prefix.parameters().values())


def test_dropout_acts_on_the_weights_of_prefix_tokens_too(make_decoder, words, image_states):
    """The average over draws is what evaluation gives, in the attention's own output."""
    model = make_decoder(attention_probs_dropout_prob=0.5)
    put(model)
    handle, seen = instrument(model), []
    name = next(iter(handle.sites))
    handle.sites[name].listeners.append(lambda call: seen.append(call.context.detach()))
    inputs = dict(input_ids=words(), encoder_hidden_states=image_states(), use_cache=False)
    with torch.no_grad():
        model(**inputs)
        want = seen.pop()
        model.train()
        torch.manual_seed(0)
        for _ in range(800):
            model(**inputs)
    mean, spread = torch.stack(seen).mean(0), torch.stack(seen).std(0)
    assert (spread > 0).all() and ((mean - want).abs() < 6 * spread / 800**0.5).all()


@pytest.mark.parametrize("projection", [None, 6])
def test_saved_and_loaded_to_the_last_bit(projection, tmp_path):
    model, batch = FAMILIES["blip"].make(), FAMILIES["blip"].batch()
    prefix = put(model, projection=projection, positions=("cross",))
    want = run(model, batch)
    prefix.save(tmp_path)
    other = FAMILIES["blip"].make()
    again = load_prefix(other, tmp_path)
    assert torch.equal(run(other, batch), want) and again.config == prefix.config
    assert all("crossattention" in name for name in again.layers)
    with pytest.raises(UserError, match="has a prefix: take it out"):
        load_prefix(other, tmp_path)
    with pytest.raises(UserError, match="does not fit this model and these settings"):
        PrefixTuning(FAMILIES["llama"].make(), PrefixConfig()).load(tmp_path)
    save_file({"a": torch.full((2,), torch.inf)}, tmp_path / "prefix.safetensors")
    with pytest.raises(UserError, match=r"numbers that are not finite \(a\)"):
        again.load(tmp_path)
    (tmp_path / "prefix.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="prefix.safetensors cannot be read"):
        again.load(tmp_path)
    (tmp_path / "prefix_config.json").write_text('{"token": 3}')
    with pytest.raises(UserError, match="prefix_config.json cannot be read"):
        load_prefix(FAMILIES["blip"].make(), tmp_path)
    (tmp_path / "prefix_config.json").write_text('{"tokens": -3}')
    with pytest.raises(UserError, match="prefix_config.json cannot be read .*tokens must be .*, got -3"):
        load_prefix(FAMILIES["blip"].make(), tmp_path)


def test_its_keys_are_no_nodes_of_a_graph():
    """Capture refuses, and says what to do; with the prefix off it works. The image encoder can be read."""
    model, batch = FAMILIES["blip"].make(), FAMILIES["blip"].batch()
    prefix = put(model)
    with pytest.raises(
        UserError, match="3 learned keys and values of prefix tuning .*: switch the prefix off"
    ):
        attngraph.capture(model, batch)
    assert attngraph.capture(model, batch, layers="vision_model*")
    with prefix.disabled():
        assert len(attngraph.capture(model, batch)) > 4
    assert prefix.remove() is model


def test_not_under_graph_adapters():
    """Their graphs would hold keys that are no nodes."""
    model = adapters_in("blip").get_base_model()
    put(model)
    with pytest.raises(UserError, match="3 learned keys and values of prefix tuning stand before"):
        run(model, FAMILIES["blip"].batch())


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_checkpointing_changes_no_gradient(family):
    found = []
    for checkpointing in (False, True):
        model, batch = FAMILIES[family].make(), FAMILIES[family].batch()
        prefix = put(model)
        model.train()
        for module in model.modules():
            for name in ("p", "dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(**batch, use_cache=False).logits.square().mean().backward()
        found.append([p.grad for p in prefix.parameters().values()])
    for got, want in zip(*found):
        close(got, want, 1e-5)
        assert want.abs().max() > 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_weights_that_were_read_before_are_read_again(dropout, make_decoder, words, image_states):
    model, shapes = make_decoder(attention_probs_dropout_prob=dropout).train(), []

    def listen(call):
        shapes.append(call.dropped.shape)
        call.prepend(call.key[:, :, :3], call.value[:, :, :3])
        shapes.append(call.dropped.shape)
        assert call.context.shape == call.query.shape

    handle = instrument(model)
    handle.sites[next(iter(handle.sites))].listeners.append(listen)
    model(input_ids=words(), encoder_hidden_states=image_states(), use_cache=False)
    before, after = shapes
    assert after == (*before[:-1], before[-1] + 3)


def test_attentions_that_a_model_returns_have_the_tokens_columns(make_decoder, words, image_states):
    model = make_decoder()
    put(model)
    with torch.no_grad():
        out = model(
            input_ids=words(2, 5),
            encoder_hidden_states=image_states(),
            use_cache=False,
            output_attentions=True,
        )
    assert all(x.shape[-1] == 5 + TOKENS for x in out.attentions)
    assert all(torch.allclose(x.sum(-1), torch.ones(())) for x in out.attentions)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"tokens": 0}, "tokens must be a whole number of at least 1, got 0"),
        ({"tokens": True}, "tokens must be a whole number"),
        ({"projection": 1.5}, "projection must be a whole number"),
        ({"positions": ("ffn",)}, "positions must be one or more of self, cross, got ffn"),
        ({"positions": ()}, "got none"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        PrefixConfig(**settings)


def test_a_model_without_such_attention(tmp_path):
    with pytest.raises(UserError, match="no attention layer for a prefix in cross-attention of Llama"):
        PrefixTuning(tiny("llama"), PrefixConfig(positions=("cross",)))


def test_position_biases_know_no_prefix():
    """Zeros stand for its tokens in a bias, so the first key is as far from a query as without them."""
    config = hf.BloomConfig(vocab_size=41, hidden_size=16, n_layer=1, n_head=2)
    model = far_from_zero(hf.BloomForCausalLM(config), 0)
    prefix, ids = put(model), torch.randint(2, 41, (2, 5))
    with torch.no_grad():
        for layer in prefix.prefixes().values():
            layer.key.zero_()
            layer.value.zero_()
        handle, seen = instrument(model), []
        next(iter(handle.sites.values())).listeners.append(lambda call: seen.append(call.weight))
        model(input_ids=ids)
        with prefix.disabled():
            model(input_ids=ids)
    handle.remove()
    with_prefix, plain = seen
    own = with_prefix[..., TOKENS:]
    assert torch.allclose(own / own.sum(-1, keepdim=True), plain, atol=1e-6)
    assert (with_prefix[..., :TOKENS] > 0).all()


def test_positions_inside_the_attention_itself_are_refused():
    """So are functions that move the shares which a call's own values have among themselves."""

    def eager(module, query, key, value, mask, far=0.0, **_):
        scores = query @ key.transpose(-1, -2)
        scores = scores - far * torch.arange(key.shape[2]).flip(0).square()
        return scores.softmax(-1) @ value, scores.softmax(-1)

    query, key, more = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, TOKENS, 8)
    for far in (0.0, 0.1):
        call = partial(eager, None, query, key, key, None, far=far)
        later = partial(
            eager, None, query, torch.cat([key, more], 2), torch.cat([key, more], 2), None, far=far
        )
        check_prepended("layer", call, prepended(call, more, more), TOKENS)
        with pytest.raises(
            UserError, match="layer: its attention is more than a softmax .* can't be given a"
        ):
            check_prepended("layer", call, later, TOKENS)


def test_heads_must_be_known():
    with pytest.raises(UserError, match="does not say how many heads it has"):
        put(ZOO["xlnet"].make())
    model = ZOO["falcon"].make()
    put(model)
    with pytest.raises(UserError, match="4 heads of 4 features of prefix keys cannot stand before 1 of 4"):
        model(**ZOO["falcon"].inputs())


def test_a_prefix_of_a_model_in_half_precision_learns_in_single():
    """Its entries are near 1, where half precision would swallow a step of the optimiser."""
    prefix = put(tiny("gpt2").to(torch.bfloat16))
    before = {name: p.detach().clone() for name, p in prefix.parameters().items()}
    optimizer = torch.optim.AdamW(prefix.parameters().values(), lr=1e-3, weight_decay=0)
    ids = torch.randint(2, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    prefix.model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    for name, parameter in prefix.parameters().items():
        assert parameter.dtype == torch.float32 and (parameter != before[name]).float().mean() > 0.9


def test_an_offloaded_model():
    """Its weights are on meta until a layer runs."""
    model, other, words = tiny("llama"), tiny("llama"), torch.randint(2, 41, (2, 5))
    accelerate.cpu_offload(other, execution_device=torch.device("cpu"))
    put(model), put(other)
    with torch.no_grad():
        close(other(input_ids=words).logits, model(input_ids=words).logits)
