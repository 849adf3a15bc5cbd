"""What a page is made of: sections, and in them texts, grids, tables of scores, figures and commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from experiments.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """Sentences, each of them a paragraph, or an entry of a list if there are several."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table of plain texts.

    Args:
        head: headings of the columns.
        lines: cells.
        title: above it.
        names: how many columns at the left hold names; the others hold numbers.
        reads: whether all cells are words.
        strong: a cell's text that is to be seen.
        folded: whether it is long and of interest to few.
    """

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    title: str = ""
    names: int = 1
    reads: bool = False
    strong: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Scores:
    """A table of results."""

    table: Table


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        name: of its file, without suffix.
        draw: makes it; it is drawn once.
        alt: what it shows, for those who cannot see it.
        caption: under it.
    """

    name: str
    draw: Callable[[], Figure]
    alt: str
    caption: str

    @cached_property
    def figure(self) -> Figure:
        """What :attr:`draw` makes."""
        return self.draw()


@dataclass(frozen=True)
class Commands:
    """Lines for a shell, or the content of a file.

    Args:
        lines: these.
        language: which they are in.
        title: above them, to be unfolded.
    """

    lines: str
    language: str = "bash"
    title: str = ""


Block = Text | Grid | Scores | Picture | Commands


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it.

    Args:
        title: the heading.
        blocks: in order.
        level: 2 for a section of the page, 3 for one within such a section.
    """

    title: str
    blocks: Sequence[Block]
    level: int = 2


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        title: on top.
        about: under it.
        sections: in order.
    """

    title: str
    about: Sequence[str]
    sections: Sequence[Section]
