"""Renderings of one made-up table, as a whole: the expected texts are in ``expected``."""

from pathlib import Path

import pandas as pd
import pytest

from attngraph.experiments.tables.figure import draw_differences, draw_table
from attngraph.experiments.tables.frame import Row, Summary
from attngraph.experiments.tables.grid import load_table
from attngraph.experiments.tables.make import save_table
from attngraph.experiments.tables.render import escape, latex, markdown_grid, number, render_text, scope
from attngraph.experiments.tables.table import Table, make_table
from attngraph.experiments.tasks import TASKS
from tests.experiments.tables.made import COLUMNS, runs_on, table

EXPECTED = Path(__file__).with_name("expected")
PUBLISHED = {"Published elsewhere": {"GCN": {"vqa.accuracy": "69.53", "caption.cider": "128.8"}}}


def odd_table() -> Table:
    """With every mark, missing scores, published numbers, several groups, and names that need escaping."""
    odd = Row("50% & a|b*_1_ <b> μ", "Other {x}", {"vqa.accuracy": Summary(-1e-17, 0.002, 2)}, note="a # b.")
    made = table()
    rows = [*made.rows, odd]
    return Table("A table, $x_1$", rows, COLUMNS, comparisons=made.comparisons, published=PUBLISHED)


def test_a_table_is_rendered_as_expected(tmp_path):
    paths = save_table(odd_table(), tmp_path)
    assert set(paths) == {"csv", "md", "png", "svg", "pdf", "caption.txt", "tex", "txt"}
    for suffix in ("csv", "md", "tex", "txt"):
        assert paths[suffix].read_text("utf-8") == (EXPECTED / f"table.{suffix}").read_text("utf-8"), suffix


def test_text_with_a_width_wraps_columns():
    text = render_text(table(published=PUBLISHED), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text == (EXPECTED / "narrow.txt").read_text("utf-8")


def test_one_seed_has_no_spread_and_nothing_is_marked(tmp_path):
    text = render_text(table(seeds=1, comparisons=()))
    assert "±" not in text and "one seed" in text and "†" not in text
    paths = save_table(Table("nothing yet", [], COLUMNS), tmp_path)
    assert "png" not in paths and all(path.stat().st_size > 0 for path in paths.values())


def test_words_are_escaped():
    assert escape("a_b `c` [l](u) <b> p < 0.05 _d_\n\\|*") == (
        r"a_b \`c\` \[l\](u) \<b> p < 0.05 \_d\_ \\\|\*"
    )
    assert markdown_grid(pd.DataFrame({"A|": ["x"], "B": [1]}), "T*") == (
        "**T\\***\n\n| A\\| | B |\n| :--- | ---: |\n| x | 1 |\n"
    )
    assert latex(r"50% ~ ^ # $ \ {α} <") == (
        r"50\% \textasciitilde{} \textasciicircum{} \# \$ \textbackslash{} \{$\alpha$\} \textless{}"
    )
    assert latex("-1.0 ± 0.2, p-adapter, 1-7, 1–7, −2") == (r"$-$1.0 $\pm$ 0.2, p-adapter, 1-7, 1--7, $-$2")


def test_a_score_that_rounding_leaves_below_0_is_0():
    assert number(Summary(-1e-17, 0.002, 7)) == "0.0 ± 0.2" and number(Summary(-0.06, None, 1)) == "-6.0"


SEEDS = "p-values are for new seeds and images with"
OWN = "p-values are for new seeds, images and checkpoints: each seed has its own checkpoint."
APART = "Results for new checkpoints are given separately."


@pytest.mark.parametrize(
    ("counts", "sentence"),  # (seeds, checkpoints) of each comparison
    [
        ([(1, 1)], "p-values are for new images with these training runs only: one seed, one checkpoint."),
        ([(5, 1), (1, 1)], f"{SEEDS} this checkpoint; those of one seed for new images only."),
        ([(21, 7), (7, 7)], f"{SEEDS} these 7 checkpoints. {APART}"),
        ([(7, 7), (3, 3)], OWN),
    ],
)
def test_what_p_values_speak_for(counts, sentence):
    said = scope([{"seeds": seeds, "checkpoints": checkpoints} for seeds, checkpoints in counts])
    assert said == sentence


def test_the_figure_shows_each_difference_with_its_interval(tmp_path):
    tasks = {name: TASKS[name] for name in ("vqa", "caption")}
    runs = runs_on(tmp_path, tasks, rows=("gcn", "appnp", "pgnn"), seeds=range(4), checkpoints=2)
    whole = make_table(runs, tasks, "t")
    figure = draw_differences(whole.comparisons, whole.headings)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == list(whole.headings.values())
    for line in whole.comparisons:
        axes = panels[whole.headings[line["column"]]]
        pairs = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        place = pairs.index(f"{line['row']} − {line['baseline']}")
        (container,) = [one for one in axes.containers if one[0].get_ydata()[0] == place]
        (bar,) = container[2][0].get_segments()
        assert bar[:, 0] == pytest.approx([100 * line["low"], 100 * line["high"]])
        thin = [one.get_segments()[0] for one in axes.collections]
        assert [[100 * line["new_low"], place], [100 * line["new_high"], place]] in [
            pytest.approx(one) for one in thin
        ]
        assert (container[0].get_markerfacecolor() != "white") == (line["p_holm"] < 0.05)


def test_the_figure_of_widths_shows_differences_over_the_width(tmp_path):
    """Also the published ones, whose rows are in the same order; the baseline is at 0."""
    tasks, grid = {"vqa2": TASKS["vqa2"]}, load_table("width", "scenes")
    whole = make_table(runs_on(tmp_path, tasks, rows=tuple(grid.blocks), seeds=range(3)), tasks, "t", grid)
    figure, _ = draw_table(whole)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    compared = {line["row"]: 100 * line["difference"] for line in whole.comparisons} | {"GCN, width 1/8": 0}
    assert axes.get_xscale() == "log" and len(compared) == 8
    for block, title, printed in (
        ("Adapter", "GCN", (66.94, 67.78, 69.00, 69.53)),
        ("p-Adapter", "pGNN", (69.69, 69.89, 70.10, 70.39)),
    ):
        widths = [64, 32, 16, 8]
        assert lines[block].get_xdata().tolist() == [1 / width for width in widths]
        assert lines[block].get_ydata().tolist() == [
            compared[f"{title}, width 1/{width}"] for width in widths
        ]
        assert lines[f"{block}, published"].get_ydata() == pytest.approx([one - 69.53 for one in printed])
