"""The page as HTML and Markdown."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from attngraph.errors import UserError
from experiments.methods import METHODS
from experiments.report.archive import pack
from experiments.report.overview.found import found_runs
from experiments.report.overview.html import render_html
from experiments.report.overview.page import page_of
from experiments.report.overview.plain import render_markdown_page
from experiments.report.text import render_text
from experiments.report.wording import number
from tests.experiments.report.overview.small import save_table

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Reader(HTMLParser):
    """Checks that elements are closed in order; keeps texts, cells by line, attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.lines, self.attributes, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *one) for one in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, *one) for one in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data


def made(*sources, **options):
    with found_runs(sources) as search:
        page, tables = page_of(search, **options)
        return render_html(page), render_markdown_page(page), tables


def scores_of(line):
    """Numbers of a line of a table, without marks."""
    return [re.sub(r"[*†\u2009 ]", "", cell) for cell in line]


def test_the_page_is_one_well_formed_file_without_addresses(tmp_path):
    html, _, _ = made(save_table(tmp_path / "a"))
    reader = Reader(html)
    assert "http" not in html and "script" not in reader.tags and "link" not in reader.tags
    held = {value for _, name, value in reader.attributes if name == "id"}
    asked = {value[1:] for _, name, value in reader.attributes if name == "href" and value.startswith("#")}
    assert asked <= held
    assert all(value.startswith("#") for _, name, value in reader.attributes if name in ("href", "src"))
    labels = [value for tag, name, value in reader.attributes if (tag, name) == ("svg", "aria-label")]
    assert reader.tags.count("svg") == len(labels) == 3 and all(labels)
    identifiers = [value for _, name, value in reader.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


def test_numbers_are_those_of_the_text_table(tmp_path):
    folder = save_table(tmp_path / "a", ("gcn", "appnp", "pgnn"), seeds=range(5), images=1000)
    html, markdown, (table,) = made(folder)
    lines = {line[0]: line[1:] for line in reversed(Reader(html).lines)}
    text = render_text(table).splitlines()
    for row in table.rows:
        printed = next(line for line in text if line.strip().startswith(f"{row.name} "))
        cells = [cell for cell in re.split(r"\s{2,}", printed.strip())[1:] if cell]
        assert scores_of(lines[row.name]) == scores_of(cells)
        own = next(line for line in markdown.splitlines() if line.startswith(f"| {row.name} |"))
        assert scores_of(own.strip("| ").split(" | ")[1:]) == scores_of(cells)
    seen = set()
    for column in table.columns:
        marked = {row.name for row in table.rows if table.differs(row.name, column.key)}
        place = [c.key for c in table.columns].index(column.key)
        assert marked == {row.name for row in table.rows if "†" in lines[row.name][place]}
        (best,) = table.best(column.key)
        score = next(row.scores[column.key] for row in table.rows if row.name == best)
        assert f"<b>{number(score)}</b>" in html
        seen |= marked
    assert "pGNN" in seen


def test_everything_is_on_the_page(tmp_path):
    table = save_table(tmp_path / "a", seeds=(0, 1, 2))
    for file in table.glob("cells/pgnn/*/*/scores.json"):
        result = json.loads(file.read_text())
        effect = {"layer.0.attention": {"kappa": 0.5, "moved": 0.1}}
        file.write_text(
            json.dumps(result | {"effects": effect, "started": {"p": 0.0}, "learned": {"p": 1.5}})
        )
    (table / "cells" / "gcn" / "ve" / "seed0" / "experiment.yaml").write_text("method: gcn\n")
    html, markdown, _ = made(table, title="Mine")
    for text in (html, markdown):
        for heading in ("Mine", "Significance", "Training", "Costs", "What adapters do", "Every seed"):
            assert heading in text
        assert "p values speak for new seeds and images with this checkpoint" in text
        assert "What differs from the published setting" in text and "BLIP CapFilt-L" in text
        assert "Published numbers, another scale" in text
        assert "attngraph significance" in text and "gcn/ve/seed0/experiment.yaml --out" in text
        assert "method: gcn" in text and "0.0.1" in text and "κ" in text
        assert "learning rate" in text and "mini-BLIP" in text
    assert "![" in markdown and "(report-1-ve.png)" in markdown


def test_names_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setitem(
        METHODS, "gcn", replace(METHODS["gcn"], title="<b>&\"GCN'|*", note="<script>x</script>")
    )
    html, markdown, _ = made(save_table(tmp_path / "a"), title="<i>&")
    assert "<script" not in html and "&lt;script&gt;" in html and "<i>" not in html
    lines = Reader(html).lines
    assert any(line[0] == "<b>&\"GCN'|*" for line in lines)
    assert "\\|\\*" in markdown


def test_no_two_experiments_are_averaged(tmp_path):
    """Two learning rates: two rows, each with its own mean."""
    first = save_table(tmp_path / "a")
    second = save_table(tmp_path / "b", recipe={"learning_rate": 0.003})
    _, _, (alone,) = made(first)
    html, _, (table,) = made(first, second)
    means = {row.name: row.scores for row in table.rows}
    assert set(means) == {
        f"{name} (learning rate {rate})" for name in ("GCN", "pGNN") for rate in ("0.01", "0.003")
    }
    for row in alone.rows:
        assert means[f"{row.name} (learning rate 0.01)"] == row.scores
    assert "GCN (learning rate 0.003)" in html
    compared = {line["row"] for line in table.comparisons}
    assert table.baseline == "GCN (learning rate 0.01)" and len(compared) == 3


def test_tables_of_the_same_tasks_are_told_apart(tmp_path):
    first, second = save_table(tmp_path / "a"), save_table(tmp_path / "b", data="others")
    _, _, tables = made(first, second)
    assert [str(first) in tables[0].title, str(second) in tables[1].title] == [True, True]


def test_unequal_budgets_are_said(tmp_path):
    first = save_table(tmp_path / "a", rows=("gcn",))
    second = save_table(tmp_path / "b", rows=("pgnn",), recipe={"steps": 80})
    html, _, (table,) = made(first, second)
    assert any("steps 40 (GCN); 80 (pGNN)" in note for note in table.notes)
    assert "steps 40 (GCN); 80 (pGNN)" in html
    _, _, (equal,) = made(first)
    assert not any("Not alike" in note for note in equal.notes)


def test_a_baseline_of_ones_own(tmp_path):
    table = save_table(tmp_path / "a", rows=("gcn", "pgnn", "tempering"))
    _, _, (made_of,) = made(table, baseline="pgnn")
    assert {line["row"] for line in made_of.comparisons} == {"GCN", METHODS["tempering"].title}
    assert made_of.baseline == "pGNN"
    with pytest.raises(UserError, match=r"--baseline pgn \(did you mean pgnn\?\)"):
        made(table, baseline="pgn")


def test_the_page_says_what_is_left_out(tmp_path):
    table = save_table(tmp_path / "a")
    shutil.copytree(table / "cells" / "gcn" / "ve" / "seed0", tmp_path / "copy")
    (table / "cells" / "gcn" / "ve" / "seed1" / "scores.json").unlink()
    html, _, _ = made(table, tmp_path / "copy")
    assert (
        "7 finished runs in 1 table, 1 that is the same as another left out, 1 unfinished left out." in html
    )


def test_shares_of_parameters_are_shown_where_runs_tell_them(tmp_path):
    table = save_table(tmp_path / "a")
    for file in table.glob("cells/pgnn/ve/*/scores.json"):
        shares = {"model": 0.01234, "language_side": 0.05}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"parameter_shares": shares}))
    html, _, _ = made(table)
    costs = {tuple(line[:2]): line[3:6] for line in Reader(html).lines if len(line) == 9}
    title = "Visual entailment (Scenes, SNLI-VE format)"
    assert costs["pGNN", title] == ["1,234", "1.23 %", "5.00 %"]
    assert costs["GCN", title] == ["1,234", "–", "–"]


def test_what_holds_for_new_checkpoints_is_given_apart(tmp_path):
    """Seeds on three checkpoints make one table, whose comparisons have the second interval."""
    table = save_table(tmp_path / "a", seeds=range(6))
    for file in table.glob("cells/*/*/*/config.json"):
        config = json.loads(file.read_text())
        config["settings"]["weights"] = f"checkpoint {config['settings']['seed'] % 3}"
        file.write_text(json.dumps(config))
    html, markdown, (made_of,) = made(table)
    assert made_of.title.startswith("3 checkpoints") and all(
        line["checkpoints"] == 3 for line in made_of.comparisons
    )
    for text in (html, markdown):
        assert "New checkpoints: 95 % interval" in text and "with these 3 checkpoints" in text


def test_runs_of_archives_are_named_by_their_archive(tmp_path):
    pack(save_table(tmp_path / "a"), tmp_path / "archives")
    html, markdown, (table,) = made(tmp_path / "archives")
    place = f"{tmp_path}/archives/seed-01.tar.xz/cells/gcn/ve/seed1"
    assert place in html and place in markdown and "/attngraph-" not in html
    _, _, (unpacked,) = made(tmp_path / "a")
    scores = [row.scores for row in table.rows]
    assert [row.name for row in table.rows] == [row.name for row in unpacked.rows]
    for one, other in zip(scores, [row.scores for row in unpacked.rows], strict=True):
        assert one == other
