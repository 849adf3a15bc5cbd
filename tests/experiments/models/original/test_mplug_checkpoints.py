"""mPLUG's checkpoints in the authors' names compute what the authors' do."""

import re

import pytest
import torch
from PIL import Image

from experiments.cli import main
from experiments.models import Ranking, Sample, load_family
from experiments.models.loading import type_of
from tests.experiments.models.original.authors_mplug import (
    BUILT,
    CLS,
    PATCH,
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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("large")) for name in KINDS]
)
def test_file_and_folder_compute_what_the_authors_weights_do(name, pixels, tmp_path, capsys):
    kind, sizes, place = KINDS[name]
    state = weights(kind, **sizes)
    file = save_checkpoint(tmp_path, state, place)
    assert main(["convert", "mplug", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "whole, image encoder, text encoder" in capsys.readouterr().out
    families = [load_family(route) for route in (file, tmp_path / "out")]
    assert type_of(str(file)) == type_of(str(tmp_path / "out")) == "mplug"
    used = MASK.bool()
    for asks in (True, False):
        expected = logits_of_authors(fine_tuned(state), pixels, asks, stride=6 if sizes else 3)
        found = [logits_of(family, pixels, asks) for family in families]
        assert expected[used].std() > 1, "a wrong mapping would not show"
        torch.testing.assert_close(found[0][used], expected[used], atol=1e-4, rtol=1e-5)
        assert torch.equal(*found)


@pytest.mark.parametrize("part", ["text_encoder", "fusion_encoder"])
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
    assert loaded.answer([sample], Ranking(("red", "blue ball")))[0] in ("red", "blue ball")
    inputs = loaded.training_inputs([sample])
    assert inputs["input_ids"][0].tolist() == [CLS, 6, 8, SEP]
    words = [*"what is the".split(), "[SEP]", "stop"]
    assert inputs["question_ids"][0].tolist() == [CLS, *map(WORDS.index, words)], "no end token"


def test_the_fusion_begins_after_as_many_layers_as_the_text_encoder_has(tmp_path):
    state = {name: value for name, value in weights().items() if "text_encoder.encoder.layer.1." not in name}
    layers = load_family(save_checkpoint(tmp_path, state)).model.fusion_encoder.layer
    assert len(layers) == BUILT - 1
    assert torch.equal(layers[0].output.dense.bias, state["fusion_encoder.encoder.layer.1.output.dense.bias"])
