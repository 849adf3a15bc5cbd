"""mPLUG's checkpoints in the authors' names compute what the authors' do."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from attngraph.errors import UserError
from experiments.cli import main
from experiments.models import Decoding, Ranking, Sample, load_family
from experiments.models.loading import type_of
from experiments.models.original import conversion
from experiments.models.original.layouts import LAYOUTS
from experiments.models.original.vocabulary import read_vocabulary
from tests.experiments.models.original.authors_mplug import (
    BUILT,
    CLS,
    PATCH,
    RUN,
    SEP,
    SIDE,
    WIDTH,
    WORDS,
    MPlugAuthors,
    save_checkpoint,
    weights,
)

TEXTS = torch.tensor([[CLS, 5, 6, 7, 8, 9, SEP, 0], [CLS, 8, 13, 7, 9, 10, 12, SEP]])
MASK = (TEXTS != 0).long()
QUESTIONS = torch.tensor([[CLS, 11, 12, 13, 8, 14], [CLS, 8, 14, 0, 0, 0]])
ASKED = (QUESTIONS != 0).long()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def logits_of(family, pixels, asks: bool) -> torch.Tensor:
    """What the family makes of the two texts, as answers or as captions."""
    places = torch.arange(TEXTS.shape[1]).expand_as(TEXTS)
    texts = {"input_ids": TEXTS, "attention_mask": MASK, "position_ids": places}
    asked = {"question_ids": QUESTIONS, "question_mask": ASKED} if asks else {}
    with torch.no_grad():
        return family.logits({**texts, **asked, "pixel_values": pixels, "image_index": torch.arange(2)})


def logits_of_authors(state, pixels, asks: bool, stride: int = 3) -> torch.Tensor:
    """In float64."""
    doubles = {name: x.double() if x.is_floating_point() else x for name, x in state.items()}
    authors = MPlugAuthors(doubles, stride)
    image = authors.picture(pixels.double())
    seen = authors.fused(QUESTIONS, ASKED, image) if asks else (image,)
    return authors.logits(TEXTS, MASK, *seen).float()


def fine_tuned(state):
    """The same weights by the names that they have after pre-training."""
    return {re.sub(r"^(text_encoder|fusion_encoder)\.bert\.", r"\1.", name): x for name, x in state.items()}


KINDS = {
    "fine-tuned": ("finetuned", {}, "model"),
    "fine-tuned with twins": ("distilled", {}, "module"),
    "pre-training": ("pretraining", {}, "model"),
    "large": ("finetuned", dict(seen=192), "module"),
    "large, pre-training": ("pretraining", dict(seen=64), "model"),
}


@pytest.mark.parametrize("asks", [True, False], ids=["vqa", "caption"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("large")) for name in KINDS]
)
def test_file_and_folder_compute_what_the_authors_weights_do(name, asks, pixels, tmp_path, capsys):
    kind, sizes, place = KINDS[name]
    state = weights(kind, **sizes)
    file = save_checkpoint(tmp_path, state, place)
    expected = logits_of_authors(fine_tuned(state), pixels, asks, stride=6 if sizes else 3)
    assert main(["convert", "mplug", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "whole, image encoder, text encoder" in capsys.readouterr().out
    found = [logits_of(load_family(route), pixels, asks) for route in (file, tmp_path / "out")]
    assert type_of(str(file)) == type_of(str(tmp_path / "out")) == "mplug"
    used = MASK.bool()
    assert expected[used].std() > 1, "a wrong mapping would not show"
    torch.testing.assert_close(found[0][used], expected[used], atol=1e-4, rtol=1e-5)
    assert torch.equal(*found)


@pytest.mark.parametrize("part", ["text_encoder", "fusion_encoder", "text_decoder.bert"])
def test_the_reference_tells_weights_apart(part, pixels):
    """Otherwise its agreement would prove nothing."""
    state = weights()
    number = BUILT - 1 if part == "fusion_encoder" else 1
    block = f"{part}.encoder.layer.{number}.attention.self"
    other = dict(state)
    other[f"{block}.key.weight"], other[f"{block}.value.weight"] = (
        state[f"{block}.value.weight"],
        state[f"{block}.key.weight"],
    )
    logits, changed = (logits_of_authors(s, pixels, True) for s in (state, other))
    assert (logits - changed).abs().max() > 0.1
    assert (logits - logits_of_authors(state, pixels, True, stride=2)).abs().max() > 0.1
    assert (logits - logits_of_authors(state, pixels, False)).abs().max() > 0.1


def test_every_tensor_is_accounted_for(tmp_path, capsys):
    state = weights("pretraining", seen=192)
    file = save_checkpoint(tmp_path, state)
    assert main(["convert", "mplug", str(file), "--out", str(tmp_path / "out")]) == 0
    told, account = capsys.readouterr().out, json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert list(account["tensors"]) == list(state)
    model = load_family(tmp_path / "out").model.state_dict()
    left = {}
    for name, each in account["tensors"].items():
        assert each["shape"] == list(state[name].shape)
        if "used as" in each:
            assert torch.equal(model.pop(each["used as"]), state[name])
        elif "cut into" in each:
            parts = [model.pop(part) for part in each["cut into"]]
            assert torch.equal(torch.cat(parts), state[name])
        elif "left out" in each:
            left[name] = each["left out"]
        else:
            assert each["equal to"] in state
    assert set(model) == {f"text_decoder.cls.predictions.decoder.{part}" for part in ("weight", "bias")}
    assert all(reason in told for reason in left.values())
    unused = {name for name in left if name.startswith("fusion_encoder.bert.encoder.layer.")}
    assert {int(name.split(".")[4]) for name in unused} == set(range(BUILT - RUN)), "stride 6 joins nowhere"
    assert all(name in left for name in state if "_m." in name or name.startswith("visual_encoder.ln_final"))


def test_a_joined_layer_has_no_cross_attention(tmp_path):
    file = save_checkpoint(tmp_path, weights())
    layers = load_family(file).model.fusion_encoder.layer
    assert [hasattr(layer, "crossattention") for layer in layers] == [True, True, True, False, True, True]


def test_another_side(tmp_path):
    """Bilinear, the class token's row kept; in the folder and at loading."""
    state = weights()
    file, out = save_checkpoint(tmp_path, state), tmp_path / "out"
    assert main(["convert", "mplug", str(file), "--out", str(out), "--side", str(5 * PATCH)]) == 0
    pixels = torch.randn(2, 3, 5 * PATCH, 5 * PATCH)
    folder, late = load_family(out), load_family(file, side=5 * PATCH)
    assert torch.equal(logits_of(folder, pixels, True), logits_of(late, pixels, True))
    assert folder.image_side == 5 * PATCH
    old = state["visual_encoder.visual.positional_embedding"]
    grid = old[1:].T.reshape(1, WIDTH, 3, 3)
    wanted = torch.nn.functional.interpolate(grid, size=(5, 5), mode="bilinear").reshape(WIDTH, 25).T
    place = folder.model.vision_model.embeddings.position_embedding.weight
    torch.testing.assert_close(place, torch.cat([old[:1], wanted]))


def test_a_file_is_a_model_like_others(tmp_path):
    loaded = load_family(save_checkpoint(tmp_path, weights()))
    assert loaded.name == "mplug" and loaded.title.endswith("(mplug.pth)") and loaded.image_side == SIDE
    sample = Sample("one", Image.new("RGB", (30, 20), "red"), "what is the [SEP] stop", "red ball")
    assert len(loaded.generate([sample], Decoding(4))) == 1
    assert loaded.answer([sample], Ranking(("red", "blue ball")))[0] in ("red", "blue ball")
    inputs = loaded.training_inputs([sample])
    assert inputs["input_ids"][0].tolist() == [CLS, 6, 8, SEP]
    words = [*"what is the".split(), "[SEP]", "stop"]
    assert inputs["question_ids"][0].tolist() == [CLS, *map(WORDS.index, words)], "no end token"
    inputs.pop("labels")
    loaded.logits(inputs).sum().backward()
    side = tuple(f"{name}." for name in loaded.language_side())
    assert all(p.grad is not None for name, p in loaded.model.named_parameters() if name.startswith(side))


@pytest.mark.parametrize("part", ["fusion_encoder", "text_encoder", "text_decoder"])
@pytest.mark.parametrize("gone", ["", "0."])
def test_layers_that_are_missing_as_a_whole_are_refused(part, gone, tmp_path):
    layers = re.compile(rf"{part}\.(bert\.)?encoder\.layer\.{re.escape(gone)}")
    state = {name: tensor for name, tensor in weights().items() if not layers.match(name)}
    assert len(state) < len(weights())
    with pytest.raises(UserError, match=rf"{part}.*layer\.0.* is missing"):
        load_family(save_checkpoint(tmp_path, state))


def test_layers_that_are_missing_at_the_end_are_told(tmp_path, capsys):
    """A model of fewer layers would compute something, so nothing but their number shows it."""
    load_family(save_checkpoint(tmp_path, weights("pretraining")))
    told = re.findall(
        r"mplug.pth: layers (.*)\.\*: (\d+), where the authors' checkpoints have (.*): ",
        capsys.readouterr().err,
    )
    assert told == [
        ("visual_encoder.visual.transformer.resblocks", "2", "12 or 24"),
        ("text_encoder.bert.encoder.layer", "2", "6"),
        ("fusion_encoder.bert.encoder.layer", str(BUILT), "12"),
        ("text_decoder.bert.encoder.layer", "2", "12"),
    ]


def test_layers_as_the_authors_have_them_are_not_told():
    for layout, odd in ((LAYOUTS["mplug"], 11), (LAYOUTS["blip"], 11)):
        tensors = {
            f"{prefix}{layer}.weight": torch.ones(1)
            for prefix, counts in layout.depths.items()
            for layer in range(counts[-1])
        }
        assert not conversion._unusual_depths(tensors, layout, Path("x.pth"), list(tensors))
        del tensors[f"text_decoder.bert.encoder.layer.{odd}.weight"]
        (line,) = conversion._unusual_depths(tensors, layout, Path("x.pth"), list(tensors))
        assert line.startswith("x.pth: layers text_decoder.bert.encoder.layer.*: 11, where ")


@pytest.mark.parametrize("how", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["attn.in_proj_weight", "ln_1.bias"])
def test_weights_that_are_not_finite_are_refused(part, how, tmp_path):
    state, name = weights(), f"visual_encoder.visual.transformer.resblocks.1.{part}"
    state[name].view(-1)[0] = how
    with pytest.raises(UserError, match=rf"{name} holds numbers that are not finite"):
        load_family(save_checkpoint(tmp_path, state))


@pytest.mark.parametrize("places", [1, 9])
def test_positions_that_are_no_square_are_refused(places, tmp_path):
    state, name = weights(), "visual_encoder.visual.positional_embedding"
    state[name] = state[name][:places]
    with pytest.raises(UserError, match=rf"{name} \({places} x {WIDTH}\) fits no square of patches"):
        load_family(save_checkpoint(tmp_path, state))


def test_sparse_weights_are_refused_where_they_are_used(tmp_path):
    state = weights("pretraining")
    state["temp"] = torch.eye(2).to_sparse()  # not used
    load_family(save_checkpoint(tmp_path, state))
    name = "visual_encoder.visual.conv1.weight"
    dense = state[name]
    state[name] = dense.to_sparse()
    with pytest.raises(UserError, match=rf"{name} \(a sparse tensor\)"):
        load_family(save_checkpoint(tmp_path, state))
    state[name] = dense
    for name in ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"):
        twin, name = weights("pretraining"), f"text_decoder.{name}"
        twin[name] = twin[name].to_sparse()
        with pytest.raises(UserError, match=rf"1 of another shape or value: {name} \(a sparse tensor\)"):
            load_family(save_checkpoint(tmp_path, twin))


@pytest.mark.parametrize(
    "tensor, fault",
    [
        (torch.ones(1, 1).expand(10**9, WIDTH), "repeats 4 bytes of numbers"),
        (torch.quantize_per_tensor(torch.ones(WIDTH), 0.1, 0, torch.qint8), "is quantised"),
        (torch.empty(WIDTH, device="meta"), "a meta tensor"),
    ],
)
def test_numbers_that_are_not_there_in_full_are_refused(tensor, fault, tmp_path):
    name = "visual_encoder.visual.ln_post.bias"
    with pytest.raises(UserError, match=rf"{name} .*{fault}"):
        load_family(save_checkpoint(tmp_path, weights() | {name: tensor}))


def test_the_fusion_begins_after_as_many_layers_as_the_text_encoder_has(tmp_path):
    state = {name: value for name, value in weights().items() if "text_encoder.encoder.layer.1." not in name}
    layers = load_family(save_checkpoint(tmp_path, state)).model.fusion_encoder.layer
    assert len(layers) == BUILT - 1
    assert torch.equal(layers[0].output.dense.bias, state["fusion_encoder.encoder.layer.1.output.dense.bias"])


def test_what_is_refused(tmp_path):
    state = weights()
    state.pop("visual_encoder.visual.transformer.resblocks.1.attn.in_proj_bias")
    state["fusion_encoder.encoder.layer.3.extra"] = torch.ones(2)
    with pytest.raises(
        UserError, match=r"1 missing: visual.*resblocks.1.attn.in_proj_bias; 1 unexpected: fu"
    ):
        load_family(save_checkpoint(tmp_path, state))
    state = weights()
    name = "visual_encoder.visual.transformer.resblocks.0.attn.in_proj_weight"
    state[name] = state[name][:-2]
    with pytest.raises(UserError, match=rf"{name} \(382 x 128, not 384 x 128\)$"):
        load_family(save_checkpoint(tmp_path, state))
    file = save_checkpoint(tmp_path, weights())
    assert main(["convert", "mplug", str(file), "--as", "vqa", "--out", str(tmp_path / "out")]) == 2
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "more"]))
    assert read_vocabulary(tmp_path / "vocab.txt")
    with pytest.raises(UserError, match="17 tokens, but the checkpoint has embeddings of 16"):
        load_family(file)
