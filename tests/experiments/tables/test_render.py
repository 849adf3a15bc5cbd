"""Renderings of one made-up table, as a whole: the expected texts are in ``expected``."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from experiments.tables.figure import draw_figure
from experiments.tables.frame import Row, Summary, listed, rows_from_frame
from experiments.tables.make import save_table
from experiments.tables.published import number
from experiments.tables.render import Grid, escape, grid_markdown, latex, render_text, scope, write_csv
from experiments.tables.table import REFERENCE, Table
from experiments.tasks.task import Column
from tests.experiments.tables.made import COLUMNS, frame, table

EXPECTED = Path(__file__).with_name("expected")
SUFFIXES = ("csv", "md", "png", "tex", "txt")


def odd_table() -> Table:
    """With every mark, missing scores, published numbers, several groups, and names that need escaping."""
    odd = Row("50% & a|b*_1_ <b> μ", "Other {x}", {"vqa.accuracy": Summary(-1e-17, 0.002, 2)}, note="a # b.")
    made = table()
    rows = [*made.rows, odd]
    return Table("A table, $x_1$", rows, COLUMNS, comparisons=made.comparisons, published=made.published)


@pytest.mark.parametrize("suffix", ["csv", "md", "tex", "txt"])
def test_a_table_is_rendered_as_expected(suffix, tmp_path):
    paths = save_table(odd_table(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"ablation.{suffix}" for suffix in SUFFIXES]
    assert paths[suffix].read_text(encoding="utf-8") == (EXPECTED / f"table.{suffix}").read_text("utf-8")


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
    assert grid_markdown(Grid(["A|", "B"], [["x", 1]], "T*")) == (
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
    assert all(path.stat().st_size > 0 for path in paths.values())


def test_a_failure_keeps_the_old_file(tmp_path, monkeypatch):
    file = write_csv(table(), tmp_path / "t.csv")
    before = file.read_text()

    def fail(self, file, **options):
        file.write_text("half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(RuntimeError):
        write_csv(table(), file)
    assert file.read_text() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("module", ["experiments.tables.table", "experiments.tables.render"])
def test_slow_packages_wait_until_they_are_needed(module):
    """A worker that trains imports none of them for a table's sake."""
    code = f"import sys, {module}; print({{'matplotlib', 'statsmodels'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


# ---- the figure -----------------------------------------------------------------------------------------


def texts_overlap(figure):
    renderer = figure.canvas.get_renderer()
    ticks = (label for axes in figure.axes if axes.axison for label in axes.get_xticklabels())
    texts = [*figure.texts, *ticks]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text()]
    inside = figure.bbox
    outside = [
        text for text, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > inside.x1 or box.y1 > inside.y1
    ]
    return outside, [
        (one, two)
        for i, (one, a) in enumerate(boxes)
        for two, b in boxes[i + 1 :]
        if "†" not in (one, two) and a.shrunk(0.98, 0.9).overlaps(b.shrunk(0.98, 0.9))
    ]


def test_figure_has_no_text_over_text():
    scores = {"caption.cider": Summary(9.99, 0.5, 2), "vqa.accuracy": Summary(0.9, 0.1, 2)}
    strong = Row("Full fine-tuning of everything", REFERENCE, scores, 12_500_000, 7000.0, 12_345)
    rows = [*rows_from_frame(frame(3), COLUMNS), strong]
    heading = "Published numbers, another scale: somebody's model on their data; MWMW with the rows above"
    narrow = Row("One", heading, {"t.score": Summary(0.5, None, 1)}, 1234, 70.0, 800.0)
    for whole in (
        Table("GNN ablation, $x_1$", rows, COLUMNS),
        table(1),
        Table("Narrow", [narrow], [Column("t.score", "Score")]),
    ):
        assert texts_overlap(draw_figure(whole)) == ([], [])


def test_a_wide_table_stands_in_several_lines_of_panels():
    columns = [Column(f"t.{k}", f"Column {k}") for k in range(11)]
    rows = [
        Row(name, "Any", {c.key: Summary(0.5 + 0.1 * r, 0.01, 3) for c in columns}, 1234, 70.0, 800.0)
        for r, name in enumerate(("One", "Two", "Three"))
    ]
    note = "a long note, as of where a split comes from and how it was scored, " * 6
    whole = Table("Wide", rows, columns, baseline="One", contenders={"One", "Two"}, notes=[note])
    figure = draw_figure(whole)
    assert texts_overlap(figure) == ([], [])
    heights = {text.get_text(): text.get_position()[1] for text in figure.texts}
    first, second = heights["Column 0"], heights["Column 6"]
    assert {heights[f"Column {k}"] for k in range(6)} == {first}
    assert first > second
    assert {heights[name] for name in ("Column 10", "Seeds")} == {second}
    for name, count in (("Three", 2), ("60.0 ± 1.0", 11), ("1,234", 3)):
        assert [text.get_text() for text in figure.texts].count(name) == count
    bold = {text.get_text() for text in figure.texts if text.get_fontweight() == "bold"}
    assert "60.0 ± 1.0" in bold and "70.0 ± 1.0" not in bold, "the best of the contenders"
    assert figure.get_figwidth() < draw_figure(Table("Wide", rows, columns[:8])).get_figwidth() + 3
