"""Two corrections of Napoleon.

- ``Attributes:`` sections in which one line describes several: ``query, value: ...`` becomes two entries, as
  under ``Args:``.
- Descriptions of attributes and properties are prose: words before a colon are not the attribute's type.
"""

import re

from sphinx.application import Sphinx

ENTRY = re.compile(r"(?P<indent>\s+)(?P<names>\w+(?:, \w+)+)(?P<text>:.*)")
SECTION = re.compile(r"[A-Z][a-z]+:")
BEFORE_NAPOLEON, AFTER_NAPOLEON = 100, 900


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


class Prose:
    """Keeps the descriptions of attributes unchanged."""

    def __init__(self) -> None:
        self.kept: dict[str, list[str]] = {}

    def keep(self, app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
        lines[:] = split_names(lines)
        if what in ("attribute", "property", "data") and not any(map(SECTION.fullmatch, lines)):
            self.kept[name] = list(lines)

    def restore(
        self, app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
    ) -> None:
        lines[:] = self.kept.pop(name, lines)


def setup(app: Sphinx) -> dict:
    prose = Prose()
    app.connect("autodoc-process-docstring", prose.keep, priority=BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", prose.restore, priority=AFTER_NAPOLEON)
    return {"parallel_read_safe": True}
