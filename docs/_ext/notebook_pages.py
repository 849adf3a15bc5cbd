"""Pages from notebooks: ``.ipynb`` files are run at build time and shown with their output."""

import logging
import os
import re
import subprocess
from pathlib import Path

import nbformat
from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from nbclient import NotebookClient
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # for one cell


def execute(source: str, folder: Path) -> nbformat.NotebookNode:
    """Runs all cells of a notebook in ``folder``, with the packages of this checkout.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error.
    """
    notebook = nbformat.reads(source, as_version=4)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3")
    client.log.setLevel(logging.ERROR)
    client.execute(cwd=str(folder), env=environment, stderr=subprocess.DEVNULL)
    return notebook


def to_markdown(notebook: nbformat.NotebookNode) -> str:
    """A notebook's cells and outputs as MyST Markdown; images are embedded."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(_fence("python", cell.source))
            parts += [text for output in cell.outputs if (text := _output(output))]
    return "\n\n".join(parts) + "\n"


def _output(output: nbformat.NotebookNode) -> str | None:
    """One output of a cell; warnings and progress bars (standard error) are omitted."""
    if output.output_type == "stream":
        return _fence("text", output.text) if output.name == "stdout" else None
    data = output.get("data", {})
    if "image/png" in data:
        return f"![]({'data:image/png;base64,' + data['image/png'].replace(chr(10), '').strip()})"
    if "text/html" in data:
        return _fence("{raw} html", re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL))
    if "text/plain" in data:
        return _fence("text", data["text/plain"])
    return None


def _fence(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"


class NotebookParser(MystParser):
    """Runs a notebook and parses it as Markdown. The result is cached until notebook or packages change."""

    supported = ("ipynb",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        source = Path(document["source"])
        notebook = execute(inputstring, source.parent)
        super().parse(to_markdown(notebook), document)


def setup(app: Sphinx) -> dict:
    app.add_source_suffix(".ipynb", "ipynb")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True}
