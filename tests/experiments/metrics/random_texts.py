"""Random texts that stress the rules by which VQA evaluators process answers."""

from __future__ import annotations

import random

WORDS = "a an the The none zero one Two TEN twelve yes no Yes red dog im its well hell dont don't".split()
MARKS = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "’", "“", "…", "¿", "。"]
SPACES = [
    " ",
    "  ",
    "\n",
    "\t",
    "\r",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\xa0",
    "\u2028",
    "\u3000",
    "\u200b",
    "",
]
NUMBERS = [*"0123456789", "1,000", "2.5", ".5", "5.", "3.14.15", "1,2,3", "٣", "٣,٤", "²", "１,２"]
LETTERS = ["é", "İ", "ß", "Σ", "ΑΣ", "ǅ", "\ud800", "🙂", "\u0301", "ﬁ"]


def text(rng: random.Random, words: list[str]) -> str:
    """A short text; the five kinds stress different rules."""
    kind = rng.randrange(5)
    if kind == 0:
        return "".join(chr(rng.randrange(1, 128)) for _ in range(rng.randrange(12)))
    if kind == 1:
        lists = (words, MARKS, SPACES, NUMBERS, LETTERS)
        return "".join(rng.choice(rng.choice(lists)) for _ in range(rng.randrange(9)))
    if kind == 2:
        return rng.choice(SPACES).join(rng.choice(words + MARKS) for _ in range(rng.randrange(6)))
    if kind == 3:
        return "".join(rng.choice([".", "..", ". ", "1.", ".a"]) for _ in range(rng.randrange(60)))
    return "".join(chr(rng.choice((rng.randrange(0x250), rng.randrange(0x110000)))) for _ in range(6))


def varied(rng: random.Random, text: str) -> str:
    """The text in another spelling."""
    return rng.choice(
        [text, text.upper(), f" {text}\n", f"{text}.", f"the {text}", text.replace("'", ""), f"{text}!"]
    )
