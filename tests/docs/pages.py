"""README and the pages of docs/: their code blocks, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "experiments" / "results"
APPENDICES = sorted(
    path for name in ("README.md", "protocol.md", "deviations.md") for path in RESULTS.rglob(name)
)
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *APPENDICES]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))

FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?"
    r"^(?P<ticks>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`((?:attngraph|make) [^`]+)`", re.DOTALL)
LINK = re.compile(r"(?<!\\)\]\(\s*([^)\s]+)\s*\)|<img [^>]*src=\"([^\"]+)\"")
PLACEHOLDER = re.compile(r"[…\[]|[A-Z]{5,}")  # `attngraph COMMAND --help`


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: the file.
        line: of the file, where the block's text begins.
        language: what stands behind the fence.
        text: the block's lines.
        not_run: why the block is not meant to run; None if it is.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("text")) + 1,
            match["language"].strip(),
            match["text"],
            match["reason"],
        )
        for match in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def words_of(line: str) -> list[str]:
    """The words of a shell command, without a comment, `.venv/bin/` and what the shell sets before it."""
    words = shlex.split(line, comments=True)
    if words and words[0].startswith(".venv/bin/"):
        words[0] = words[0].removeprefix(".venv/bin/")
    return words


def shell_commands(page: Path) -> Iterator[list[str]]:
    """The `attngraph` and `make` commands in a page's shell blocks."""
    for block in blocks(page):
        if block.language in ("bash", "sh", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = words_of(line)
                if words and words[0] in ("attngraph", "make"):
                    yield words


def mentioned_commands(page: Path) -> Iterator[list[str]]:
    """The `attngraph` and `make` commands in a page's running text, placeholders left out."""
    for match in INLINE.finditer(prose(page)):
        text = " ".join(match[1].split())
        if not PLACEHOLDER.search(text):
            yield words_of(text)


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead, without other sites."""
    found = [first or second for first, second in LINK.findall(prose(page))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ +(.+?)\s*$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def short_name(page: Path) -> str:
    """A page's path from the root, as a test's id."""
    return page.relative_to(ROOT).as_posix()
