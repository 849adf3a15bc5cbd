"""Checkpoints in the authors' names compute what the authors' do, whichever way they are loaded."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image

from attngraph.experiments.cli import main
from attngraph.experiments.models import Decoding, ModelFamily, Ranking, Sample, load_family
from attngraph.experiments.models.loading import type_of
from attngraph.experiments.models.weights import weights_digest
from tests.experiments.models.original import authors_blip, authors_mplug
from tests.experiments.models.original.authors_blip import DEC, ENC, MASK, PATCH, SIDE, WORDS
from tests.experiments.models.original.authors_mplug import BUILT, CLS, SEP

AUTHORS = {"blip": authors_blip, "mplug": authors_mplug}
USED = MASK.bool()  # of both


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def logits_of(family: ModelFamily, pixels: torch.Tensor, asks: bool) -> torch.Tensor:
    """What the family makes of its authors' texts, as answers or as captions."""
    of = AUTHORS["mplug" if family.name == "mplug" else "blip"]
    inputs = {"input_ids": of.TEXTS, "attention_mask": of.MASK, "pixel_values": pixels}
    inputs |= {"position_ids": torch.arange(of.TEXTS.shape[1]).expand_as(of.TEXTS)}
    if asks:
        inputs |= {"question_ids": of.QUESTIONS, "question_mask": of.ASKED}
    with torch.no_grad():
        return family.logits(inputs | {"image_index": torch.arange(2)})


def convert(whose, file, out, *more) -> None:
    assert main(["convert", whose, str(file), "--out", str(out), *map(str, more)]) == 0


#: Whose checkpoint of which kind, what is made of it, sizes, and where the weights are.
KINDS = {
    "caption, wide pictures": ("blip", "caption", "captioner", dict(seen=192), "model"),
    "caption, narrow pictures": ("blip", "caption", "captioner", dict(seen=64, width=192), "model"),
    "pre-training": ("blip", "pretraining", "captioner", dict(seen=192), "model"),
    "pre-training for questions": ("blip", "pretraining", "vqa", {}, "model"),
    "vqa": ("blip", "vqa", "vqa", {}, "model"),
    "mPLUG": ("mplug", "finetuned", "whole", {}, "model"),
    "mPLUG with twins": ("mplug", "distilled", "whole", {}, "module"),
    "mPLUG, pre-training": ("mplug", "pretraining", "whole", {}, "model"),
    "large mPLUG": ("mplug", "finetuned", "whole", dict(seen=192), "module"),
    "large mPLUG, pre-training": ("mplug", "pretraining", "whole", dict(seen=64), "model"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("large")) for name in KINDS]
)
def test_file_and_folder_compute_what_the_authors_weights_do(name, pixels, tmp_path, capsys):
    whose, kind, arrangement, sizes, place = KINDS[name]
    of, file = AUTHORS[whose], tmp_path / "here.pth"
    state = of.weights(kind, **sizes)
    torch.save({place: state, "epoch": 1}, file)
    (tmp_path / "vocab.txt").write_text("\n".join(of.WORDS) + "\n")
    convert(whose, file, tmp_path / "out", "--as", arrangement)
    assert f"{arrangement}, image encoder" in capsys.readouterr().out
    assert type_of(str(file)) == type_of(str(tmp_path / "out")) == whose
    families = [load_family(tmp_path / "out")]
    if name != "pre-training for questions":  # the default of the file is the captioner
        families.append(load_family(file))
    stride = {"stride": 6} if whose == "mplug" and sizes else {}
    for asks in {"captioner": [False], "vqa": [True], "whole": [True, False]}[arrangement]:
        expected = of.logits_of_authors(state, pixels, asks, **stride)
        found = [logits_of(family, pixels, asks) for family in families]
        assert expected[USED].std() > 1, "a wrong mapping would not show"
        torch.testing.assert_close(found[0][USED], expected[USED], atol=1e-4, rtol=1e-5)
        assert torch.equal(found[0], found[-1])


@pytest.mark.parametrize(
    "whose, kind, block",
    [
        ("blip", "caption", "text_decoder.bert.encoder.layer.1.crossattention.self"),
        ("blip", "vqa", "text_encoder.encoder.layer.1.crossattention.self"),
        ("mplug", "finetuned", "text_encoder.encoder.layer.1.attention.self"),
        ("mplug", "finetuned", f"fusion_encoder.encoder.layer.{BUILT - 1}.attention.self"),
    ],
)
def test_the_reference_tells_weights_apart(whose, kind, block, pixels):
    """Otherwise its agreement would prove nothing."""
    of, state = AUTHORS[whose], AUTHORS[whose].weights(kind)
    one, two = f"{block}.key.weight", f"{block}.value.weight"
    swapped = state | {one: state[two], two: state[one]}
    logits, changed = (of.logits_of_authors(each, pixels, kind != "caption") for each in (state, swapped))
    assert (logits - changed).abs().max() > 0.1
    if whose == "mplug":
        assert (logits - of.logits_of_authors(state, pixels, True, stride=2)).abs().max() > 0.1
        assert (logits - of.logits_of_authors(state, pixels, False)).abs().max() > 0.1


@pytest.mark.parametrize("kind, name", [("pretraining", "blip"), ("vqa", "blip_vqa"), (None, "mplug")])
def test_a_file_is_a_model_like_others(kind, name, tmp_path):
    """It answers, it is trained, and its title is the file's name; its weights are copies."""
    if kind is None:
        file = authors_mplug.save_checkpoint(tmp_path, authors_mplug.weights())
    else:
        file = authors_blip.save_checkpoint(tmp_path, kind)
    before, loaded = file.read_bytes(), load_family(file)
    file.write_bytes(b"\0" * len(before))
    assert loaded.name == name and loaded.title.endswith(f"({file.name})") and loaded.image_side == SIDE
    assert not loaded.model.training and {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.model.name_or_path == "", "no name that PEFT would look for on the hub"
    sample = Sample("one", Image.new("RGB", (30, 20), "red"), "what is the [SEP] ?", "red ball")
    assert len(loaded.generate([sample], Decoding(4))) == 1
    assert loaded.answer([sample], Ranking(("red", "blue ball")))[0] in ("red", "blue ball")
    inputs, words = loaded.training_inputs([sample]), loaded.tokenizer.get_vocab()
    ids, answer = inputs["input_ids"][0].tolist(), [words["red"], words["ball"], SEP]
    if kind is None:
        asked = [words[word] for word in "what is the [SEP] ?".split()]
        assert inputs["question_ids"][0].tolist() == [CLS, *asked], "no end token"
        assert ids == [CLS, *answer]
    else:
        assert loaded.tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [DEC, ENC]
        assert ids[0] == DEC and ids[-3:] == answer


@pytest.mark.parametrize("whose, kind", [("blip", "caption"), ("mplug", "finetuned")])
def test_another_side(whose, kind, tmp_path, capsys):
    """In the folder, and at loading: the same positions, the class token's row kept; bicubic or bilinear."""
    side, out, state = 5 * PATCH, tmp_path / "out", AUTHORS[whose].weights(kind)
    file = authors_mplug.save_checkpoint(tmp_path, state)
    (tmp_path / "vocab.txt").write_text("\n".join(AUTHORS[whose].WORDS) + "\n")
    convert(whose, file, out, "--side", side)
    assert f"positions interpolated: {SIDE} -> {side} pixels" in capsys.readouterr().out
    folder, late = load_family(out), load_family(file, side=side)
    pixels, asks = torch.randn(2, 3, side, side), whose == "mplug"
    assert torch.equal(logits_of(folder, pixels, asks), logits_of(late, pixels, asks))
    assert folder.image_side == side
    assert json.loads((out / "preprocessor_config.json").read_text())["size"] == {"height": 20, "width": 20}
    place = folder.model.vision_model.embeddings.position_embedding
    if whose == "blip":
        assert place.shape[1] == 26 and torch.equal(place[:, 0], state["visual_encoder.pos_embed"][:, 0])
    else:
        old = state["visual_encoder.visual.positional_embedding"]
        grid = old[1:].T.reshape(1, -1, 3, 3)
        wanted = torch.nn.functional.interpolate(grid, size=(5, 5), mode="bilinear")[0].flatten(1).T
        torch.testing.assert_close(place.weight, torch.cat([old[:1], wanted]))


def test_half_precision_and_the_bias_that_counts(tmp_path, pixels):
    """The output layer has two names for one bias; where a program let them differ, its own is read."""
    file = authors_blip.save_checkpoint(tmp_path, "caption")
    state = {
        name: x.half() if x.is_floating_point() else x for name, x in authors_blip.weights("caption").items()
    }
    torch.save(state | {"text_decoder.cls.predictions.bias": torch.ones(3)}, file)  # the whole file, too
    expected = authors_blip.logits_of_authors(state, pixels, False)
    found = logits_of(load_family(file), pixels, False)
    torch.testing.assert_close(found[USED], expected[USED], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "gone, first, run",
    [
        (r"text_encoder\.encoder\.layer\.1\.", 1, BUILT - 1),
        (r"fusion_encoder\.encoder\.layer\.[2-9]\.", 0, 2),  # as many as the text encoder: all are run
    ],
)
def test_the_fusion_begins_after_as_many_layers_as_the_text_encoder_has(gone, first, run, tmp_path):
    state = {name: x for name, x in authors_mplug.weights().items() if not re.match(gone, name)}
    layers = load_family(authors_mplug.save_checkpoint(tmp_path, state)).model.fusion_encoder.layer
    assert len(layers) == run
    bias = state[f"fusion_encoder.encoder.layer.{first}.output.dense.bias"]
    assert torch.equal(layers[0].output.dense.bias, bias)


def test_the_digest_is_that_of_the_content(tmp_path):
    save = authors_blip.save_checkpoint
    one, two = save(tmp_path / "a", "caption"), save(tmp_path / "b", "caption", "x.pth")
    other = save(tmp_path / "c", "caption", seed=1)
    shutil.copyfile(one, two)
    assert weights_digest(one) == weights_digest(str(two)) != weights_digest(other)
    (two.parent / "vocab.txt").write_text("\n".join([*WORDS[:-1], "!"]))
    assert weights_digest(one) != weights_digest(two), "its words belong to a model"
