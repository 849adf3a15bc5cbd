"""What the site is built with: options from parsers, names of the API, formulas, notebooks, links."""

from __future__ import annotations

import argparse
import importlib

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("sphinx")
pytest.importorskip("latex2mathml")
pytest.importorskip("nbclient")


@pytest.fixture
def extension(monkeypatch):
    """``extension(name)``: a module of docs/_ext."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    return importlib.import_module


def test_options_are_shown_as_the_help_prints_them(extension):
    options = extension("command_options")
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", nargs="+", metavar="NAME")
    parser.add_argument("--spectra", action="store_true")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=["tsne", "pca"])
    parser.add_argument("folder")
    shown = [options.signature(action) for action in options.actions(parser)]
    assert shown == ["--layers NAME [NAME ...]", "--spectra", "--method {tsne,pca}", "folder"]


def test_names_of_the_api(extension):
    for place, name in (
        ("attngraph.adapters.scheme.Scheme.decode", "attngraph.adapters.Scheme.decode"),
        ("attngraph.adapters.config.GraphAdapterConfig", "attngraph.adapters.GraphAdapterConfig"),
        ("attngraph.reading.reader.capture", "attngraph.capture"),
        ("attngraph.analysis.energy.energies", "attngraph.analysis.energy.energies"),
        ("attngraph.adapters.scheme.Scheme.name", "attngraph.adapters.Scheme.name"),  # only annotated
        ("attngraph.adapters.scheme.Scheme.decodes", None),
        ("attngraph.adapters.schemes", None),
    ):
        assert extension("package_modules").described_name(place) == name


def test_formulas(extension):
    mathml = extension("mathml")
    element = mathml.to_mathml(r"\Big\lVert \hat V \Big\rVert^{p-2} \lVert x \rVert", display=True)
    assert element.startswith("<math") and element.count("‖") == 4 and "\\" not in element
    with pytest.raises(ValueError, match=r"unknown command \\summ"):
        mathml.to_mathml(r"\summ_i x_i", display=False)


def test_attributes_that_share_a_line_are_split(extension):
    lines = [
        "What it is.",
        "",
        "Attributes:",
        "    query, value: features",
        "        of nodes.",
        "    kind: of it.",
        "",
    ]
    expected = lines[:3]
    for name in ("query", "value"):
        expected += [f"    {name}: features", "        of nodes."]
    assert extension("docstrings").split_names(lines) == [*expected, "    kind: of it.", ""]
    elsewhere = ["Args:", "    query, value: features."]
    assert extension("docstrings").split_names(elsewhere) == elsewhere


def test_notebooks_become_markdown(extension, tmp_path):
    pages = extension("notebook_pages")
    nbformat = pytest.importorskip("nbformat")
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("import sys\nprint('seen', file=sys.stderr)\nprint(6 * 7)"),
        nbformat.v4.new_code_cell("from pathlib import Path\nPath.cwd().name"),
    ]
    notebook = pages.execute(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), tmp_path)
    text = pages.to_markdown(notebook)
    assert text.startswith("# Title\n") and "````text\n42\n````" in text and repr(tmp_path.name) in text
    assert "\nseen" not in text


def test_broken_links_of_a_site(extension, tmp_path, capsys):
    assert extension("check_site").main([str(tmp_path)]) == 1, "an empty site is none"
    (tmp_path / "b.html").write_text('<p id="there">y</p>')
    for link, line in (
        ("b.html#there", None),
        ("https://example.org/nowhere", None),
        ("b.html#gone", "no such anchor"),
        ("c.html", "no such file"),
        ("#here", None),
    ):
        (tmp_path / "a.html").write_text(f'<p id="here"><a href="{link}">x</a></p>')
        assert extension("check_site").main([str(tmp_path)]) == (0 if line is None else 1)
        assert line is None or f"a.html: {link}: {line}" in capsys.readouterr().out
