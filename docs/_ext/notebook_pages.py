"""Pages from notebooks: ``.ipynb`` files are run at build time and shown with their output.

    python docs/_ext/notebook_pages.py NOTEBOOK ...   # stores the outputs in the files

The slow tests compare stored outputs with new ones.
"""

import logging
import os
import re
import subprocess
import sys
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


def store_outputs(path: Path) -> None:
    """Runs a notebook and stores its outputs in the file: text that it prints and returns, and images."""
    source = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(source, as_version=4)
    for cell, run in zip(notebook.cells, execute(source, path.parent).cells):
        if cell.cell_type == "code":
            cell.outputs = [kept for output in run.outputs if (kept := _kept(output)) is not None]
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def _kept(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output without numbers of executions, standard error, and the other forms of an image."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    data = output.get("data", {})
    name = next((name for name in ("image/png", "text/plain") if name in data), None)
    return name and nbformat.v4.new_output("display_data", {name: data[name]})


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


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store_outputs(Path(name))
