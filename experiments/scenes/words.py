"""Vocabulary of the texts about synthetic scenes, with parts of speech."""

from functools import cache

_WORDS = {
    "noun": """
        circle circles square squares triangle triangles star stars cross crosses diamond diamonds rectangle
        rectangles thing things object objects item items shape shapes color colors size image picture scene
        drawing curtain description statement contradiction entailment part side left right top bottom middle
        name count number caption verdict
    """,
    "colour": "red green blue yellow purple orange cyan brown black gray teal",
    "number": "0 1 2 3 4 5 one two three four five none many more most fewer least total",
    "adjective": """
        small large huge bigger smaller same correct incorrect true false hidden missing common neutral
        certain ambiguous unknown leftmost rightmost highest lowest higher lower further short compared
        counted half whole present
    """,
    "verb": """
        is are be been can could do does has have appear believe choose compare contain describe drawn
        excluding exist exists find found give hangs hide judge lack lie lies list look mark outnumber pick
        picture say says see seen share show shows tell verify would
    """,
    "determiner": "a an the this that these every some any another no all other its",
    "preposition": """
        of in on at to from under above below behind beside among over with without as up than for
    """,
    "pronoun": "it they me we you what which where how there here someone",
    "other": "and or not only yes exactly maybe s",
    "punctuation": "' , . : ?",
}
PARTS = tuple(_WORDS)


@cache
def parts_of_speech() -> dict[str, str]:
    """``{word: part of speech}``; of several, the most frequent one in these texts."""
    parts: dict[str, str] = {}
    for part, words in _WORDS.items():
        for word in words.split():
            parts.setdefault(word, part)
    return parts


def all_words() -> tuple[str, ...]:
    """Every word and punctuation mark of pre-training texts, downstream texts and labels, sorted.

    Words are sequences of letters and digits; each punctuation mark is a separate word.
    """
    return tuple(sorted(parts_of_speech()))
