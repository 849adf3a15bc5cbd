"""A page as Markdown, with its figures as PNG files beside it."""

from __future__ import annotations

from experiments.report.markdown import escape, markdown_table, render_markdown
from experiments.report.overview.blocks import Block, Commands, Grid, Page, Picture, Scores, Text


def render_markdown_page(page: Page) -> str:
    """The page; figures are files ``<name>.png``."""
    parts = [f"# {escape(page.title)}\n", _listed(page.about)]
    for section in page.sections:
        parts.append(f"{'#' * section.level} {escape(section.title)}\n")
        parts += [_block(block) for block in section.blocks]
    return "\n".join(parts)


def pictures(page: Page) -> list[Picture]:
    """The figures of a page."""
    return [block for section in page.sections for block in section.blocks if isinstance(block, Picture)]


def _block(block: Block) -> str:
    match block:
        case Text():
            return _listed(block.sentences)
        case Grid():
            return markdown_table(block.head, block.lines, block.title)
        case Scores():
            return render_markdown(block.table)
        case Picture():
            return f"![{escape(block.alt).replace(']', ' ')}]({block.name}.png)\n\n{escape(block.caption)}\n"
        case Commands():
            title = f"{escape(block.title)}:\n\n" if block.title else ""
            return f"{title}```{block.language}\n{block.lines}\n```\n"


def _listed(sentences: tuple[str, ...] | list[str]) -> str:
    mark = "- " if len(sentences) > 1 else ""
    return "\n".join(f"{mark}{escape(sentence)}" for sentence in sentences) + "\n"
