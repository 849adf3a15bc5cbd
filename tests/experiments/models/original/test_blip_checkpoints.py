"""Checkpoints in the authors' names compute what the authors' do, whichever way they are loaded."""

import json
import shutil

import pytest
import torch
from PIL import Image

from experiments.cli import main
from experiments.models import Decoding, Ranking, Sample, load_family
from experiments.models.weights import weights_digest
from tests.experiments.models.original.authors_blip import (
    DEC,
    ENC,
    PATCH,
    SIDE,
    WORDS,
    Authors,
    save_checkpoint,
    weights,
)

TEXTS = torch.tensor(
    [
        [DEC, 5, 6, 7, 8, 10, 3, 0],
        [DEC, 13, 14, 15, 9, 11, 12, 3],
    ]
)
MASK = (TEXTS != 0).long()
QUESTIONS = torch.tensor([[ENC, 13, 14, 15, 10, 16, 3], [ENC, 8, 10, 3, 0, 0, 0]])
ASKED = (QUESTIONS != 0).long()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def words(ids: torch.Tensor) -> str:
    return " ".join(WORDS[k] for k in ids.tolist() if 4 < k < len(WORDS))


def logits_of(family, pixels: torch.Tensor) -> torch.Tensor:
    """What the family makes of the two texts, or of two questions and the texts as answers."""
    places = torch.arange(TEXTS.shape[1]).expand_as(TEXTS)
    texts = {"input_ids": TEXTS, "attention_mask": MASK, "position_ids": places}
    asked = {"question_ids": QUESTIONS, "question_mask": ASKED} if family.name == "blip_vqa" else {}
    inputs = {**texts, **asked, "pixel_values": pixels, "image_index": torch.arange(2)}
    with torch.no_grad():
        return family.logits(inputs)


def logits_of_authors(state, pixels: torch.Tensor, for_questions: bool) -> torch.Tensor:
    """In float64."""
    authors = Authors({name: x.double() if x.is_floating_point() else x for name, x in state.items()})
    states = authors.picture(pixels.double())
    if for_questions:
        return authors.logits(TEXTS, MASK, authors.question(QUESTIONS, ASKED, states), ASKED).float()
    return authors.logits(TEXTS, MASK, states).float()


def convert(file, out, *more) -> None:
    assert main(["convert", "blip", str(file), "--out", str(out), *map(str, more)]) == 0


KINDS = {
    "caption, wide pictures": ("caption", "captioner", dict(seen=192)),
    "caption, narrow pictures": ("caption", "captioner", dict(seen=64, width=192)),
    "pre-training": ("pretraining", "captioner", dict(seen=192)),
    "pre-training for questions": ("pretraining", "vqa", {}),
    "vqa": ("vqa", "vqa", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_file_and_folder_compute_what_the_authors_weights_do(name, pixels, tmp_path, capsys):
    kind, arrangement, sizes = KINDS[name]
    file = save_checkpoint(tmp_path / "here", kind, **sizes)
    expected = logits_of_authors(weights(kind, **sizes), pixels, arrangement == "vqa")
    convert(file, tmp_path / "out", "--as", arrangement)
    routes = [tmp_path / "out"]
    if name != "pre-training for questions":  # the default of the file is the captioner
        routes.append(file)
    found = [logits_of(load_family(route), pixels) for route in routes]
    used = MASK.bool()
    assert expected[used].std() > 1, "a wrong mapping would not show"
    for logits in found:
        torch.testing.assert_close(logits[used], expected[used], atol=1e-5, rtol=1e-5)
        assert torch.equal(logits, found[0])
    assert f"{arrangement}, image encoder" in capsys.readouterr().out


@pytest.mark.parametrize("kind, tensor", [("caption", "text_decoder"), ("vqa", "text_encoder")])
def test_the_reference_tells_weights_apart(kind, tensor, pixels):
    """Otherwise its agreement would prove nothing."""
    swap = ("key", "value")
    state = weights(kind)
    block = f"{tensor}{'.bert' if tensor == 'text_decoder' else ''}.encoder.layer.1.crossattention.self"
    other = dict(state)
    for part in ("weight", "bias"):
        one, two = (f"{block}.{name}.{part}" for name in swap)
        other[one], other[two] = state[two], state[one]
    logits, changed = (logits_of_authors(s, pixels, kind == "vqa") for s in (state, other))
    assert (logits - changed).abs().max() > 0.1


@pytest.mark.parametrize("kind, family", [("pretraining", "blip"), ("vqa", "blip_vqa")])
def test_a_file_is_a_model_like_others(kind, family, tmp_path):
    """It answers, it is trained, and its title is the file's name; its weights are copies."""
    file = save_checkpoint(tmp_path, kind)
    before, loaded = file.read_bytes(), load_family(file)
    file.write_bytes(b"\0" * len(before))
    assert loaded.name in (family, "mini_blip") and loaded.title.endswith(f"({file.name})")
    assert loaded.image_side == SIDE and loaded.language_side()[-1] == "text_decoder"
    assert not loaded.model.training and {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [DEC, ENC]
    assert loaded.model.name_or_path == "", "no name that PEFT would look for on the hub"
    sample = Sample("one", Image.new("RGB", (30, 20), "red"), "what is the", "red ball")
    assert len(loaded.generate([sample], Decoding(4))) == 1
    assert loaded.answer([sample], Ranking(("red", "blue ball")))[0] in ("red", "blue ball")
    ids = loaded.training_inputs([sample])["input_ids"][0].tolist()
    assert ids[0] == DEC and ids[-1] == WORDS.index("[SEP]")


def test_another_side(tmp_path, capsys):
    """In the folder, and at loading: the same positions; pixels of that size are seen."""
    file = save_checkpoint(tmp_path, "caption")
    convert(file, tmp_path / "out", "--side", 5 * PATCH)
    assert f"positions interpolated: {SIDE} -> {5 * PATCH} pixels" in capsys.readouterr().out
    pixels = torch.randn(2, 3, 5 * PATCH, 5 * PATCH)
    folder, late = load_family(tmp_path / "out"), load_family(file, side=5 * PATCH)
    assert torch.equal(logits_of(folder, pixels), logits_of(late, pixels)) and folder.image_side == 5 * PATCH
    state = weights("caption")
    place = folder.model.vision_model.embeddings.position_embedding
    assert place.shape[1] == 26 and torch.equal(place[:, 0], state["visual_encoder.pos_embed"][:, 0])
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 20, "width": 20}


def test_half_precision_and_the_bias_that_counts(tmp_path, pixels):
    """The output layer has two names for one bias; where a program let them differ, its own is read."""
    file = save_checkpoint(tmp_path, "caption")
    state = {name: x.half() if x.is_floating_point() else x for name, x in weights("caption").items()}
    torch.save(state | {"text_decoder.cls.predictions.bias": torch.ones(3)}, file)  # the whole file, too
    expected = logits_of_authors({name: x.float() for name, x in state.items()}, pixels, False)
    found = logits_of(load_family(file), pixels)
    torch.testing.assert_close(found[MASK.bool()], expected[MASK.bool()], atol=1e-5, rtol=1e-5)


def test_the_digest_is_that_of_the_content(tmp_path):
    one, two = save_checkpoint(tmp_path / "a", "caption"), save_checkpoint(tmp_path / "b", "caption", "x.pth")
    other = save_checkpoint(tmp_path / "c", "caption", seed=1)
    shutil.copyfile(one, two)
    assert weights_digest(one) == weights_digest(str(two)) != weights_digest(other)
    (two.parent / "vocab.txt").write_text("\n".join([*WORDS[:-1], "!"]))
    assert weights_digest(one) != weights_digest(two), "its words belong to a model"
