"""Each method trains what it says, and saves it so that it can be loaded again."""

import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from adapters.scheme import SCHEMES, Scheme
from adapters.scheme import register as register_scheme
from attngraph.errors import UserError
from experiments.configs.settings import Settings, chosen_settings
from experiments.methods import METHODS, GraphAdapter, method_named
from experiments.models import Decoding, Sample, load_family
from experiments.tasks import TASKS
from tests.experiments.training.small import small_family, small_run

# 4 layers with self-attention, cross-attention and feed-forward; a bottleneck of 32 on a width of 128 in
# each; a share of the join in each attention; p in each attention where it is learnt.
BOTTLENECKS, SHARES, POWERS = 12 * (128 * 32 + 32 + 32 * 128 + 128), 8, 8
LAYER = r"text_decoder\.bert\.encoder\.layer\.\d\."
ADAPTER = LAYER + r"(attention\.output|crossattention\.output|output)\.dense\.gnn_adapter"
COUNTS = {
    **dict.fromkeys(("gcn", "appnp", "gcnii", "rate", "p2", "residual", "fixed_p"), BOTTLENECKS + SHARES),
    **dict.fromkeys(("pgnn", "learned_p"), BOTTLENECKS + SHARES + POWERS),
    **dict.fromkeys(("frozen", "majority"), 0),
}


@pytest.fixture(scope="module")
def settings():
    return chosen_settings()


@pytest.fixture(scope="module")
def sizes():
    model = load_family().model
    return {name: p.numel() for name, p in model.named_parameters()}


def applied(name, settings):
    method = method_named(name)
    return method.apply(load_family(), method.settings(settings))


@pytest.mark.parametrize("name", METHODS)
def test_it_trains_what_it_says(name, settings, sizes):
    tuned = applied(name, settings)
    trained = {key: p.numel() for key, p in tuned.parameters().items()}
    assert set(trained) == {key for key, p in tuned.family.model.named_parameters() if p.requires_grad}
    if name == "full":
        assert trained == sizes
    elif name == "text":
        assert trained == {key: size for key, size in sizes.items() if key.startswith("text_decoder.")}
        assert 0 < len(trained) < len(sizes)
    else:
        assert sum(trained.values()) == COUNTS[name]
        assert all(re.match(ADAPTER, key) for key in trained)
        powers = [key for key in trained if key.endswith("p_logit")]
        assert len(powers) == (POWERS if name in ("pgnn", "learned_p") else 0)
    assert METHODS[name].trains == bool(trained)


def test_the_p_adapter_has_as_many_parameters_as_ever(settings):
    assert sum(p.numel() for p in applied("pgnn", settings).parameters().values()) == 100_240


def test_an_adapter_starts_as_the_model_is_and_is_saved_exactly(settings, tmp_path):
    samples = [Sample("a", torch.randn(65, 128), "what is it ?", "a red circle")]
    plain, tuned = load_family(), applied("pgnn", settings)
    inputs = plain.training_inputs(samples)
    inputs.pop("labels")
    with torch.no_grad():
        start = plain.logits(inputs)
        assert torch.allclose(tuned.family.logits(inputs), start, atol=1e-6)
        draw = torch.Generator().manual_seed(0)
        for p in tuned.parameters().values():
            p += 0.3 * torch.randn(p.shape, generator=draw)
        moved = tuned.family.logits(inputs)
        assert (moved - start).abs().max() > 0.1
        tuned.save(tmp_path)
        again = load_family()
        PeftModel.from_pretrained(again.model, str(tmp_path))
        assert torch.equal(again.logits(inputs), moved)
        with tuned.family.unadapted():
            assert torch.equal(tuned.family.logits(inputs), start)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("name", ["full", "text"])
def test_own_parameters_are_saved_in_half_precision(name, settings, tmp_path):
    tuned = applied(name, settings)
    tuned.save(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == tuned.parameters().keys()
    assert all(torch.equal(saved[key], p.half()) for key, p in tuned.parameters().items())
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["frozen", "majority"])
def test_nothing_is_saved_where_nothing_is_trained(name, settings, tmp_path):
    applied(name, settings).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_text_alone_hides_the_picture(tmp_path):
    """Two questions about different pictures differ for the other methods, not for this one."""
    for name, hidden in (("text", True), ("full", False)):
        tuned, data = small_run(tmp_path / name, name)
        pair = [data.sample(k, 0.0) for k in (0, 2)]
        inputs = tuned.family.training_inputs(
            [pair[0], pair[1].__class__(**{**vars(pair[0]), "image": pair[1].image})]
        )
        inputs.pop("labels")
        first, second = tuned.family.logits(inputs)
        assert torch.equal(first, second) == hidden
        if hidden:
            assert not any(torch.as_tensor(sample.image).any() for sample in pair)


def test_majority_says_the_most_frequent_answer(settings):
    tuned = method_named("majority").apply(small_family(), {})
    tuned.observe(["yes", "no", "no", "blue", "yes"])
    samples = [Sample("a", None, "is it ?"), Sample("b", Path("no such picture"), "what ?")]
    assert tuned.answer(samples, Decoding()) == ["yes", "yes"], "the first of two that are equally frequent"


@pytest.mark.parametrize("p, mu", [(1.5, 0.1), (1.25, 1.0), (2.0, 0.5)])
def test_the_residual_is_the_share_of_the_p_adapter_at_its_start(p, mu):
    chosen = Settings(join="blend", arguments={"pgnn": {"p": p, "mu": mu}})
    alpha = method_named("residual").settings(chosen)["gnn_args"]["alpha"]
    assert alpha == pytest.approx((2 * mu / p) / (1 + 2 * mu / p))  # β with weights that sum to 1


def test_rows_use_the_settings_of_the_method_that_they_follow():
    chosen = Settings(
        join="gated",
        reduction=8,
        arguments={"gcn": {}, "pgnn": {"p": 1.3, "mu": 0.7}},
        learning_rates={"gcn": {"vqa": 0.1}, "pgnn": {"vqa": 0.2}},
    )
    vqa, ve = TASKS["vqa"], TASKS["ve"]
    found = {name: method_named(name) for name in ("gcn", "rate", "fixed_p", "learned_p", "p2", "pgnn")}
    arguments = {name: method.settings(chosen)["gnn_args"] for name, method in found.items()}
    assert arguments == {
        "gcn": {},
        "rate": {},
        "pgnn": {"p": 1.3, "mu": 0.7},
        "learned_p": {"p": 1.3, "mu": 0.7},
        "fixed_p": {"p": 1.3, "mu": 0.7, "learn_p": False},
        "p2": {"p": 2.0, "mu": 0.0, "learn_p": False},
    }
    rates = {name: method.rate(chosen, vqa) for name, method in found.items()}
    assert rates == {**dict.fromkeys(found, 0.2), "gcn": 0.1}
    assert found["rate"].settings(chosen)["gnn"] == "gcn" and found["p2"].settings(chosen)["gnn"] == "pgnn"
    assert found["pgnn"].rate(chosen, ve) == found["pgnn"].default_rate, "where none was chosen"
    for method in found.values():
        assert method.settings(chosen)["join"] == "gated" and method.settings(chosen)["reduction"] == 8
        assert method.settings(chosen, join="replace")["join"] == "replace"


@pytest.mark.parametrize("row, missing", [("appnp", "appnp"), ("residual", "pgnn"), ("p2", "pgnn")])
def test_settings_that_lack_something_are_named(row, missing):
    chosen = Settings(join="blend", arguments={"gcn": {}}, learning_rates={"gcn": {}})
    with pytest.raises(
        UserError, match=f"arguments.{missing} is missing; restore it, or run attngraph search"
    ):
        method_named(row).settings(chosen)


def test_a_scheme_of_ones_own_is_a_row(settings):
    @register_scheme("keep")
    class Keep(Scheme):
        r"""The attention's own output, :math:`\bar U = M \hat V`."""

        def propagate(self, edges):
            return edges.to_queries(edges.weights, edges.value)

        def edge_weights(self, edges):
            return edges.weights

    try:
        method = method_named("keep")
        assert isinstance(method, GraphAdapter) and method.title == "keep"
        assert method.settings(settings)["gnn_args"] == {} and method.leader == "gcn"
        assert method.rate(settings, TASKS["vqa"]) == settings.learning_rates["gcn"]["vqa"]
        tuned = method.apply(load_family(), method.settings(settings))
        assert sum(p.numel() for p in tuned.parameters().values()) == COUNTS["gcn"]
    finally:
        del SCHEMES["keep"]
    with pytest.raises(UserError, match="unknown method 'keep': choose from gcn, "):
        method_named("keep")


def test_learned_numbers_are_read(settings):
    scalars = applied("pgnn", settings).scalars()
    assert sum(name.endswith(".p") or name == "p" for name in scalars) == POWERS
    assert applied("full", settings).scalars() == {}
