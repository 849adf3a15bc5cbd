"""Whole words, no unknown text, and the same ids after saving."""

import random
import string

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from experiments.scenes.words import all_words
from experiments.studies.pretraining.tokenizer import (
    EASY_VQA_WORDS,
    SPECIAL_TOKENS,
    build_tokenizer,
    build_vocabulary,
)

TEXTS = [
    "how many red circles?",
    'is it correct that a tealish zebra isn\'t 47% of it -- [or] "so"?',
    "",
    "a  b\tc",
    "x" * 100,
]


def test_words_are_whole_tokens():
    tokenizer = build_tokenizer(all_words())
    for word in {*all_words(), *EASY_VQA_WORDS}:
        assert tokenizer.tokenize(word) == [word]


def test_no_lower_case_ascii_text_is_unknown():
    tokenizer = build_tokenizer(["red", "circle"])
    rng = random.Random(0)
    alphabet = string.ascii_lowercase + string.digits + string.punctuation + " "
    texts = TEXTS + ["".join(rng.choices(alphabet, k=60)) for _ in range(200)]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids, text


def test_vocabulary_does_not_depend_on_the_order_of_the_words():
    assert build_vocabulary(["red", "blue"]) == build_vocabulary(["blue", "red", "red"])
    assert list(build_vocabulary([]))[: len(SPECIAL_TOKENS)] == SPECIAL_TOKENS


def test_start_and_end_tokens():
    tokenizer = build_tokenizer(["red"])
    assert (tokenizer.pad_token_id, tokenizer.sep_token, tokenizer.bos_token) == (0, "[SEP]", "[DEC]")
    assert tokenizer.decode(tokenizer("red circle")["input_ids"], skip_special_tokens=True) == "red circle"


def test_saved_tokenizer_gives_the_same_ids(tmp_path):
    tokenizer = build_tokenizer(all_words())
    tokenizer.save_pretrained(tmp_path)
    for loader in (AutoTokenizer, PreTrainedTokenizerFast):
        loaded = loader.from_pretrained(tmp_path, local_files_only=True)
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert loaded.model_max_length == tokenizer.model_max_length
        assert loaded.bos_token_id == tokenizer.bos_token_id
        for text in TEXTS:
            assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
