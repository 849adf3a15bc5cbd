"""Checkpoints in the authors' names compute what the authors' do, whichever way they are loaded."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from attngraph.errors import UserError
from experiments.cli import main
from experiments.models import Decoding, Ranking, Sample, load_family
from experiments.models.mini_blip import weights_digest
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


def in_hub_cache(folder, cache, name: str) -> None:
    """The folder as the hub's cache holds a model of this name."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))


KINDS = {
    "caption": ("caption", "captioner", {}),
    "caption, wide pictures": ("caption", "captioner", dict(seen=192)),
    "caption, narrow pictures": ("caption", "captioner", dict(seen=64, width=192)),
    "pre-training": ("pretraining", "captioner", dict(seen=192)),
    "pre-training for questions": ("pretraining", "vqa", {}),
    "vqa": ("vqa", "vqa", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_all_routes_compute_what_the_authors_weights_do(name, pixels, tmp_path, monkeypatch, capsys):
    kind, arrangement, sizes = KINDS[name]
    file = save_checkpoint(tmp_path / "here", kind, **sizes)
    expected = logits_of_authors(weights(kind, **sizes), pixels, arrangement == "vqa")
    convert(file, tmp_path / "out", "--as", arrangement)
    in_hub_cache(tmp_path / "out", tmp_path / "hub", "someone/blip")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    routes = [tmp_path / "out", "someone/blip"]
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
@pytest.mark.parametrize("swap", [("query", "key"), ("key", "value")])
def test_the_reference_tells_weights_apart(kind, tensor, swap, pixels):
    """Otherwise its agreement would prove nothing."""
    state = weights(kind)
    block = f"{tensor}{'.bert' if tensor == 'text_decoder' else ''}.encoder.layer.1.crossattention.self"
    other = dict(state)
    for part in ("weight", "bias"):
        one, two = (f"{block}.{name}.{part}" for name in swap)
        other[one], other[two] = state[two], state[one]
    logits, changed = (logits_of_authors(s, pixels, kind == "vqa") for s in (state, other))
    assert (logits - changed).abs().max() > 0.1


@pytest.mark.parametrize("kind, family", [("caption", "blip"), ("pretraining", "blip"), ("vqa", "blip_vqa")])
def test_a_file_is_a_model_like_others(kind, family, tmp_path):
    """It answers, it is trained, and its title is the file's name."""
    file = save_checkpoint(tmp_path, kind)
    loaded = load_family(file)
    assert loaded.name in (family, "mini_blip") and loaded.title.endswith(f"({file.name})")
    assert loaded.image_side == SIDE and loaded.language_side()[-1] == "text_decoder"
    assert not loaded.model.training and {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [DEC, ENC]
    assert loaded.model.name_or_path == "", "no name that PEFT would look for on the hub"
    sample = Sample("one", Image.new("RGB", (30, 20), "red"), "what is the", "red ball")
    assert len(loaded.generate([sample], Decoding(4))) == 1
    assert loaded.answer([sample], Ranking(("red", "blue ball")))[0] in ("red", "blue ball")
    inputs = loaded.training_inputs([sample])
    ids = inputs["input_ids"][0].tolist()
    assert ids[0] == DEC and ids[-1] == WORDS.index("[SEP]")
    inputs.pop("labels")
    loaded.logits(inputs).sum().backward()
    assert all(
        p.grad is not None for name, p in loaded.model.named_parameters() if not name.startswith("vision")
    )


def test_every_tensor_is_accounted_for(tmp_path, capsys):
    file = save_checkpoint(tmp_path, "pretraining")
    convert(file, tmp_path / "out")
    told, account = capsys.readouterr().out, json.loads((tmp_path / "out" / "conversion.json").read_text())
    state = weights("pretraining")
    assert list(account["tensors"]) == list(state)
    fates = {name: next(key for key in each if key != "shape") for name, each in account["tensors"].items()}
    assert {fate: list(fates.values()).count(fate) for fate in set(fates.values())} == {
        "used as": sum(name.startswith(("visual_encoder.", "text_decoder.")) for name in state) - 3,
        "equal to": 1,
        "left out": sum(not name.startswith(("visual_encoder.", "text_decoder.")) for name in state) + 2,
    }
    reasons = {each["left out"] for each in account["tensors"].values() if "left out" in each}
    for reason in reasons:
        assert reason in told
    assert "no part of a captioner" in reasons and f"{len(state)} tensors" in told
    assert account["arrangement"] == "captioner" and account["side"] == SIDE
    model = load_family(tmp_path / "out").model.state_dict()
    for name, each in account["tensors"].items():
        assert each["shape"] == list(state[name].shape)
        if "used as" in each:
            assert torch.equal(model[each["used as"]], state[name])


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


def test_a_half_precision_file(tmp_path, pixels):
    file = save_checkpoint(tmp_path, "caption")
    state = {name: x.half() if x.is_floating_point() else x for name, x in weights("caption").items()}
    torch.save(state, file)  # the whole file, too
    expected = logits_of_authors({name: x.float() for name, x in state.items()}, pixels, False)
    found = logits_of(load_family(file), pixels)
    torch.testing.assert_close(found[MASK.bool()], expected[MASK.bool()], atol=1e-5, rtol=1e-5)


def test_the_bias_that_counts(tmp_path, pixels):
    """The output layer has two names for one; where a program let them differ, its own is read."""
    file = damaged(
        tmp_path, "caption", lambda s: s.update({"text_decoder.cls.predictions.bias": torch.ones(3)})
    )
    expected = logits_of_authors(weights("caption"), pixels, False)
    torch.testing.assert_close(
        logits_of(load_family(file), pixels)[MASK.bool()], expected[MASK.bool()], atol=1e-5, rtol=1e-5
    )


def test_the_loaded_model_does_not_live_in_the_file(tmp_path, pixels):
    """Weights are copied: the file may be replaced, and training does not write to it."""
    file = save_checkpoint(tmp_path, "caption")
    before, loaded = file.read_bytes(), load_family(file)
    logits = logits_of(loaded, pixels)
    file.write_bytes(b"\0" * len(before))
    assert torch.equal(logits_of(loaded, pixels), logits)


def test_the_digest_is_that_of_the_content(tmp_path):
    one, two = save_checkpoint(tmp_path / "a", "caption"), save_checkpoint(tmp_path / "b", "caption", "x.pth")
    other = save_checkpoint(tmp_path / "c", "caption", seed=1)
    shutil.copyfile(one, two)
    assert weights_digest(one) == weights_digest(str(two)) != weights_digest(other)
    (two.parent / "vocab.txt").write_text("\n".join([*WORDS[:-1], "!"]))
    assert weights_digest(one) != weights_digest(two), "its words belong to a model"


# ---- what is refused -------------------------------------------------------------------------------------


def refused(file, match: str) -> str:
    """The line that says why a file is no model."""
    with pytest.raises(UserError, match=match) as error:
        load_family(file)
    line = str(error.value)
    assert "\n" not in line and str(file) in line
    return line


def damaged(folder, kind: str, change):
    file, state = save_checkpoint(folder, kind), weights(kind)
    change(state)
    torch.save({"model": state}, file)
    return file


def test_missing_tensors(tmp_path, capsys):
    gone = ("visual_encoder.blocks.1.attn.qkv.weight", "text_decoder.bert.encoder.layer.0.output.dense.bias")

    def change(state):
        for name in gone:
            del state[name]

    file = damaged(tmp_path, "caption", change)
    line = refused(file, match="no blip checkpoint for the arrangement captioner: tensors 2 missing: ")
    assert all(name in line for name in gone), "in the authors' names"
    out = tmp_path / "out"
    assert main(["convert", "blip", str(file), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert all(f"missing: {name}\n" in captured.out for name in gone) and not out.exists()
    errors = [line for line in captured.err.splitlines() if "where the authors' checkpoints have" not in line]
    assert len(errors) == 1


def test_layers_of_a_part_that_is_not_used_do_not_matter(tmp_path, capsys):
    def change(state):
        for name in list(state):
            if name.startswith("text_encoder.encoder.layer.0."):
                del state[name]

    load_family(damaged(tmp_path, "pretraining", change))
    assert "text_encoder" not in capsys.readouterr().err


def test_words_that_are_not_finite(tmp_path):
    name = "text_decoder.bert.embeddings.word_embeddings.weight"
    file = damaged(tmp_path, "caption", lambda state: state[name].fill_(float("nan")))
    refused(file, match=rf"{name} holds numbers that are not finite: download it again$")


def test_unexpected_tensors(tmp_path, capsys):
    file = damaged(
        tmp_path, "vqa", lambda state: state.update({"prompt.weight": torch.zeros(2), "x": torch.ones(1)})
    )
    assert "tensors 2 unexpected: prompt.weight, x" in refused(file, match="arrangement vqa")
    file = damaged(
        tmp_path, "caption", lambda s: s.update({"visual_encoder.blocks.0.ls1.gamma": torch.ones(128)})
    )
    refused(file, match="1 unexpected: visual_encoder.blocks.0.ls1.gamma$")
    file = damaged(
        tmp_path, "caption", lambda s: s.update({"text_decoder.bert.pooler.dense.weight": torch.ones(4, 4)})
    )
    refused(file, match="1 unexpected: text_decoder.bert.pooler.dense.weight$")


def test_tensors_of_another_shape(tmp_path):
    name = "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"
    file = damaged(tmp_path, "caption", lambda state: state.update({name: torch.zeros(128, 64)}))
    refused(file, match=rf"1 of another shape or value: {name} \(128 x 64, not 128 x 128\)$")
    name = "text_decoder.cls.predictions.decoder.weight"
    file = damaged(tmp_path, "caption", lambda state: state.update({name: state[name] + 1}))
    refused(file, match=rf"{name} \(not equal to text_decoder.bert.embeddings.word_embeddings.weight\)$")
    name = "visual_encoder.norm.bias"
    file = damaged(tmp_path, "caption", lambda state: state.update({name: torch.zeros(128).long()}))
    refused(file, match=rf"{name} \(int64 and no weights\)$")
    file = damaged(
        tmp_path, "caption", lambda s: s.update({"visual_encoder.pos_embed": torch.zeros(1, 9, 128)})
    )
    refused(file, match=r"visual_encoder.pos_embed \(1 x 9 x 128\) fits no square of patches with a class")


@pytest.mark.parametrize(
    "name",
    [
        "visual_encoder.patch_embed.proj.weight",
        "visual_encoder.blocks.0.mlp.fc1.weight",
        "text_decoder.bert.embeddings.word_embeddings.weight",
        "text_decoder.bert.embeddings.position_embeddings.weight",
        "text_decoder.bert.encoder.layer.0.intermediate.dense.weight",
    ],
)
def test_tensors_that_tell_the_sizes(name, tmp_path):
    refused(damaged(tmp_path, "caption", lambda state: state.pop(name)), match=f"{name} is missing, so")
    file = damaged(tmp_path, "caption", lambda state: state.update({name: torch.zeros(3)}))
    refused(file, match=rf"{name} is of the shape \(3,\), so it is no checkpoint of BLIP")


def test_heads_of_another_width(tmp_path):
    file = save_checkpoint(tmp_path, "caption", seen=96)
    refused(file, match="visual_encoder is 96 wide; BLIP's heads are 64 wide")


def test_checkpoints_of_something_else(tmp_path):
    def only(*parts):
        def change(state):
            for name in list(state):
                if not name.startswith(parts):
                    del state[name]

        return change

    refused(
        damaged(tmp_path, "pretraining", only("text_")), match=r"no checkpoint known here \(blip, mplug\)"
    )
    retrieval = only("visual_encoder", "text_encoder", "itm_head")
    refused(damaged(tmp_path, "pretraining", retrieval), match="no text decoder, so it writes nothing")


def test_arrangements_that_a_file_does_not_give(tmp_path, capsys):
    words = ["--out", str(tmp_path / "out"), "--as"]
    assert main(["convert", "blip", str(save_checkpoint(tmp_path, "vqa")), *words, "captioner"]) == 2
    assert "looks at questions, not at pictures: convert it --as vqa" in capsys.readouterr().err
    assert main(["convert", "blip", str(save_checkpoint(tmp_path, "caption")), *words, "vqa"]) == 2
    assert "it has no question encoder: convert it --as captioner" in capsys.readouterr().err


def test_a_vocabulary_is_needed(tmp_path):
    file = save_checkpoint(tmp_path, "caption")
    (tmp_path / "vocab.txt").unlink()
    refused(
        file, match=rf"no vocabulary next to it: .*`attngraph convert blip {file} --out FOLDER --download`$"
    )
    torch.save({"other.weight": torch.ones(1)}, file)
    refused(
        file, match=r"its tensors \(other.weight, ...\) are those of no checkpoint known here \(blip, mplug\)"
    )
    file.write_text("no checkpoint")
    refused(file, match="no PyTorch checkpoint")


def test_another_vocabulary(tmp_path):
    file = save_checkpoint(tmp_path, "caption")
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "more"]))
    with pytest.raises(
        UserError, match=r"vocab.txt: 20 tokens, \[DEC\] and \[ENC\] among them, .* of 19: give"
    ):
        load_family(file)
