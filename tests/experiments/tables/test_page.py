"""The page as HTML and Markdown."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from attngraph.errors import UserError
from experiments.methods import METHODS
from experiments.tables.figure import curves_of, draw_curves, png, read_steps, svg, thinned
from experiments.tables.page import page_of
from experiments.tables.render import blocks_of
from experiments.tables.runs import saved_runs
from experiments.tables.table import Table
from experiments.tasks import TASKS
from tests.experiments.tables.made import STEPS, save_table, write_archives

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


def made(*folders, **options):
    """The page as HTML and Markdown, and its tables."""
    with page_of(folders, **options) as page:
        tables = [block for section in page.sections for block in section.blocks if isinstance(block, Table)]
        return page.html(), page.markdown(), tables


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A table of two rows with all that runs can tell, and its page."""
    folder = save_table(tmp_path_factory.mktemp("page") / "a", seeds=(0, 1, 2))
    for file in folder.glob("cells/pgnn/*/*/scores.json"):
        more = {"effects": {"layer.0.attention": {"kappa": 0.5, "moved": 0.1}}}
        more |= {"started": {"p": 0.0}, "learned": {"p": 1.5}}
        more |= {"parameter_shares": {"model": 0.01234, "language_side": 0.05}}
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
    (folder / "cells" / "gcn" / "ve" / "seed0" / "experiment.yaml").write_text("method: gcn\n")
    return folder, *made(folder, title="<i>& [Mine](x)")


def test_the_page_is_one_well_formed_file_without_addresses(whole):
    reader = Reader(whole[1])
    assert "http" not in whole[1] and "script" not in reader.tags and "link" not in reader.tags
    identifiers = [value for _, name, value in reader.attributes if name == "id"]
    asked = [value for _, name, value in reader.attributes if name in ("href", "src")]
    assert len(identifiers) == len(set(identifiers))
    assert asked and all(value.startswith("#") and value[1:] in identifiers for value in asked)
    labels = [value for _, name, value in reader.attributes if name == "aria-label"]
    assert reader.tags.count("svg") == 3 and len(labels) == 4 and all(labels)


def test_numbers_are_those_of_the_table(whole):
    _, html, markdown, (table,) = whole
    lines = {line[0]: line[1:] for line in reversed(Reader(html).lines)}
    for line in (line for block in blocks_of(table) for line in block.lines if line.row):
        texts = [cell.text + "\u2009†" * cell.differs for cell in line.cells]
        assert lines[line.name] == [*texts, *line.costs]
        best = [cell.text for cell in line.cells if cell.best]
        assert all(f"<b>{text}</b>" in html and f"**{text}**" in markdown for text in best)


def test_everything_is_on_the_page(whole):
    folder, html, markdown, (table,) = whole
    for text in (html, markdown):
        for heading in ("Significance", "Training", "Costs", "What adapters do", "Every seed"):
            assert heading in text
        assert "12 finished runs in 1 table. Made by attngraph" in text
        assert "p values speak for new seeds and images with this checkpoint" in text
        assert "Published numbers, another scale" in text and "How the methods were trained" in text
        assert "attngraph significance" in text and "gcn/ve/seed0/experiment.yaml --out" in text
        assert "0.0.1" in text and "κ" in text and "learning rate" in text
        assert str(folder / "cells/pgnn/vqa/seed2") in text
    assert "![" in markdown and "(report-1-ve.png)" in markdown
    costs = {tuple(line[:2]): line[3:6] for line in Reader(html).lines if len(line) == 9}
    title = "Visual entailment (Scenes, SNLI-VE format)"
    assert costs["pGNN", title] == ["1,234", "1.23 %", "5.00 %"]
    assert costs["GCN", title] == ["1,234", "–", "–"]


def test_what_users_name_is_escaped(whole, tmp_path, monkeypatch):
    assert "<i>" not in whole[1] and "&lt;i&gt;&amp; [Mine](x)" in whole[1]
    assert whole[2].startswith("# \\<i>& \\[Mine\\](x)\n")
    odd = replace(METHODS["gcn"], title="<b>&\"GCN'|*", note="<script>x</script>")
    monkeypatch.setitem(METHODS, "gcn", odd)
    html, markdown, _ = made(save_table(tmp_path / "a", seeds=(0,)))
    assert "<script" not in html and "&lt;script&gt;" in html
    assert any(line[0] == "<b>&\"GCN'|*" for line in Reader(html).lines)
    assert "\\|\\*" in markdown and "\\<script>" in markdown


def test_each_folder_is_a_table_and_single_runs_make_one(tmp_path):
    first = save_table(tmp_path / "a")
    second = save_table(tmp_path / "b", recipe={"learning_rate": 0.003})
    single = [first / f"cells/{row}/ve/seed0" for row in ("gcn", "pgnn")]
    (first / "cells/gcn/vqa/seed1/scores.json").unlink()
    html, _, tables = made(first, second, *single)
    assert [table.title for table in tables] == [str(first), str(second), "Single runs"]
    assert [len(table.rows) for table in tables] == [2, 2, 2]
    assert "17 finished runs in 3 tables, 1 unfinished left out." in html


def test_runs_that_cannot_be_compared_are_shown_without(tmp_path):
    folder = save_table(tmp_path / "a")
    file = folder / "cells/pgnn/ve/seed0/config.json"
    config = json.loads(file.read_text())
    config["settings"]["weights"] = "others"
    file.write_text(json.dumps(config))
    html, markdown, (table,) = made(folder)
    assert table.comparisons == ()
    assert "Nothing is compared: " in html and "started from different weights" in markdown


def test_unequal_budgets_are_said(tmp_path):
    folder = save_table(tmp_path / "a")
    save_table(tmp_path / "b", rows=("appnp",), recipe={"steps": 80})
    (tmp_path / "b/cells/appnp").rename(folder / "cells/appnp")
    html, _, (table,) = made(folder)
    assert any("steps 40 (GCN and pGNN); 80 (APPNP)" in note for note in table.notes)


def test_a_baseline_of_ones_own(tmp_path):
    folder = save_table(tmp_path / "a", rows=("gcn", "pgnn", "tempering"), seeds=(0,))
    _, _, (table,) = made(folder, baseline="pgnn")
    assert {line["row"] for line in table.comparisons} == {"GCN", METHODS["tempering"].title}
    assert table.baseline == "pGNN"
    with pytest.raises(UserError, match=r"--baseline pgn \(did you mean pgnn\?\)"):
        made(folder, baseline="pgn")


def test_what_holds_for_new_checkpoints_is_given_apart(tmp_path):
    folder = save_table(tmp_path / "a", seeds=range(4), tasks=("ve",))
    for file in folder.glob("cells/*/*/*/config.json"):
        config = json.loads(file.read_text())
        config["settings"]["weights"] = f"checkpoint {config['settings']['seed'] % 2}"
        file.write_text(json.dumps(config))
    for text in made(folder)[:2]:
        assert "New checkpoints: 95 % interval" in text and "with these 2 checkpoints" in text


def test_runs_of_archives_are_named_by_their_archive(tmp_path):
    write_archives(save_table(tmp_path / "a", tasks=("ve",)), tmp_path / "archives")
    place = f"{tmp_path}/archives/seed-01.tar.xz/cells/gcn/ve/seed1"
    for text in made(tmp_path / "archives")[:2]:
        assert place in text and "/attngraph-" not in text


# ---- curves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 100, 101, 250, 100_001])
def test_thinned_curves_keep_mean_and_length(n):
    values = np.random.default_rng(n).random(n)
    thin = thinned(pd.DataFrame({"a": values}, index=pd.Index(np.arange(1.0, n + 1), name="step")), 100)
    assert len(thin) <= 100
    length = -(-n // 100)
    sizes = np.full(len(thin), length)
    sizes[-1] = n - length * (len(thin) - 1)
    assert np.average(thin["a"], weights=sizes) == pytest.approx(values.mean())
    assert np.average(thin.index, weights=sizes) == pytest.approx((n + 1) / 2)


def panels(folder, task="ve"):
    with saved_runs(folder) as runs:
        rows = {}
        for run in (run for run in runs if run.task == task):
            rows.setdefault(run.method.title, []).append(run)
        return curves_of(rows, TASKS[task])


def test_curves_of_a_table(tmp_path):
    folder = save_table(tmp_path)
    made_of = panels(folder)
    assert list(made_of) == ["training loss", "learning rate", "VE acc, validation (× 100)"]
    loss, rate, validation = made_of.values()
    assert loss["GCN"].values.shape == (2, STEPS)
    np.testing.assert_allclose(loss["pGNN"].values[1] - loss["GCN"].values[0], 2.0)
    np.testing.assert_allclose(rate["GCN"].values[0, 0], 1e-3)
    np.testing.assert_allclose(validation["GCN"].values, [[25, 50], [25, 50]])
    figure = draw_curves(made_of)
    text = svg(figure, "mine")
    assert text.startswith("<svg") and "currentColor" in text and "http" not in text
    assert "training loss" in text and "GCN" in text and text == svg(figure, "mine")
    assert png(figure).startswith(b"\x89PNG")
    file = folder / "cells" / "gcn" / "ve" / "seed1" / "metrics.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:11]))
    assert panels(folder)["training loss"]["GCN"].values.shape == (2, 10), "a seed that stopped earlier"
    for file in folder.glob("cells/*/*/*/*.csv"):
        file.unlink()
    assert panels(folder) == {}


@pytest.mark.parametrize("text", ["", "step,loss\n", "step,loss\n1,x\n", "loss\n1\n", "step,loss\n,1\n", '"'])
def test_damaged_curves_are_named(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match="metrics.csv is damaged"):
        read_steps(tmp_path / "metrics.csv")
