"""``Attributes:`` sections in which one line describes several: ``query, value: ...`` becomes two entries.

Napoleon splits such lines under ``Args:``, but not under ``Attributes:``.
"""

import re

from sphinx.application import Sphinx

ENTRY = re.compile(r"(?P<indent>\s+)(?P<names>\w+(?:, \w+)+)(?P<text>:.*)")


def split_names(lines: list[str]) -> list[str]:
    """A docstring's lines with an entry for each attribute."""
    result: list[str] = []
    inside, k = False, 0
    while k < len(lines):
        line = lines[k]
        if line.strip() and not line.startswith(" "):
            inside = line.strip() == "Attributes:"
        match = ENTRY.fullmatch(line) if inside else None
        if match is None:
            result.append(line)
            k += 1
            continue
        rest = []
        k += 1
        while k < len(lines) and lines[k].startswith(match["indent"] + " "):
            rest.append(lines[k])
            k += 1
        for name in match["names"].split(", "):
            result += [f"{match['indent']}{name}{match['text']}", *rest]
    return result


def process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Sphinx's hook; before Napoleon."""
    lines[:] = split_names(lines)


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True}
