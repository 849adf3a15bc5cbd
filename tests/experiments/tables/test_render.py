"""Renderings of one made-up table, as a whole: the expected texts are in ``expected``."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.tables.figure import draw_differences
from experiments.tables.frame import Row, Summary, listed
from experiments.tables.make import save_table
from experiments.tables.render import escape, latex, markdown_grid, render_text, scope
from experiments.tables.table import REFERENCE, Table, make_table, number
from tests.experiments.drawn import DRAWN
from tests.experiments.tables.made import COLUMNS, runs_on, table

EXPECTED = Path(__file__).with_name("expected")


def odd_table() -> Table:
    """With every mark, missing scores, published numbers, several groups, and names that need escaping."""
    odd = Row("50% & a|b*_1_ <b> μ", "Other {x}", {"vqa.accuracy": Summary(-1e-17, 0.002, 2)}, note="a # b.")
    made = table()
    rows = [*made.rows, odd]
    return Table("A table, $x_1$", rows, COLUMNS, comparisons=made.comparisons, published=made.published)


def test_a_table_is_rendered_as_expected(tmp_path):
    paths = save_table(odd_table(), tmp_path)
    assert set(paths) == {"csv", "md", "png", "tex", "txt"}
    for suffix in ("csv", "md", "tex", "txt"):
        assert paths[suffix].read_text("utf-8") == (EXPECTED / f"table.{suffix}").read_text("utf-8"), suffix


def test_text_with_a_width_wraps_columns():
    text = render_text(table(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text == (EXPECTED / "narrow.txt").read_text("utf-8")
    assert render_text(table(), width=400) == render_text(table())


def test_one_seed_has_no_spread():
    text = render_text(table(seeds=1, comparisons=()))
    assert "±" not in text and "one seed" in text and "†" not in text


def test_words_are_escaped():
    assert escape("a_b `c` [l](u) <b> p < 0.05 _d_\n\\|*") == (
        r"a_b \`c\` \[l\](u) \<b> p < 0.05 \_d\_ \\\|\*"
    )
    assert markdown_grid(pd.DataFrame({"A|": ["x"], "B": [1]}), "T*") == (
        "**T\\***\n\n| A\\| | B |\n| :--- | ---: |\n| x | 1 |\n"
    )
    assert latex(r"50% ~ ^ # $ \ {α} ≥") == (
        r"50\% \textasciitilde{} \textasciicircum{} \# \$ \textbackslash{} \{$\alpha$\} $\geq$"
    )


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], ""),
        (["GCN"], "GCN"),
        (["GCN", "APPNP", "pGNN"], "GCN, APPNP and pGNN"),
        (["pGNN, gated", "GCN"], "pGNN, gated; and GCN"),
        (["VQA (Scenes, VQA v2 format)", "easy-VQA"], "VQA (Scenes, VQA v2 format) and easy-VQA"),
        (["p = 1.25, fixed", "p = 1.5, fixed", "GCN"], "p = 1.25, fixed; p = 1.5, fixed; and GCN"),
    ],
)
def test_names_in_a_sentence_can_be_told_apart(names, sentence):
    assert listed(names) == sentence


SEEDS = "p values speak for new seeds and images with"
APART = "What holds for new checkpoints too is given apart."
SAME = "Where each seed has a checkpoint of its own, it is the same."
OWN = "Each seed has a checkpoint of its own, so what is given for new checkpoints is the same."


@pytest.mark.parametrize(
    ("counts", "sentence"),  # (seeds, checkpoints) of each comparison
    [
        ([(1, 1)], "p values speak for new images with these very training runs: one seed, one checkpoint."),
        ([(5, 1)], f"{SEEDS} this checkpoint."),
        ([(5, 1), (1, 1)], f"{SEEDS} this checkpoint; those of one seed for new images only."),
        ([(21, 7)], f"{SEEDS} these 7 checkpoints. {APART}"),
        ([(21, 7), (7, 7)], f"{SEEDS} these 7 checkpoints. {APART} {SAME}"),
        ([(7, 7), (3, 3)], f"p values speak for new seeds, images and checkpoints. {OWN}"),
    ],
)
def test_what_p_values_speak_for(counts, sentence):
    assert scope([{"seeds": seeds, "checkpoints": checkpoints} for seeds, checkpoints in counts]) == sentence


def test_a_score_that_rounding_leaves_below_0_is_0():
    assert number(Summary(-1e-17, 0.002, 7)) == "0.0 ± 0.2" and number(Summary(-0.06, None, 1)) == "-6.0"


@pytest.mark.parametrize("rows", [[], [Row("Frozen", REFERENCE, {})]])
def test_empty_tables_render(tmp_path, rows):
    paths = save_table(Table("nothing yet", rows, COLUMNS), tmp_path)
    assert "png" not in paths, "nothing is compared"
    assert all(path.stat().st_size > 0 for path in paths.values())


def test_the_figure_shows_each_difference_with_its_interval(tmp_path):
    tasks = {name: DRAWN[name] for name in ("vqa", "caption")}
    whole = make_table(runs_on(tmp_path, tasks, rows=("gcn", "appnp", "pgnn")), tasks, "t")
    figure = draw_differences(whole)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == list(whole.headings.values())
    for line in whole.comparisons:
        axes = panels[whole.headings[line["column"]]]
        place = [label.get_text() for label in figure.axes[0].get_yticklabels()].index(line["row"])
        bars = [bar for container in axes.containers for bar in container[2][0].get_segments()]
        ends = [100 * line["low"], 100 * line["high"]]
        assert any(bar[:, 0] == pytest.approx(ends) and set(bar[:, 1]) == {place} for bar in bars)
