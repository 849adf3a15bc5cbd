"""BERT's vocabulary: where it is looked for, what is read, and the tokenizer that is made of it."""

import json

import pytest
from huggingface_hub import constants
from transformers import AutoTokenizer, BertTokenizerFast

from attngraph.errors import UserError
from experiments.models.original.vocabulary import (
    BERT,
    check_size,
    find_vocabulary,
    make_tokenizer,
    read_vocabulary,
)
from tests.experiments.models.original.authors_blip import WORDS


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
    assert "allow the download (--download)" in str(error.value) and "\n" not in str(error.value)
    snapshot = places / "hub" / f"models--{BERT.replace('/', '--')}"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("1" * 40)
    (snapshot / "snapshots" / ("1" * 40)).mkdir(parents=True)
    cached = write(snapshot / "snapshots" / ("1" * 40))
    assert find_vocabulary(None, checkpoint, False) == cached
    assert find_vocabulary(BERT, checkpoint, False) == cached
    own = write(checkpoint.parent)
    assert find_vocabulary(None, checkpoint, False) == own, "what lies beside the checkpoint comes first"
    assert find_vocabulary(BERT, checkpoint, False) == cached


def test_nothing_is_fetched_unasked(places, monkeypatch):
    asked = []

    def download(*words, local_files_only):
        asked.append(local_files_only)
        raise OSError("We couldn't connect")

    monkeypatch.setattr("experiments.models.original.vocabulary.hf_hub_download", download)
    for allowed in (False, True):
        with pytest.raises(UserError, match="couldn't connect") as error:
            find_vocabulary("some/one", places / "x.pth", allowed)
        assert ("--download" in str(error.value)) != allowed
    assert asked == [True, False]


def test_names_that_are_none(places):
    for name in ("no such name", "no/such/name", "x"):
        with pytest.raises(UserError, match="cannot be found") as error:
            find_vocabulary(name, places / "x.pth", False)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="holds neither vocab.txt nor tokenizer.json"):
        find_vocabulary(str(places / "there"), places / "x.pth", False)


def test_both_kinds_of_files_give_the_same_words(tmp_path):
    words = read_vocabulary(write(tmp_path))
    assert words == {word: place for place, word in enumerate(WORDS)}
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(WORDS).encode())
    assert read_vocabulary(tmp_path / "vocab.txt") == words
    make_tokenizer(words, "[DEC]", "[ENC]", longest=20).save_pretrained(tmp_path)
    assert read_vocabulary(tmp_path / "tokenizer.json") == words, "without what was added"
    BertTokenizerFast(vocab=words).save_pretrained(tmp_path)
    assert read_vocabulary(tmp_path / "tokenizer.json") == words


def test_the_tokenizer_is_berts_with_blips_tokens(tmp_path):
    made = make_tokenizer(read_vocabulary(write(tmp_path)), "[DEC]", "[ENC]", longest=20)
    bert = BertTokenizerFast(vocab={word: place for place, word in enumerate(WORDS)})
    text = "A Picture of  RED balls, what?"
    assert made(text)["input_ids"] == bert(text)["input_ids"]
    assert made.bos_token_id == len(WORDS) == made.convert_tokens_to_ids("[ENC]") - 1
    assert made.convert_tokens_to_ids(["[ENC]"]) == [len(WORDS) + 1] and "[ENC]" in made.all_special_tokens
    made.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(text)["input_ids"] == made(text)["input_ids"] and again.model_max_length == 20
    assert (again.bos_token_id, again.sep_token_id, len(again)) == (made.bos_token_id, 3, len(made))


def test_sizes(tmp_path):
    words = {word: place for place, word in enumerate(WORDS)}
    check_size(
        make_tokenizer(words, "[DEC]", "[ENC]", longest=9), len(WORDS) + 2, tmp_path, ("[DEC]", "[ENC]")
    )
    for more in ({}, {"one": len(WORDS), "two": len(WORDS) + 1}):
        made = make_tokenizer(words | more, "[DEC]", "[ENC]", longest=9)
        with pytest.raises(UserError, match="but the checkpoint has embeddings of"):
            check_size(made, len(WORDS) + 3, tmp_path, ("[DEC]", "[ENC]"))
    first = {word: place for place, word in enumerate([*WORDS, "[ENC]"])}
    made = make_tokenizer(first, "[DEC]", "[ENC]", longest=9)
    with pytest.raises(UserError, match=r"\[DEC\] and \[ENC\] are not its last tokens"):
        check_size(made, len(WORDS) + 2, tmp_path, ("[DEC]", "[ENC]"))


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("vocab.txt", "", r"a vocabulary without \[PAD\], \[UNK\]"),
        ("vocab.txt", "\n".join([*WORDS, "red"]), "a word is there twice"),
        ("vocab.txt", "\n".join(word for word in WORDS if word != "[SEP]"), r"without \[SEP\]"),
        ("tokenizer.json", "{", "no vocabulary"),
        ("tokenizer.json", "[]", "no vocabulary"),
        ("tokenizer.json", json.dumps({"model": {"type": "BPE", "vocab": {}}}), "without"),
        ("tokenizer.json", json.dumps({"model": {"type": "WordPiece", "vocab": 3}}), "no vocabulary"),
        ("tokenizer.json", "[" * 100_000, "no vocabulary"),
        (
            "tokenizer.json",
            json.dumps(
                {"model": {"type": "WordPiece", "vocab": {word: 2 * k for k, word in enumerate(WORDS)}}}
            ),
            "whose ids leave places out",
        ),
        (
            "tokenizer.json",
            json.dumps({"model": {"type": "WordPiece", "vocab": dict.fromkeys(WORDS, "x")}}),
            "whose ids leave places out",
        ),
    ],
)
def test_damaged_files(name, content, match, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=match) as error:
        read_vocabulary(tmp_path / name)
    assert "\n" not in str(error.value) and "give BERT's vocab.txt" in str(error.value)
