"""Texts as BLIP, ALBEF, mPLUG and p-Adapter prepare them for their models."""

from __future__ import annotations

import re

WORDS = 30  # of a caption

_MARKS = re.compile(r"[.!\"()*#:;~]")


def plain_question(question: str) -> str:
    """``pre_question`` of BLIP's code: lower case, without the marks ``.!"()*#:;~``; "?" stays."""
    return _MARKS.sub("", question.lower()).strip()


def plain_caption(caption: str) -> str:
    """``pre_caption`` of BLIP's code: lower case, a space for each of the marks ``.!"()*#:;~``, at most
    :data:`WORDS` words.
    """
    return " ".join(_MARKS.sub(" ", caption.lower()).split()[:WORDS])
