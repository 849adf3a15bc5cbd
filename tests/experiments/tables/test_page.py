"""The page as one HTML file."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from attngraph.errors import UserError
from experiments.methods import METHODS
from experiments.tables.page import page_of
from experiments.tables.runs import saved_runs
from experiments.tables.table import make_table
from experiments.tasks import TASKS
from tests.experiments.tables.made import save_table, write_archives

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Reader(HTMLParser):
    """Checks that elements are closed in order; keeps cells by line, attributes."""

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

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A table of two rows with all that runs can say, and its page."""
    folder = save_table(tmp_path_factory.mktemp("page") / "a", seeds=(0, 1, 2))
    for file in folder.glob("cells/pgnn/*/*/scores.json"):
        more = {"effects": {"layer.0.attention": {"kappa": 0.5, "moved": 0.1}}}
        more |= {"parameter_shares": {"model": 0.01234, "language_side": 0.05}}
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return folder, page_of([folder])[0]


def test_the_page_is_one_well_formed_file_without_addresses(whole):
    reader = Reader(whole[1])
    assert "http" not in whole[1] and not {"script", "link"} & set(reader.tags)
    identifiers = [value for _, name, value in reader.attributes if name == "id"]
    asked = [value for _, name, value in reader.attributes if name == "href"]
    assert sorted(asked) == sorted(f"#{one}" for one in identifiers) and len(asked) == 2
    images = [value for tag, name, value in reader.attributes if (tag, name) == ("img", "src")]
    assert len(images) == 1 and all(image.startswith("data:image/png;base64,") for image in images)


def test_everything_is_on_the_page(whole):
    folder, html = whole
    with saved_runs(folder) as runs:
        table = make_table(runs, {name: TASKS[name] for name in ("vqa", "ve")}, "t")
    lines = {line[0]: line[1:] for line in reversed(Reader(html).lines) if line}
    for row in table.rows:
        shown = f"{100 * row.scores['vqa.accuracy'].mean:.1f} ±"
        assert any(cell.startswith(shown) for cell in lines[row.name])
    for heading in ("Significance", "Training", "Costs", "What adapters do", "Every seed"):
        assert f"<h3>{heading}</h3>" in html
    assert "12 finished runs in 1 table. Made by attngraph" in html
    assert "p values speak for new seeds and images with this checkpoint" in html
    assert "attngraph significance" in html and "0.0.1" in html and "κ" in html
    assert str(folder / "cells/pgnn/vqa/seed2") in html
    costs = {tuple(line[:2]): line[3:6] for line in Reader(html).lines if len(line) == 9}
    title = "Visual entailment (Scenes, SNLI-VE format)"
    assert costs["pGNN", title] == ["1,234", "1.23 %", "5.00 %"]
    assert costs["GCN", title] == ["1,234", "–", "–"]


def test_what_users_name_is_escaped(tmp_path, monkeypatch):
    odd = replace(METHODS["gcn"], title="<b>&\"GCN'|*", note="<script>x</script>")
    monkeypatch.setitem(METHODS, "gcn", odd)
    html, _ = page_of([save_table(tmp_path / "a", seeds=(0,), tasks=("ve",))])
    assert "<script" not in html and "&lt;script&gt;" in html
    assert any(line[0] == "<b>&\"GCN'|*" for line in Reader(html).lines)


def test_each_folder_is_a_table_and_single_runs_make_one(tmp_path):
    """Archives are named by their files; runs that cannot be compared are shown without."""
    first = save_table(tmp_path / "a", tasks=("ve",))
    second = save_table(tmp_path / "b", tasks=("ve",), rows=("gcn", "appnp"))
    write_archives(save_table(tmp_path / "c", tasks=("ve",)), tmp_path / "archives")
    single = [first / f"cells/{row}/ve/seed0" for row in ("gcn", "pgnn")]
    (first / "cells/pgnn/ve/seed1/scores.json").unlink()
    file = second / "cells/appnp/ve/seed0/config.json"
    config = json.loads(file.read_text())
    config["settings"]["weights"] = "others"
    file.write_text(json.dumps(config))
    html, about = page_of([first, second, *single, tmp_path / "archives"])
    assert about.startswith("13 finished runs in 4 tables, 1 unfinished left out.")
    titles = [str(first), str(second), str(tmp_path / "archives"), "Single runs"]
    assert all(f"Table {number}: {title}</h2>" in html for number, title in enumerate(titles, 1))
    assert "Nothing is compared: " in html and "started from different weights" in html
    assert f"{tmp_path}/archives/seed-01.tar.xz/cells/gcn/ve/seed1" in html and "/attngraph-" not in html


def test_a_baseline_of_ones_own(tmp_path):
    folder = save_table(tmp_path / "a", rows=("gcn", "pgnn", "tempering"), seeds=(0,), tasks=("ve",))
    html, _ = page_of([folder], "pgnn")
    assert "GCN − pGNN" in html and "Tempering alone − pGNN" in html
    with pytest.raises(UserError, match=r"--baseline pgn \(did you mean pgnn\?\)"):
        page_of([folder], "pgn")
