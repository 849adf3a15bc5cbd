"""Prefix tuning: against PEFT's where that reaches, against brute force where it does not; and what holds of
any model with a prefix."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

import attngraph
from attngraph.errors import UserError
from attngraph.experiments.methods import prefix as module
from attngraph.experiments.methods.prefix import PrefixMethod, PrefixTuned, check_prepended, prepended
from attngraph.reading.instrument import instrument
from tests.adapters.peft.helpers import GENERATORS, close, differ, run
from tests.adapters.peft.helpers import put as adapters_in
from tests.adapters.peft_models import FAMILIES, by_family
from tests.attngraph.reading.zoo import FAMILIES as ZOO
from tests.attngraph.reading.zoo import GQA, far_from_zero

TOKENS = 3
GPT2 = dict(vocab_size=41, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=1)


def new(model: nn.Module, **settings) -> PrefixTuned:
    """A prefix in a model that needs no family of its own."""
    method = PrefixMethod(name="prefix", title="", group="")
    return method.apply(SimpleNamespace(model=model), settings)


def put(model: nn.Module, **settings) -> PrefixTuned:
    """A prefix whose keys and values are as large as a model's own."""
    prefix = new(model, **{"tokens": TOKENS, **settings})
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in prefix.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return prefix


def tiny(kind: str) -> hf.PreTrainedModel:
    if kind == "gpt2":
        return far_from_zero(hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)), 0)
    return far_from_zero(hf.LlamaForCausalLM(hf.LlamaConfig(**GQA)), 0)


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_is_that_of_peft(kind):
    """PEFT's tokens move all others up: the same positions are given here."""
    words, base, other = torch.randint(2, 41, (2, 7)), tiny(kind), tiny(kind)
    config = base.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    features = config.hidden_size // config.num_attention_heads
    settings = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=TOKENS,
        num_attention_heads=heads,
        token_dim=heads * features,
        num_layers=config.num_hidden_layers,
    )
    peft = get_peft_model(base, settings).eval()
    encoder = peft.prompt_encoder["default"]
    with torch.no_grad():
        encoder.embedding.weight.normal_()
        ours = put(other)
        made = encoder(torch.arange(TOKENS)).view(TOKENS, config.num_hidden_layers, 2, heads, features)
        for layer, prefix in enumerate(ours.prefixes.values()):
            prefix.key.copy_(made[:, layer, 0].transpose(0, 1))
            prefix.value.copy_(made[:, layer, 1].transpose(0, 1))
        want = peft(input_ids=words).logits
        place = torch.arange(TOKENS, TOKENS + 7)[None]
        got = other(input_ids=words, position_ids=place).logits
    assert (got - want).abs().max() < 1e-5
    assert (got - base(input_ids=words, position_ids=place).logits).abs().max() > 0.1


def test_a_projection_makes_what_li_and_liang_write():
    new(tiny("llama"), tokens=1, projection=1)  # the least of both
    prefix = next(iter(put(tiny("llama"), projection=12).prefixes.values()))
    first, second = prefix.mlp[0], prefix.mlp[2]
    hidden = (prefix.embedding @ first.weight.T + first.bias).tanh() @ second.weight.T + second.bias
    g, t, d = prefix.shape
    for got, part in zip(prefix(), hidden.split(g * d, 1)):
        for group in range(g):
            assert torch.allclose(got[0, group], part[:, group * d : (group + 1) * d], atol=1e-6)


def test_both_attentions_against_brute_force(make_decoder, words, image_states):
    """In float64, and with a mask, one sum at a time."""
    model = make_decoder().double()
    ids, mask, states = words(2, 5), torch.ones(2, 5, dtype=torch.long), image_states().double()
    mask[1, :2] = 0
    prefix = put(model)
    handle, calls = instrument(model), {}
    for name, site in handle.sites.items():
        site.listeners.append(lambda call, name=name: calls.update({name: call}))
    given = dict(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    with torch.no_grad():
        model(**given, encoder_hidden_states=states)
    handle.remove()
    assert [call.kind for call in calls.values()] == ["self", "cross"] * 2
    for name, call in calls.items():
        key, value = prefix.prefixes[name]()
        b, h, n, d = call.query.shape
        own = call.key[:, :, TOKENS:], call.value[:, :, TOKENS:]
        for i, k, q in torch.cartesian_prod(*map(torch.arange, (b, h, n))).tolist():
            if mask[i, q]:
                count, cross = own[0].shape[2], call.kind == "cross"
                seen = [j for j in range(count) if cross or (j <= q and mask[i, j])]
                keys = [*key[0, k], *(own[0][i, k, j] for j in seen)]
                values = [*value[0, k], *(own[1][i, k, j] for j in seen)]
                weights = [torch.exp(call.query[i, k, q] @ x / d**0.5) for x in keys]
                want = sum(w * x for w, x in zip(weights, values)) / sum(weights)
                assert torch.allclose(call.context[i, k, q], want, atol=1e-12), name


@pytest.mark.parametrize("family", by_family(GENERATORS))
def test_off_is_the_model_itself_and_on_is_not_and_no_word_sees_a_later_one(family):
    model, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    plain = run(model, batch)
    prefix = put(model)
    moved = run(model, batch)
    assert differ(moved, plain)
    with prefix.disabled(), prefix.disabled():
        assert torch.equal(run(model, batch), plain)
    assert torch.equal(run(model, batch), moved)
    name = "decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"
    changed = batch[name].clone()
    changed[:, -1] = 5 + (changed[:, -1] - 4) % 3
    after = run(model, batch | {name: changed})
    assert torch.equal(moved[:, :-1], after[:, :-1]) and differ(moved[:, -1], after[:, -1])


def test_sixteen_tokens_by_default_that_are_checked_at_the_first_call_alone(monkeypatch):
    model, batch, checked = tiny("llama"), FAMILIES["llama"].batch(), []
    prefix = new(model)
    monkeypatch.setattr(module, "check_prepended", lambda name, *_: checked.append(name))
    run(model, batch), run(model, batch)
    assert checked == list(prefix.prefixes) and len(checked) == 2
    assert {x.key.shape[1] for x in prefix.prefixes.values()} == {16}


def test_padding_changes_nothing(make_decoder, words, image_states):
    model, ids, states = make_decoder(), words(1, 6), image_states(1)
    put(model)
    padded, mask = torch.cat([torch.full((1, 3), 7), ids], 1), torch.tensor([[0] * 3 + [1] * 6])
    more = dict(encoder_hidden_states=states, use_cache=False)
    with torch.no_grad():
        want = model(input_ids=ids, **more).logits
        got = model(input_ids=padded, attention_mask=mask, position_ids=positions(mask), **more).logits
    close(got[:, 3:], want)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_beams_with_a_cache_are_those_without(family):
    model, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    put(model)
    batch.pop("decoder_input_ids", None)
    options = dict(max_new_tokens=5, num_beams=3, do_sample=False, pad_token_id=0)
    with_cache = model.generate(**batch, **options, use_cache=True)
    assert torch.equal(with_cache, model.generate(**batch, **options, use_cache=False))


@pytest.mark.parametrize("family, dtype", [("blip", torch.bfloat16), ("t5", torch.float16)])
def test_in_half_precision_outputs_are_finite_and_the_prefix_is_in_single(family, dtype):
    """Its entries are near 1, where half precision would swallow a step of the optimiser."""
    model, batch = FAMILIES[family].make().to(dtype), FAMILIES[family].batch()
    batch = {name: x.to(dtype) if x.is_floating_point() else x for name, x in batch.items()}
    prefix = put(model)
    assert all(parameter.dtype == torch.float32 for parameter in prefix.parameters().values())
    assert run(model, batch).isfinite().all()


def test_only_the_prefix_learns_and_gradients_reach_all_of_it():
    """The same ones under checkpointing."""
    model, batch = FAMILIES["llama"].make(), FAMILIES["llama"].batch()
    prefix = put(model.train())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(prefix.parameters())
    model(**batch, use_cache=False).logits.square().mean().backward()
    want = [p.grad.clone() for p in prefix.parameters().values()]
    assert all(grad.abs().min() > 0 for grad in want)
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model(**batch, use_cache=False).logits.square().mean().backward()
    for p, grad in zip(prefix.parameters().values(), want):
        close(p.grad, grad, 1e-5)


@pytest.mark.parametrize("projection", [None, 6])
def test_saved_and_loaded_to_the_last_bit(projection, tmp_path):
    model, batch = FAMILIES["blip"].make(), FAMILIES["blip"].batch()
    prefix = put(model, projection=projection)
    want = run(model, batch)
    prefix.save(tmp_path)
    other = FAMILIES["blip"].make()
    again = new(other, tokens=TOKENS, projection=projection)
    assert differ(run(other, batch), want)
    again.load(tmp_path)
    assert torch.equal(run(other, batch), want)


def test_what_cannot_be_loaded(tmp_path):
    prefix, weights = put(tiny("llama")), tmp_path / "prefix.safetensors"
    put(tiny("gpt2")).save(tmp_path)
    for damage, message in (
        (lambda: None, "prefix.safetensors does not fit this model"),
        (lambda: save_file({"a": torch.tensor(torch.inf)}, weights), r"numbers that are not finite \(a\)"),
        (lambda: weights.write_bytes(b"no"), "prefix.safetensors cannot be read"),
    ):
        damage()
        with pytest.raises(UserError, match=message):
            prefix.load(tmp_path)


def test_its_keys_are_no_nodes_of_a_graph():
    """Capture refuses, and says what to do; with the prefix off it works. Graph adapters refuse."""
    model, batch = FAMILIES["blip"].make(), FAMILIES["blip"].batch()
    prefix = put(model)
    message = "3 learned keys and values of prefix tuning .*: switch the prefix off"
    with pytest.raises(UserError, match=message):
        attngraph.capture(model, batch)
    with prefix.disabled():
        assert len(attngraph.capture(model, batch)) > 4
    adapted = adapters_in("blip").get_base_model()
    put(adapted)
    with pytest.raises(UserError, match="3 learned keys and values of prefix tuning are prepended"):
        run(adapted, batch)


def test_bad_settings_and_heads_that_do_not_fit():
    for settings, message in (
        ({"tokens": 0}, "settings of prefix: field tokens: "),
        ({"tokens": True}, "settings of prefix: field tokens: "),
        ({"projection": 1.5}, "settings of prefix: field projection: "),
    ):
        with pytest.raises(UserError, match=message):
            new(tiny("llama"), **settings)
    with pytest.raises(UserError, match="has no attribute with its number of heads"):
        put(ZOO["xlnet"].make())
    model = ZOO["llama"].make()
    for part in put(model).prefixes.values():
        part.key = nn.Parameter(part.key[:1].detach())
    with pytest.raises(UserError, match="1 heads of 4 features of prefix keys cannot be prepended to 2 of 4"):
        model(**ZOO["llama"].inputs())


def test_position_biases_know_no_prefix_and_weights_are_read_again():
    """Zeros stand for its tokens in a bias, so the first key is as far from a query as without them; the
    weights have the tokens' columns, also where they were read before and are dropped."""
    config = hf.BloomConfig(vocab_size=41, hidden_size=16, n_layer=1, n_head=2, attention_dropout=0.5)
    model = far_from_zero(hf.BloomForCausalLM(config), 0)
    prefix, ids, seen = put(model), torch.randint(2, 41, (2, 5)), []
    for parameter in prefix.parameters().values():
        nn.init.zeros_(parameter)
    handle = instrument(model)
    listeners = next(iter(handle.sites.values())).listeners
    listeners.insert(0, lambda call: seen.append((call.weight, call.dropped)))
    listeners.append(lambda call: seen.append((call.weight, call.dropped)))
    model(input_ids=ids)
    plain, weight = seen[0][0], seen[1][0]
    own = weight[..., TOKENS:]
    assert weight.shape[-1] == 5 + TOKENS and torch.allclose(weight.sum(-1), torch.ones(()))
    assert torch.allclose(own / own.sum(-1, keepdim=True), plain, atol=1e-6)
    assert (weight[..., :TOKENS] > 0).all()
    seen.clear()
    model.train()(input_ids=ids)
    handle.remove()
    assert [dropped.shape[-1] for _, dropped in seen] == [5, 5 + TOKENS]


def test_positions_inside_the_attention_itself_are_refused():
    """So are functions that move the shares which a call's own values have among themselves."""

    def eager(module, query, key, value, mask, far=0.0, **_):
        scores = query @ key.transpose(-1, -2)
        scores = scores - far * torch.arange(key.shape[2]).flip(0).square()
        return scores.softmax(-1) @ value, scores.softmax(-1)

    query, key, more = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, TOKENS, 8)
    for far in (0.0, 0.1):
        call = partial(eager, None, query, key, key, None, far=far)
        longer = torch.cat([key, more], 2)
        later = partial(eager, None, query, longer, longer, None, far=far)
        check_prepended("layer", call, prepended(call, more, more), TOKENS)
        with pytest.raises(UserError, match="layer: attention is not a plain softmax .* is not supported"):
            check_prepended("layer", call, later, TOKENS)
