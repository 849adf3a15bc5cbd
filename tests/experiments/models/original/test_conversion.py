"""What is no checkpoint, or no vocabulary of one, is one line, and nothing in a file is run."""

import json
import os
import pickle

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, BertTokenizerFast

from attngraph.errors import UserError
from experiments.models import load_family
from experiments.models.convert import BERT, find_vocabulary, make_tokenizer, read_tensors
from tests.experiments.models.original import authors_blip, authors_mplug
from tests.experiments.models.original.authors_blip import WORDS

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
EMBEDDINGS = "text_decoder.bert.embeddings.word_embeddings.weight"
HEAD = "text_decoder.cls.predictions.decoder.weight"
KEY = "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"
CLIP = "visual_encoder.visual"


def refused(call, file, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        call(file)
    message = str(error.value)
    assert "\n" not in message and str(file) in message and "weights_only" not in message


# ---- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the format of before 2020"])
def test_weights_under_their_places(zipped, tmp_path):
    for place in ("model", "module", "state_dict", None):
        more = {"epoch": 3, place: STATE, "optimizer": {"state": {0: torch.ones(1)}}}
        content = STATE if place is None else more
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        found = read_tensors(tmp_path / "x.pth")
        assert list(found) == list(STATE) and all(torch.equal(found[name], STATE[name]) for name in STATE)


class Trap:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(zipped, tmp_path):
    file, trace = tmp_path / "x.pth", tmp_path / "trace"
    torch.save({"model": STATE, "args": Trap(trace)}, file, _use_new_zipfile_serialization=zipped)
    refused(read_tensors, file, r"Python objects other than tensors \((posix|nt).system\), which")
    file.write_bytes(pickle.dumps(Trap(trace)))
    refused(read_tensors, file, "no PyTorch checkpoint|Python objects other")
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_files_cut_short(zipped, tmp_path):
    file = tmp_path / "x.pth"
    torch.save({"model": STATE}, file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    for share in (0.0, 0.5, 0.99):
        file.write_bytes(content[: int(share * len(content))])
        refused(read_tensors, file, "no PyTorch checkpoint, or one that is damaged or cut short .*: download")


@pytest.mark.parametrize(
    "content, match",
    [
        (STATE["a.bias"], "holds no weights by their names"),
        ({"model": {}}, "holds no weights by their names"),
        ({"epoch": 3, "optimizer": {}}, "holds no weights by their names"),
        (b"<!DOCTYPE html><html>Not found</html>", "no PyTorch checkpoint"),
        (None, "No such file"),
    ],
)
def test_contents_of_another_kind(content, match, tmp_path):
    file = tmp_path / "x.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    refused(read_tensors, file, match)


# ---- tensors ---------------------------------------------------------------------------------------------

#: Whose checkpoint, change of its tensors, and what is said.
REFUSED = {
    "missing": ("blip", {KEY: None}, f"1 tensors are missing, too many or of another shape, first {KEY}"),
    "missing in a part": (
        "mplug",
        {f"{CLIP}.transformer.resblocks.1.attn.in_proj_bias": None},
        r"3 tensors are missing, .*layers.1.self_attn.k_proj.bias",
    ),
    "unknown": ("blip", {"visual_encoder.blocks.0.ls1.gamma": torch.ones(128)}, "gamma is not known"),
    "unknown in a known part": (
        "mplug",
        {"fusion_encoder.encoder.layer.3.extra": torch.ones(2)},
        "too many .*fusion_encoder.layer.1.extra",
    ),
    "another shape": ("blip", {KEY: torch.zeros(128, 64)}, f"another shape, first {KEY}"),
    "uneven parts": (
        "mplug",
        {f"{CLIP}.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(382, 128)},
        "of another shape, first vision_model.encoder.layers.0.self_attn",
    ),
    "unequal twins": ("blip", {HEAD: torch.zeros(19, 128)}, f"{HEAD} is not equal to {EMBEDDINGS}, which"),
    "whole numbers": ("blip", {"visual_encoder.norm.bias": torch.zeros(128).long()}, "other than finite"),
    "no number": ("blip", {EMBEDDINGS: torch.full((19, 128), torch.nan)}, "other than finite numbers"),
    "sparse": ("mplug", {EMBEDDINGS: torch.eye(16, 128).to_sparse()}, "other than finite numbers"),
    "no sizes": (
        "blip",
        {"visual_encoder.patch_embed.proj.weight": None},
        "visual_encoder.patch_embed.proj.weight is missing",
    ),
    "other sizes": ("blip", {EMBEDDINGS: torch.zeros(3)}, "not enough values"),
    "no layers": ("mplug", {"text_encoder.encoder": None}, r"text_encoder.encoder.layer.\* are missing"),
    "no first layer": ("mplug", {"fusion_encoder.encoder.layer.0.": None}, "layer.7.* is not known"),
    "no square": ("blip", {"visual_encoder.pos_embed": torch.zeros(1, 9, 128)}, "position_embedding"),
    "nobody's": ("blip", {"visual_encoder": None}, r"those of no checkpoint known here \(blip, mplug\)"),
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


def test_heads_of_another_width(tmp_path):
    file = authors_blip.save_checkpoint(tmp_path, "caption", seen=96)
    refused(load_family, file, "visual_encoder is 96 wide, and heads are 64 wide")


def test_what_is_left_out_may_be_anything(tmp_path):
    """And a part that is not used may lack layers."""
    file, state = authors_blip.save_checkpoint(tmp_path, "pretraining"), authors_blip.weights("pretraining")
    state["temp"] = torch.eye(2).to_sparse()
    for name in [name for name in state if name.startswith("text_encoder.encoder.layer.0.")]:
        del state[name]
    torch.save(state, file)
    assert load_family(file).name


# ---- the vocabulary --------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder for the checkpoint, one for others, and an empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    return tmp_path


def write(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / "vocab.txt"


def test_where_it_is_looked_for(places):
    checkpoint, other = places / "here" / "x.pth", write(places / "there")
    for source in (str(other), str(other.parent)):
        assert find_vocabulary(source, checkpoint, False) == other
    with pytest.raises(UserError, match=f"next to {checkpoint}, and {BERT} cannot be found") as error:
        find_vocabulary(None, checkpoint, False)
    assert "allow the download (--tokenizer hub:" in str(error.value) and "\n" not in str(error.value)
    snapshot = places / "hub" / f"models--{BERT.replace('/', '--')}"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("1" * 40)
    (snapshot / "snapshots" / ("1" * 40)).mkdir(parents=True)
    cached = write(snapshot / "snapshots" / ("1" * 40))
    assert find_vocabulary(None, checkpoint, False) == find_vocabulary(BERT, checkpoint, False) == cached
    own = write(checkpoint.parent)
    assert find_vocabulary(None, checkpoint, False) == own, "what is next to the checkpoint comes first"
    assert find_vocabulary(BERT, checkpoint, False) == cached


def test_nothing_is_fetched_unasked(places, monkeypatch):
    asked = []

    def download(*words, local_files_only):
        asked.append(local_files_only)
        raise OSError("We couldn't connect")

    monkeypatch.setattr("experiments.models.convert.hf_hub_download", download)
    for allowed in (False, True):
        with pytest.raises(UserError, match="couldn't connect") as error:
            find_vocabulary("some/one", places / "x.pth", allowed)
        assert ("hub:" in str(error.value)) != allowed
    assert asked == [True, False]
    with pytest.raises(UserError, match="holds neither vocab.txt nor tokenizer.json"):
        find_vocabulary(str(places / "there"), places / "x.pth", False)


def test_a_vocabulary_is_needed(tmp_path):
    file = authors_blip.save_checkpoint(tmp_path, "caption")
    (tmp_path / "vocab.txt").unlink()
    line = rf"no vocabulary next to it: .*`attngraph convert blip {file} --out FOLDER --tokenizer "
    "hub:google-bert/bert-base-uncased`$"
    refused(load_family, file, line)
    torch.save({"other.weight": torch.ones(1)}, file)
    refused(load_family, file, r"its tensors \(other.weight, ...\) are those of no checkpoint known here")


def make(file):
    return make_tokenizer(file, len(WORDS) + 2, 20, "[DEC]", "[ENC]")


def test_the_tokenizer_is_berts_with_the_models_tokens(tmp_path):
    """From both kinds of files."""
    made = make(write(tmp_path))
    bert = BertTokenizerFast(vocab={word: place for place, word in enumerate(WORDS)})
    text = "A Picture of  RED balls, what?"
    assert made(text)["input_ids"] == bert(text)["input_ids"]
    assert made.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [len(WORDS), len(WORDS) + 1]
    assert made.bos_token == "[DEC]" and "[ENC]" in made.all_special_tokens
    made.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(WORDS).encode())
    for again in (
        AutoTokenizer.from_pretrained(tmp_path),
        make(tmp_path / "tokenizer.json"),
        make(tmp_path / "vocab.txt"),
    ):
        assert again(text)["input_ids"] == made(text)["input_ids"] and again.model_max_length == 20
        assert (again.bos_token_id, again.sep_token_id, len(again)) == (made.bos_token_id, 3, len(made))


FAR = {word: 2 * place for place, word in enumerate(WORDS)}


@pytest.mark.parametrize(
    "name, content",
    [
        ("vocab.txt", ""),
        ("vocab.txt", "\n".join([*WORDS, "more"])),
        ("vocab.txt", "\n".join([*WORDS[:-1], "red"])),
        ("vocab.txt", "\n".join(["pad", *WORDS[1:]])),
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer.json", '{"model": {"vocab": 3}}'),
        ("tokenizer.json", json.dumps({"model": {"vocab": FAR}})),
    ],
    ids=["empty", "a word more", "a word twice", "no padding", "cut", "deep", "no words", "gaps"],
)
def test_damaged_vocabularies(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    refused(make, tmp_path / name, "not the checkpoint's vocabulary .*: give the vocab.txt")
