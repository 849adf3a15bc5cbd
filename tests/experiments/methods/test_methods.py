"""Every method keeps one contract, and rows have the settings that their notes say."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from attngraph.adapters.peft import optimizer_groups
from attngraph.adapters.scheme import SCHEMES
from attngraph.adapters.scheme import register as register_scheme
from attngraph.errors import UserError
from attngraph.experiments.methods import METHODS, GraphAdapter, method_named
from attngraph.experiments.methods.method import VARIANTS, Tuned
from attngraph.experiments.methods.peft import PeftTuned
from attngraph.experiments.methods.settings import Choice, Settings, chosen_settings
from attngraph.experiments.models import Decoding, Sample, load_family
from attngraph.experiments.runs.plugins import load_plugins
from tests.experiments.models.writers import load
from tests.experiments.runs.small import small_family

# 4 layers of a width of 128, with self-attention, cross-attention and feed-forward
POWERS = 8
LAYER = r"text_decoder\.bert\.encoder\.layer\.\d\."
ADAPTER = LAYER + r"(attention\.output|crossattention\.output|output)\.dense\.gnn_adapter"
LEARN_P = (
    "pgnn",
    "learned_p",
    "tempering",
    "placebo",
    "mean_degree",
    "rescaled",
    "pgnn_replace",
    "pgnn_gated",
)
OFTEN = (  # one of each kind of row; the others in the slow run
    *("gcn", "pgnn", "residual", "pgnn_gated", "position_self", "gcn_r64", "lora", "prefix", "ia3"),
    *("frozen", "full", "text", "majority"),
)
EXAMPLE = Path(__file__).parents[1] / "examples" / "example_method.py"
# 16 places (queries and values of two attentions in 4 layers): rank 8, or 16 tokens of keys and values in 8
OTHER = {"lora": 16 * 8 * (128 + 128), "prefix": 8 * 2 * 16 * 128, "ia3": 16 * 128}
OTHER["dora"] = OTHER["lora"] + 16 * 128  # a magnitude for each output
OTHER["prompt_tuning"] = 16 * 128  # 16 tokens
OTHER["p_tuning"] = 16 * 128 + 3 * (128 * 128 + 128)  # and three layers of an MLP
OTHER_NAMES = {
    "lora": LAYER + r"(attention|crossattention)\.self\.(query|value)\.lora_[AB]\.default\.weight",
    "dora": LAYER
    + r"(attention|crossattention)\.self\.(query|value)\.lora_([AB]|magnitude_vector)\.default\.weight",
    "prefix": LAYER + r"(attention|crossattention)\.self\.kv_prefix\.(key|value)",
    "ia3": LAYER + r"(attention|crossattention)\.self\.(key|value)\.ia3_l\.default",
}
EMBEDDINGS = r"text_decoder\.bert\.embeddings\.word_embeddings\.learned_tokens\."
OTHER_NAMES |= dict.fromkeys(("prompt_tuning", "p_tuning"), EMBEDDINGS + r"(embedding|mlp_head\.\d)\.\w+")


def expected_count(name: str, settings: dict) -> int:
    """Per place a bottleneck; per attention its share of the join, or gate, and its p."""
    places, width = settings.get("positions", ["self", "cross", "ffn"]), 128 // settings["reduction"]
    attentions = 4 * len(set(places) - {"ffn"})
    share = {"blend": 1, "gated": 128 * width + width, "replace": 0}[settings["join"]]
    scheme = METHODS.get(name)
    learns = scheme and scheme.gnn in ("pgnn", "tempering", "rotated")
    learns = learns and settings["gnn_args"].get("learn_p", True)
    return 4 * len(places) * (128 * width + width + width * 128 + 128) + attentions * (share + bool(learns))


@pytest.fixture(scope="module")
def settings():
    return chosen_settings()


@pytest.fixture(scope="module")
def sizes():
    return {name: p.numel() for name, p in load_family().model.named_parameters()}


@pytest.fixture
def example(monkeypatch):
    """The example of a method of one's own, which is forgotten after the test."""
    monkeypatch.setattr("attngraph.experiments.runs.plugins._loaded", {})
    load_plugins([EXAMPLE])
    yield
    del METHODS["ia3"]


def applied(name, settings):
    method = method_named(name)
    return method.apply(load_family(), method.settings(settings, "vqa"))


def moved(tuned):
    """All that is trained a little way off, as if it had been."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in tuned.parameters().values():
            p += 0.1 * torch.randn(p.shape, generator=draw)
    return tuned


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in OFTEN)) for name in [*METHODS, "ia3"]]
)
def test_contract(name, settings, sizes, example, tmp_path):
    """It trains what it says, saves it, and reads it again to the last bit."""
    method, tuned = METHODS[name], applied(name, settings)
    trained = {key: p.numel() for key, p in tuned.parameters().items()}
    assert set(trained) == {key for key, p in tuned.family.model.named_parameters() if p.requires_grad}
    assert method.trains == bool(trained)
    own = method.settings(settings, "vqa")
    assert json.loads(json.dumps(own)) == own and method.title and method.rate(settings, "vqa") > 0
    if name == "full":
        assert trained == sizes
    elif name in ("text", "decoder"):
        assert trained == {key: size for key, size in sizes.items() if key.startswith("text_decoder.")}
        assert 0 < len(trained) < len(sizes)
    elif name in OTHER:
        assert sum(trained.values()) == OTHER[name]
        assert all(re.fullmatch(OTHER_NAMES[name], key) for key in trained)
    elif trained:
        assert sum(trained.values()) == expected_count(name, own)
        assert all(re.match(ADAPTER, key) for key in trained)
        powers = [key for key in trained if key.endswith("p_logit.stored")]
        if method.group != VARIANTS:
            assert len(powers) == (POWERS if name in LEARN_P else 0)

    moved(tuned).save(tmp_path)
    assert bool(list(tmp_path.iterdir())) == bool(trained)
    (tmp_path / "predictions.json").write_text('{"a": "yes"}')  # as a run does
    again = applied(name, settings)
    again.load(tmp_path)
    for key, p in tuned.parameters().items():
        assert torch.equal(p, again.parameters()[key]), key


def test_an_adapter_starts_as_the_model_is(settings, tmp_path):
    plain, tuned = load_family(), applied("pgnn", settings)
    assert sum(p.numel() for p in tuned.parameters().values()) == 100_240, "as many as ever"
    inputs = plain.training_inputs([Sample("a", torch.randn(65, 128), "what is it ?", "a red circle")])
    inputs.pop("labels")
    with torch.no_grad():
        assert torch.allclose(tuned.family.logits(inputs), plain.logits(inputs), atol=1e-6)
    tuned.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_what_was_trained_is_never_left_unread(tmp_path):
    """A method whose class does not say how it is read is refused."""
    with pytest.raises(UserError, match="implement Tuned.load"):
        Tuned(load_family()).load(tmp_path)


def test_other_peft_methods_are_read(tmp_path):
    """Among them whole modules that are trained beside an adapter."""

    def lora() -> PeftTuned:
        family, config = load_family(), LoraConfig(target_modules=["query"], modules_to_save=["transform"])
        return PeftTuned(family, get_peft_model(family.model, config))

    saved, other = moved(lora()), lora()
    saved.save(tmp_path)
    other.load(tmp_path)
    assert any("modules_to_save" in name for name in saved.parameters())
    for name, parameter in saved.parameters().items():
        assert torch.equal(parameter, other.parameters()[name])


def test_majority_says_the_most_frequent_answer(settings, tmp_path):
    tuned = method_named("majority").apply(small_family(), {})
    tuned.observe(["yes", "no", "no", "blue", "yes"])
    samples = [Sample("a", None, "is it ?"), Sample("b", Path("no such picture"), "what ?")]
    assert tuned.answer(samples, Decoding()) == ["yes", "yes"], "the first of two that are equally frequent"
    (tmp_path / "predictions.json").write_text('{"1": "no", "2": "no"}')  # of a finished run
    tuned.load(tmp_path)
    assert tuned.answer(samples, Decoding()) == ["no", "no"]


def test_the_residual_is_the_share_of_the_p_adapter_at_its_start():
    p, mu = 1.25, 1.0
    chosen = Settings(methods={"pgnn": {"vqa": Choice(learning_rate=1, arguments={"p": p, "mu": mu})}})
    alpha = method_named("residual").settings(chosen, "vqa")["gnn_args"]["alpha"]
    assert alpha == pytest.approx((2 * mu / p) / (1 + 2 * mu / p))  # β with weights that sum to 1


def test_rows_use_the_settings_of_the_method_that_they_follow():
    pgnn = {"p": 1.3, "mu": 0.7}
    chosen = Settings(
        reduction=8,
        methods={
            "gcn": {"vqa": Choice(learning_rate=0.1, join="replace")},
            "pgnn": {"vqa": Choice(learning_rate=0.2, join="gated", arguments=pgnn)},
            "placebo": {"vqa": Choice(learning_rate=0.3, join="gated", arguments=pgnn)},
        },
    )
    expected = {  # scheme, arguments, join, learning rate
        "gcn": ("gcn", {}, "replace", 0.1),
        "rate": ("gcn", {}, "replace", 0.2),
        "pgnn": ("pgnn", pgnn, "gated", 0.2),
        "learned_p": ("pgnn", pgnn, "gated", 0.2),
        "fixed_p": ("pgnn", {**pgnn, "learn_p": False}, "gated", 0.2),
        "p2": ("pgnn", {"p": 2.0, "mu": 0.0, "learn_p": False}, "gated", 0.2),
        "tempering": ("tempering", pgnn, "gated", 0.2),
        "placebo": ("rotated", pgnn, "gated", 0.3),
        "mean_degree": ("pgnn", {**pgnn, "degree": "mean"}, "gated", 0.2),
        "rescaled": ("pgnn", pgnn, "gated", 0.2),
        "pgnn_replace": ("pgnn", pgnn, "replace", 0.2),
        "pgnn_gated": ("pgnn", pgnn, "gated", 0.2),
        "gcn_gated": ("gcn", {}, "gated", 0.2),
    }
    for name, row in expected.items():
        method, settings = method_named(name), method_named(name).settings(chosen, "vqa")
        rate = method.rate(chosen, "vqa")
        assert (settings["gnn"], settings["gnn_args"], settings["join"], rate) == row, name
        assert settings["reduction"] == 8 and settings.get("rescale", False) == (name == "rescaled")


def test_chosen_arguments_that_a_method_does_not_take_are_refused():
    for name, argument, said in (
        ("pgnn", "muu", r"unknown argument in the settings of pgnn on vqa 'muu'.*mu.*: choose from p, mu"),
        ("full", "vision_rate", "choose from vision_learning_rate"),
        ("lora", "r", "choose from none"),
    ):
        chosen = Settings(methods={name: {"vqa": Choice(learning_rate=1, arguments={argument: 1})}})
        with pytest.raises(UserError, match=said):
            method_named(name).rate(chosen, "vqa")


def test_a_scheme_of_ones_own_is_a_row(settings):
    register_scheme("keep")(type("Keep", (SCHEMES["gcn"],), {}))
    try:
        method = method_named("keep")
        assert isinstance(method, GraphAdapter) and method.title == "keep"
        own = method.settings(settings, "vqa")
        assert own["gnn"] == "keep" and method.leader == "gcn"
        assert method.rate(settings, "vqa") == settings.methods["gcn"]["vqa"].learning_rate
        tuned = method.apply(load_family(), own)
        assert sum(p.numel() for p in tuned.parameters().values()) == expected_count("gcn", own)
    finally:
        del SCHEMES["keep"]
    with pytest.raises(UserError, match="unknown method 'keep': choose from gcn, "):
        method_named("keep")


@pytest.mark.parametrize("name, join", [("gcn", "blend"), ("pgnn", "gated"), ("residual", "blend")])
def test_what_adapters_do_is_measured(name, join, settings):
    """In each self- and cross-attention; the vanilla adapter does nothing before its bottleneck."""
    method = method_named(name)
    tuned = method.apply(load_family(), method.settings(settings, "vqa") | {"join": join})
    samples = [
        Sample("a", torch.randn(65, 128), "what is it ?", "a red circle"),
        Sample("b", torch.randn(65, 128), "is it ?", "no"),
    ]
    effects = tuned.effects(samples)
    assert len(effects) == 8 and sum("crossattention" in layer for layer in effects) == 4
    for effect in effects.values():
        assert {"kappa", "moved", "length", "cosine"} <= set(effect) and effect["queries"] > 6
        assert ("share" in effect) == (join == "blend")
        assert ("p" in effect) == (name == "pgnn")
        if name == "gcn":
            assert effect["kappa"] == effect["length"] == pytest.approx(1, abs=1e-5)
            assert effect["moved"] == pytest.approx(0, abs=1e-5)
        else:
            assert 0 < effect["kappa"] < 1
    assert tuned.effects(samples) == effects, "looking changes nothing"
    learned = [name for name in tuned.scalars() if name.endswith(".p") or name == "p"]
    assert len(learned) == (POWERS if name == "pgnn" else 0)
    assert applied("frozen", settings).effects(samples) == {}


# ---- full fine-tuning with a learning rate of its own for the image encoder ------------------------------

FULL = method_named("full")
RATE = 5e-6


def with_rate(**arguments) -> dict:
    chosen = Settings(methods={"full": {"vqa": Choice(learning_rate=3e-5, arguments=arguments)}})
    return FULL.settings(chosen, "vqa")


def test_a_step_moves_each_side_at_its_rate():
    """With gradients of one size everywhere, AdamW's first step is the learning rate."""
    family = load("mplug")
    assert with_rate() == {} and FULL.apply(family, {}).rates() == {}
    tuned = FULL.apply(family, with_rate(vision_learning_rate=RATE))
    groups = optimizer_groups(family.model, 3e-5, 0.0, tuned.rates())
    parameters = tuned.parameters()
    for parameter in parameters.values():
        parameter.data = parameter.data.double()
        parameter.grad = torch.ones_like(parameter)
    before = {key: p.detach().clone() for key, p in parameters.items()}
    torch.optim.AdamW(groups).step()
    for key, parameter in parameters.items():
        rate = RATE if key.startswith("vision_model.") else 3e-5
        moved = before[key] - parameter.detach()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-3, atol=0.0)


def test_rates_that_are_none_are_one_line():
    family = load("mplug")
    with pytest.raises(UserError, match="^settings of full: field vision_learning_rate"):
        FULL.apply(family, {"vision_learning_rate": 0})
    with pytest.raises(UserError, match="has no separate image encoder: remove vision_learning_rate"):
        FULL.apply(load("git"), {"vision_learning_rate": RATE})
