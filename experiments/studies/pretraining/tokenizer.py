"""The mini-BLIP tokenizer: whole words of the drawn scenes, with single characters for everything else.

A :class:`transformers.BertTokenizerFast`, as BLIP uses: lower-cases, splits at spaces and punctuation, then
greedy WordPiece. Every word that the scene generator and easy-VQA can write is one token; any other
lower-case ASCII word falls apart into known pieces and characters, so no such text becomes [UNK] (short of
words of more than 100 characters, BERT's limit).
"""

import string
from collections.abc import Iterable

from transformers import BertTokenizerFast

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]  # BLIP: [DEC] starts, [SEP] ends
MAX_TOKENS = 128

# Every word of the public easy-VQA data set, spelled out so that it need not be installed.
EASY_VQA_WORDS = """
    a any black blue brown circle color contain does gray green have image in is no not of present rectangle
    red shape teal the there triangle what yellow yes
""".split()


def build_vocabulary(words: Iterable[str]) -> dict[str, int]:
    """Token -> id, in an order that depends on the set of words only.

    Args:
        words: lower-case words; those with punctuation inside are left to the smaller pieces.
    """
    characters = [c for c in map(chr, range(33, 127)) if not c.isupper()]
    continuations = ["##" + c for c in string.ascii_lowercase + string.digits]
    whole = sorted({w for w in (*words, *EASY_VQA_WORDS) if w.isalnum() and w.islower()})
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *characters, *continuations, *whole])
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer(words: Iterable[str]) -> BertTokenizerFast:
    """The tokenizer over ``words``.

    ``save_pretrained`` saves it, :func:`~experiments.models.load_family` reads it with the same ids.
    """
    # Given as vocab=, not vocab_file=: the latter silently yields an empty vocabulary in transformers 5.
    return BertTokenizerFast(
        vocab=build_vocabulary(words),
        do_lower_case=True,
        bos_token="[DEC]",
        model_max_length=MAX_TOKENS,
    )
