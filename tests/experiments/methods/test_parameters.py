"""Counted parameters are those of the architecture, in numbers that can be checked by hand."""

import pytest
import torch

from attngraph.experiments import cli
from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.parameters import count_parameters
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models.blip import blip_base_without_weights

PAPER = Settings(reduction=8)
LAYERS = "text_decoder.bert.encoder.layer.*."
BOTTLENECK = 768 * 96 + 96 + 96 * 768 + 768


def counted(name: str, **changes):
    """In a model without values."""
    method, family = method_named(name), blip_base_without_weights()
    tuned = method.apply(family, {**method.settings(PAPER, "vqa"), **changes})
    assert {parameter.device for parameter in family.model.parameters()} == {torch.device("meta")}
    return count_parameters(tuned)


def test_36_bottlenecks_of_width_96_in_blip_base():
    """The paper's sizes: 5.34 M in 223.7 M. Its shares, 6.39 % and 0.71 %, do not follow from them."""
    count = counted("adapter", join="replace")
    assert count.trained == 36 * BOTTLENECK == 5_339_520
    assert count.model == 223_679_804 and count.language_side == 137_881_148
    assert count.trained_there == count.trained
    assert count.shares == pytest.approx({"model": 0.023871, "language_side": 0.038726}, abs=1e-6)
    assert counted("prefix").shares["model"] == pytest.approx(0.002637, abs=1e-6)
    places = ("attention.output.dense", "crossattention.output.dense", "output.dense")
    assert count.parts == {LAYERS + place: (12, 12 * BOTTLENECK) for place in places}
    learned = counted("pgnn", join="replace")
    assert learned.trained == count.trained + 24, "p in each attention"


def test_lora_and_prefix_have_as_many_parameters_by_default():
    """2 · 8 · (768 + 768) of two projections, and 2 · 16 · 768 of keys and values, in 24 attentions."""
    lora, prefix = counted("lora"), counted("prefix")
    assert lora.trained == prefix.trained == 24 * 24_576 == 589_824
    attentions = ("attention.self", "crossattention.self")
    assert prefix.parts == {LAYERS + place: (12, 12 * 24_576) for place in attentions}
    assert [places for places, _ in lora.parts.values()] == [12] * 4
    assert counted("lora", targets=["query", "key", "value", "output"], r=4).trained == 589_824
    assert counted("prefix", tokens=4, projection=8).trained == 24 * (4 * 8 + 8 * 8 + 8 + 8 * 1536 + 1536)


def test_copies_of_modules_that_peft_trains_whole_are_not_counted_as_the_models():
    plain, more = counted("ia3"), counted("ia3", modules_to_save=["text_decoder.cls.predictions.transform"])
    assert more.model == plain.model and more.language_side == plain.language_side
    assert more.trained - plain.trained == more.trained_there - plain.trained_there == 768 * 768 + 3 * 768
    assert more.parts["text_decoder.cls.predictions.transform"] == (1, 768 * 768 + 3 * 768)


def test_own_parameters():
    full, decoder = counted("full"), counted("decoder")
    assert full.trained == full.model and full.shares == {"model": 1.0, "language_side": 1.0}
    assert decoder.trained == decoder.language_side
    assert sum(n for _, n in decoder.parts.values()) == decoder.trained
    several = sum(places > 1 for places, _ in decoder.parts.values())
    assert 0 < several < len(decoder.parts) and "\n".join(decoder.lines("x")).count(" × ") == several
    assert counted("frozen").trained == 0 and counted("frozen").parts == {}


def test_the_command(capsys):
    assert cli.main(["parameters", "adapter,prefix", "--base"]) == 0
    out = capsys.readouterr().out
    assert "BLIP-base: 223,679,804 parameters, 137,881,148 of them on the language side" in out
    assert "GCN" in out and "5,339,520" in out and "2.39 %" in out and "12 × 148,320" in out
    assert "Prefix tuning" in out and "589,824" in out and "0.26 %" in out and "0.43 %" in out
    assert cli.main(["parameters", "pgnn", "--reduction", "16"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mini-BLIP: 1,957,424 parameters") and "4 × " in out
    trained = []
    for name in ("gcn", "gcn_gated"):
        assert cli.main(["parameters", name]) == 0
        trained.append(capsys.readouterr().out.splitlines()[3].split()[-5])
    assert trained == ["100,224", "133,248"], "as in the paper, or in a way of its own"
    for words, message in (
        (["ggnn"], "unknown method 'ggnn' (did you mean pgnn?)"),
        (["gcn", "--base", "--model", "x"], "--base does not use a checkpoint: remove --model"),
    ):
        assert cli.main(["parameters", *words]) == 2 and message in capsys.readouterr().err
