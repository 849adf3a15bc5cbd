"""Names that users give: spellings of a known one, and the nearest where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def spelled(name: str, known: Iterable[str]) -> str:
    """The known name that differs from ``name`` in nothing but case, hyphens, underscores, dots and spaces:
    ``pgnn`` for ``pGNN``. The name itself, if it is known, or if none or several do.
    """
    known = list(dict.fromkeys(known))
    same = [one for one in known if _folded(one) == _folded(name)]
    return same[0] if len(same) == 1 and name not in known else name


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``" (did you mean ...?)"`` if a known name is near (a similarity of ``cutoff``), else nothing."""
    near = nearest(name, known, cutoff)
    return f" (did you mean {near}?)" if near else ""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name with the largest similarity to ``name``, if that is ``cutoff`` or more."""
    by_folded = {_folded(one): one for one in known}
    near = get_close_matches(_folded(name), by_folded, 1, cutoff)
    return by_folded[near[0]] if near else None


def _folded(name: str) -> str:
    return re.sub(r"[-_.\s]", "", name).casefold()
