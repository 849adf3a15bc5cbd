"""The page as one HTML file."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from attngraph.errors import UserError
from attngraph.experiments.methods import METHODS
from attngraph.experiments.tables.page import page_of
from tests.experiments.tables.made import change, save_cells, write_archives


def lines_of(page) -> list[list[str]]:
    """The texts of all tables' cells, line by line."""
    return [["".join(cell.itertext()) for cell in line] for line in page.iter("tr")]


def test_everything_is_on_one_well_formed_page_without_addresses(tmp_path):
    folder = save_cells(tmp_path / "a", seeds=(0, 1, 2))
    for file in folder.glob("cells/pgnn/*/*/scores.json"):
        change(file, effects={"layer.0.attention": {"kappa": 0.5, "moved": 0.1}})
    html, about = page_of([folder])
    page = ElementTree.fromstring(html)
    assert "http" not in html and not {"script", "link"} & {element.tag for element in page.iter()}
    anchors = [element.get("id") for element in page.iter() if "id" in element.attrib]
    assert [f"#{anchor}" for anchor in anchors] == [one.get("href") for one in page.iter("a")]
    (image,) = page.iter("img")
    assert image.get("src").startswith("data:image/png;base64,")
    assert about.startswith("Finished runs: 12, tables: 1. Made by attngraph") and about in html
    assert "p-values are for new seeds and images with this checkpoint" in html
    assert "0.0.1 (12 runs)" in html
    starts = {tuple(line[:2]) for line in lines_of(page) if len(line) > 1}
    kinds = {("pGNN − GCN", "VQA acc"), ("pGNN", "layer.*.attention"), ("pGNN", "2")}
    assert starts >= kinds | {("Kind", "GCN")}
    (row,) = [line for line in lines_of(page) if line[0] == "pGNN" and line[-4:-2] == ["3", "1,234"]]
    assert " ± " in row[1]


def test_what_users_name_is_escaped(tmp_path, monkeypatch):
    odd = replace(METHODS["gcn"], title="<b>&\"GCN'|*", note="<script>x</script>")
    monkeypatch.setitem(METHODS, "gcn", odd)
    html, _ = page_of([save_cells(tmp_path / "a", "ve", seeds=(0,))])
    assert "<script" not in html and "&lt;script&gt;" in html
    assert any(line[0] == "<b>&\"GCN'|*" for line in lines_of(ElementTree.fromstring(html)))


def test_each_folder_is_a_table_and_single_runs_make_one(tmp_path):
    """Also archives; runs that cannot be compared are shown without; another baseline."""
    first = save_cells(tmp_path / "a", "ve", rows=("gcn", "pgnn", "tempering", "full"))
    second = save_cells(tmp_path / "b", "ve", rows=("gcn", "appnp"))
    write_archives(second, tmp_path / "archives")
    change(second / "cells/appnp/ve/seed0/config.json", "settings", weights="others")
    single = [first / f"cells/{row}/ve/seed0" for row in ("gcn", "pgnn")]
    html, about = page_of([first, second, *single, tmp_path / "archives"], "pgnn")
    assert about.startswith("Finished runs: 18, tables: 4.")
    titles = [str(first), str(second), str(tmp_path / "archives"), "Single runs"]
    headings = [element.text for element in ElementTree.fromstring(html).iter("h2")]
    assert headings[:-1] == [f"Table {number}: {title}" for number, title in enumerate(titles, 1)]
    assert "There are no comparisons: " in html and "started from different weights" in html
    assert "GCN − pGNN" in html and "Tempering alone − pGNN" in html and "Full fine-tuning − pGNN" not in html
    with pytest.raises(UserError, match=r"unknown row 'pgn' \(did you mean pgnn\?\)"):
        page_of([first], "pgn")
