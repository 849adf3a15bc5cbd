"""Formulas as MathML, which browsers render by themselves: pages need no script and no network.

A formula with a command that is not known is a warning.
"""

import re
from html import escape

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
SYNONYMS = {r"\lVert": "‖", r"\rVert": "‖", r"\lvert": "|", r"\rvert": "|", r"\dots": r"\ldots"}


def to_mathml(tex: str, display: bool) -> str:
    """A formula as a ``<math>`` element.

    Raises:
        ValueError: it cannot be read, or has an unknown command.
    """
    for command, synonym in SYNONYMS.items():
        tex = re.sub(re.escape(command) + r"(?![A-Za-z])", lambda match, new=synonym: new, tex)
    try:
        element = convert(tex, display="block" if display else "inline")
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    unknown = re.search(r"\\\S\w*", element)
    if unknown:
        raise ValueError(f"unknown command {unknown[0]}")
    return element


def _write(translator: HTML5Translator, node: nodes.Element, tex: str, display: bool) -> None:
    try:
        element = to_mathml(tex, display)
    except ValueError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        element = f"<code>{escape(tex)}</code>"
    tag = "div" if display else "span"
    translator.body.append(f'<{tag} class="math">{element}</{tag}>')
    raise nodes.SkipNode


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    _write(translator, node, node.astext(), display=False)


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    tex = re.sub(r"\n\s*\n", r" \\\\ ", node.astext().strip())  # an empty line begins a new line
    if (r"\\" in tex or "&" in tex) and r"\begin" not in tex:
        tex = rf"\begin{{split}}{tex}\end{{split}}"
    _write(translator, node, tex, display=True)


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
