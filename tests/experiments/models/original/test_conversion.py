"""What is no checkpoint, or no vocabulary of one, is one line, and nothing in a file is run."""

import os
import pickle

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizerFast

from attngraph.errors import UserError
from attngraph.experiments.models import load_family
from attngraph.experiments.models.convert import make_tokenizer, read_original, read_tensors
from tests.experiments.models.original import authors_blip, authors_mplug
from tests.experiments.models.original.authors_blip import WORDS

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
EMBEDDINGS = "text_decoder.bert.embeddings.word_embeddings.weight"
KEY = "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"


def refused(call, file, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        call(file)
    message = str(error.value)
    assert "\n" not in message and str(file) in message and "weights_only" not in message


class Trap:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the format of before 2020"])
def test_files(zipped, tmp_path):
    """Weights are found under their places; code in a file is not run; a file that is cut short is none."""
    file, trace = tmp_path / "x.pth", tmp_path / "trace"
    for place in ("model", "module", "state_dict", None):
        content = STATE if place is None else {"epoch": 3, place: STATE, "optimizer": {"state": {}}}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        found = read_tensors(file)
        assert list(found) == list(STATE) and all(torch.equal(found[name], STATE[name]) for name in STATE)
    whole = file.read_bytes()
    for share in (0.0, 0.5, 0.99):
        file.write_bytes(whole[: int(share * len(whole))])
        refused(read_tensors, file, "not a PyTorch checkpoint, or truncated")
    torch.save({"model": STATE, "args": Trap(trace)}, file, _use_new_zipfile_serialization=zipped)
    refused(read_tensors, file, "with Python objects other than tensors")
    file.write_bytes(pickle.dumps(Trap(trace)))
    refused(read_tensors, file, "with Python objects other than tensors")
    assert not trace.exists()


def test_contents_of_another_kind(tmp_path):
    file = tmp_path / "x.pth"
    refused(read_tensors, file, "No such file")
    for content in (STATE["a.bias"], {"model": {}}, {"epoch": 3, "optimizer": {}}):
        torch.save(content, file)
        refused(read_tensors, file, "does not contain a state_dict")


#: Whose checkpoint, change of its tensors, and what is said.
REFUSED = {
    "missing": ("blip", {KEY: None}, f"1 tensors are missing or unknown, first {KEY}"),
    "unknown": (
        "blip",
        {"visual_encoder.blocks.0.ls1.gamma": torch.ones(128)},
        "or unknown, first .*gamma",
    ),
    "of a layer that is run": (
        "mplug",
        {"fusion_encoder.encoder.layer.3.extra": torch.ones(2)},
        "or unknown, first fusion_encoder.layer.1.extra",
    ),
    "another shape": ("blip", {KEY: torch.zeros(128, 64)}, r"has shape \(128, 64\), not \(128, 128\)"),
    "flat patches": (
        "blip",
        {"visual_encoder.patch_embed.proj.weight": torch.ones(96, 3)},
        r"patches of shape \(96, 3\)",
    ),
    "flat positions": ("blip", {"visual_encoder.pos_embed": torch.ones(3)}, r"positions of shape \(3,\)"),
    "no number": ("blip", {KEY: torch.full((128, 128), torch.nan)}, "values that are not finite"),
    "no sizes": ("blip", {"visual_encoder.patch_embed": None}, r"proj.weight is missing"),
    "no layers": ("mplug", {"text_encoder.encoder": None}, r"text_encoder.encoder.layer.\* are missing"),
    "nobody's": ("blip", {"visual_encoder": None}, r"belong to a supported checkpoint \(blip, mplug\)"),
    "wide heads": ("blip", {"visual_encoder.patch_embed.proj.weight": torch.ones(96, 3, 4, 4)}, "width 96"),
}


@pytest.fixture(scope="module")
def states():
    return {"blip": authors_blip.weights("caption"), "mplug": authors_mplug.weights()}


@pytest.mark.parametrize("how", REFUSED)
def test_other_tensors_are_refused(how, states, tmp_path):
    whose, changes, match = REFUSED[how]
    gone = tuple(name for name, tensor in changes.items() if tensor is None)
    state = {name: x for name, x in states[whose].items() if not name.startswith(gone or ("-",))}
    state |= {name: tensor for name, tensor in changes.items() if tensor is not None}
    words = {"blip": WORDS, "mplug": authors_mplug.WORDS}[whose]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.save({"model": state}, tmp_path / "x.pth")
    refused(load_family, tmp_path / "x.pth", match)


# ---- the vocabulary --------------------------------------------------------------------------------------


def make(place, download=False):
    return make_tokenizer(place, len(WORDS) + 2, 20, ("[DEC]", "[ENC]"), download)


def test_a_vocabulary_is_needed(tmp_path):
    file = authors_blip.save_checkpoint(tmp_path, "caption")
    refused(lambda file: read_original(file, tmp_path, "mplug"), file, r"a supported checkpoint \(mplug\)")
    (tmp_path / "vocab.txt").unlink()
    line = rf"no vocabulary next to it: .*`attngraph convert blip {file} --out FOLDER --tokenizer "
    refused(load_family, file, line + "hub:google-bert/bert-base-uncased`$")
    torch.save({"other.weight": torch.ones(1)}, file)
    refused(load_family, file, r"its tensors \(other.weight, ...\) do not belong to a supported checkpoint")


def test_nothing_is_fetched_unasked(monkeypatch):
    asked = []

    def fetched(*_, local_files_only):
        asked.append(local_files_only)
        raise OSError("We couldn't connect")

    monkeypatch.setattr(BertTokenizerFast, "from_pretrained", fetched)
    for allowed in (False, True):
        refused(lambda place, download=allowed: make(place, download), "some/one", "couldn't connect")
    assert asked == [True, False]


def test_the_tokenizer_is_berts_with_the_models_tokens(tmp_path):
    """From both kinds of files, and from their folder."""
    file, text = tmp_path / "vocab.txt", "A Picture of  RED balls, what?"
    file.write_bytes("\r\n".join(WORDS).encode())
    made = make(file)
    bert = BertTokenizerFast(vocab={word: place for place, word in enumerate(WORDS)})
    assert made(text)["input_ids"] == bert(text)["input_ids"]
    assert made.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [len(WORDS), len(WORDS) + 1]
    assert made.bos_token == "[DEC]" and "[ENC]" in made.all_special_tokens
    saved = tmp_path / "saved"
    made.save_pretrained(saved)
    others = [make(place) for place in (saved, saved / "tokenizer.json", tmp_path)]
    for again in (AutoTokenizer.from_pretrained(saved), *others):
        assert again(text)["input_ids"] == made(text)["input_ids"] and again.model_max_length == 20
        assert (again.bos_token_id, again.sep_token_id, len(again)) == (made.bos_token_id, 3, len(made))


@pytest.mark.parametrize(
    "name, content",
    [
        ("vocab.txt", "\n".join([*WORDS, "more"])),
        ("vocab.txt", "\n".join([*WORDS[:-1], "red"])),
        ("vocab.txt", "\n".join(["pad", *WORDS[1:]])),
        ("vocab.txt", "\n".join([*(word for word in WORDS if word != "[MASK]"), "more"])),
        ("tokenizer.json", "{"),
        ("none.txt", ""),
    ],
    ids=["a word more", "a word twice", "no padding", "no mask", "cut", "empty folder"],
)
def test_damaged_vocabularies(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    refused(make, tmp_path, "not the checkpoint's vocabulary .*: use BERT's vocab.txt")
