"""Texts as BLIP, ALBEF and p-Adapter prepare them for their models.

mPLUG's own code leaves marks in questions and captions and only lowers their case; here all models read the
same texts. Its ``[SEP]``, which parts a question from words that were read in the picture, stays.
"""

from __future__ import annotations

import re

WORDS = 30  # of a caption

_MARKS = re.compile(r"[.!\"()*#:;~]")


def plain_question(question: str) -> str:
    """``pre_question`` of BLIP's code: lower case, without the marks ``.!"()*#:;~``. "?" and "[SEP]" stay."""
    return _MARKS.sub("", question.lower()).strip().replace("[sep]", "[SEP]")


def plain_caption(caption: str) -> str:
    """``pre_caption`` of BLIP's code: lower case, a space for each of the marks ``.!"()*#:;~``, at most
    :data:`WORDS` words.
    """
    return " ".join(_MARKS.sub(" ", caption.lower()).split()[:WORDS])
