"""What holds of every scheme in every kind of model, with weights none of which is neutral: one table.

Each row runs every test. The default rows have every scheme at least once and every family of ``FEW``; the
other families are slow.
"""

import copy
from contextlib import nullcontext

import pytest
import torch
from peft import PeftModel, get_peft_model

from attngraph.adapters import SCHEMES
from attngraph.adapters.peft import load_adapter
from tests.adapters.peft import helpers
from tests.adapters.peft.helpers import GENERATORS, close, config, differ, run
from tests.adapters.peft_models import FAMILIES, FEW
from tests.attngraph.reading.zoo import IMAGE

ROWS = [
    ("bert", "pgnn", dict(join="replace", rescale=True)),
    ("blip", "gcn", dict(join="replace", normalize=True)),
    ("blip", "gcnii", dict(join="gated", positions=("cross", "ffn"), top_k=3)),
    ("blip", "pgnn", dict(join="replace", p=2.5, mu=0.0, degree="mean", rescale=True)),
    ("gpt2", "pgnn", dict(join="gated", learn_mu=True, top_k=3)),
    ("gpt2", "tempering", dict(join="replace")),
    ("llama", "appnp", dict(join="replace", degree="mean")),
    ("llama", "gcn", dict(join="gated")),
    ("llama", "pgnn", dict(join="blend", shared=True, query_rows="noise", positions="self")),
    ("llama", "residual", dict(join="gated", backend="sparse", target_modules=["layers.1.self_attn"])),
    ("t5", "gcnii", dict(join="replace")),
    ("t5", "rotated", dict(join="blend")),
    ("mllama", "pgnn", dict(join="replace")),
    ("paligemma", "rotated", dict(join="gated", degree="mean")),
    ("paligemma", "appnp", dict(join="replace", query_rows="zero")),
]
OTHERS = [(family, "pgnn", dict(join="replace")) for family in FAMILIES if family not in FEW]


def each_row(families=tuple(FAMILIES)) -> pytest.MarkDecorator:
    rows = [*((row, []) for row in ROWS), *((row, pytest.mark.slow) for row in OTHERS)]
    return pytest.mark.parametrize(
        "family, gnn, settings",
        [
            pytest.param(*row, id="-".join([*row[:2], row[2]["join"]]), marks=marks)
            for row, marks in rows
            if row[0] in families
        ],
    )


def put(family: str, gnn: str, settings: dict) -> PeftModel:
    model = helpers.put(family, gnn, **settings)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("stored"):
                p += 0.0123
    return model


def test_every_scheme_and_kind_of_family_is_in_the_table():
    ours = {name for name, scheme in SCHEMES.items() if scheme.__module__.startswith("attngraph.adapters.")}
    assert {gnn for _, gnn, _ in ROWS} == ours == set(helpers.SCHEME_ARGS)
    assert {family for family, _, _ in ROWS} == set(FEW)


@each_row()
def test_only_the_adapters_learn(family, gnn, settings):
    base = {name for name, _ in FAMILIES[family].make().named_parameters()}
    model = put(family, gnn, settings).train()
    learn = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert all(".gnn_adapter.default." in name for name in learn)
    assert all(name.removeprefix("base_model.model.").startswith(FAMILIES[family].adapted) for name in learn)
    assert {x.removeprefix("base_model.model.").replace(".base_layer", "") for x in frozen} == base
    model(**FAMILIES[family].batch()).logits.square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in learn.values())


@each_row()
def test_a_new_adapter_leaves_the_model_untouched(family, gnn, settings):
    """To the last bit under blend and gated; replace changes it for schemes other than GCN."""
    model, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    model.set_attn_implementation("eager")
    want = run(model, batch)
    got = run(get_peft_model(model, config(gnn, **settings, init_weights=True)), batch)
    if settings["join"] != "replace":
        assert torch.equal(got, want)
    else:
        assert differ(got, want)


@each_row()
def test_switching_off_gives_the_base_back_exactly(family, gnn, settings):
    base, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    kinds, want = [type(m) for m in base.modules()], run(base, batch)
    state, implementation = copy.deepcopy(base.state_dict()), base.config._attn_implementation
    torch.manual_seed(0)
    model = get_peft_model(base, config(gnn, **settings)).eval()
    adapted = run(model, batch)
    assert differ(adapted, want)
    for _ in range(2):
        with model.disable_adapter():
            assert base.config._attn_implementation == implementation
            assert torch.equal(run(model, batch), want)
            with model.disable_adapter():
                pass
            assert torch.equal(run(model, batch), want)
        assert torch.equal(run(model, batch), adapted)
    assert model.unload() is base and torch.equal(run(base, batch), want)
    assert base.config._attn_implementation == implementation
    assert [type(m) for m in base.modules()] == kinds
    assert not any(m._forward_pre_hooks or "attngraph" in m.__dict__ for m in base.modules())
    assert base.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[name]) for name, x in base.state_dict().items())
    get_peft_model(base, config())  # there is room for new ones


@each_row()
def test_each_example_of_a_mixed_batch_runs_its_own_adapter(family, gnn, settings):
    """As it does alone; the second adapter sees the same edges, in other places and with other weights."""
    model, batch = put(family, gnn, settings), FAMILIES[family].batch(b=3)
    torch.manual_seed(1)
    model.add_adapter("other", config("pgnn", join="gated", top_k=settings.get("top_k")))
    batch["attention_mask"][0, -2:] = 0
    names = ["other", "__base__", "default"]
    alone = {}
    for name in names:
        model.set_adapter("default" if name == "__base__" else name)
        with model.disable_adapter() if name == "__base__" else nullcontext():
            alone[name] = run(model, batch)
    with torch.no_grad():
        mixed = model(**batch, adapter_names=names).logits
    for k, name in enumerate(names):
        close(mixed[k], alone[name][k])
        assert all(differ(alone[name][k], alone[x][k]) for x in names if x != name)
    assert torch.equal(run(model, batch), alone["default"])  # nothing of it is left


@each_row()
def test_a_saved_adapter_comes_back_exactly(family, gnn, settings, tmp_path):
    model, batch = put(family, gnn, settings), FAMILIES[family].batch()
    model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    want = run(model, batch)
    for load in (
        lambda base: PeftModel.from_pretrained(base, tmp_path),
        lambda base: PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=True),
        lambda base: load_adapter(base, tmp_path).eval(),
    ):
        loaded = load(FAMILIES[family].make())
        assert torch.equal(run(loaded, batch), want)
        kept, given = (x.peft_config["default"].to_dict() for x in (loaded, model))
        of_peft = {name: kept[name] for name in ("inference_mode", "auto_mapping")}  # says PEFT
        assert kept == given | of_peft


@each_row(GENERATORS)
def test_later_tokens_do_not_change_earlier_logits(family, gnn, settings):
    model, batch = put(family, gnn, settings), FAMILIES[family].batch()
    name = "decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"
    want = run(model, batch)
    k = batch[name].shape[1] - 2
    changed = dict(batch, **{name: torch.cat([batch[name][:, :k], batch[name][:, k:].flip(0)], 1)})
    got = run(model, changed)
    close(got[:, :k], want[:, :k], 1e-5)
    assert differ(got[:, k:], want[:, k:])


@each_row()
def test_padding(family, gnn, settings):
    model, batch = put(family, gnn, settings), FAMILIES[family].batch(n=6)
    batch["attention_mask"][1, -2:] = 0
    width = batch["input_ids"].shape[1]
    alone = {k: v[1:] if len(v) == 2 else v[len(v) // 2 :] for k, v in batch.items()}
    for k in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if k in alone:
            alone[k] = alone[k][:, : width - 2]
    got, want = run(model, batch)[1:], run(model, alone)
    close(got[:, : want.shape[1]], want)
    if family in ("gpt2", "llama"):  # on the left too
        batch = FAMILIES[family].batch(n=6)
        batch["attention_mask"][1, :2] = 0
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        close(run(model, batch)[1:, 2:], run(model, {k: v[1:, 2:] for k, v in batch.items()}))


@each_row(GENERATORS)
def test_beams_with_a_cache_are_those_without(family, gnn, settings):
    model, batch = put(family, gnn, settings), FAMILIES[family].batch(n=4)
    batch.pop("decoder_input_ids", None)
    if family in ("gpt2", "llama"):
        batch["attention_mask"][1, :2] = 0
    more = dict(
        num_beams=3,
        do_sample=False,
        max_new_tokens=5,
        return_dict_in_generate=True,
        output_scores=True,
        suppress_tokens=[IMAGE],
    )
    cached, plain = (model.generate(**batch, use_cache=flag, **more) for flag in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for one, two in zip(cached.scores, plain.scores, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-3)


@each_row()
def test_half_precision(family, gnn, settings):
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        model = get_peft_model(FAMILIES[family].make().to(dtype), config(gnn, **settings)).train()
        batch = FAMILIES[family].batch()
        batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
        batch["input_ids"][1, -4:] = 7  # nodes that are nearly equal
        batch["attention_mask"][0, -2:] = 0
        output = model(**batch).logits
        assert output.dtype == dtype and output.isfinite().all()
        output.float().square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@each_row()
def test_autocast_leaves_no_traces(family, gnn, settings):
    model, batch = put(family, gnn, settings), FAMILIES[family].batch()
    want = run(put(family, gnn, settings), batch)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        model(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(**batch).logits
        rough.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert torch.nn.functional.cosine_similarity(rough.float().flatten(), want.flatten(), dim=0) > 0.95
    assert torch.equal(run(model, batch), want)
