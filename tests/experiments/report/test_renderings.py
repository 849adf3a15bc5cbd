"""Rendering of the ablation table."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from experiments.report.ablation import save_table
from experiments.report.csv_file import write_csv
from experiments.report.figure import draw_figure, draw_png
from experiments.report.latex import render_latex
from experiments.report.markdown import kinds_markdown, render_markdown
from experiments.report.rows import rows_from_frame
from experiments.report.table import ADAPTERS, REFERENCE, Row, Summary, Table
from experiments.report.text import render_text
from experiments.report.wording import listed, number, scope
from experiments.tasks.task import Column
from tests.experiments.report.made import COLUMNS, LABEL, frame, table


def test_text():
    text = render_text(table())
    lines = {line.split("  ")[1]: line for line in text.splitlines() if line.startswith("  ")}
    assert "57.0 ± 1.0*†" in text.split("pGNN")[1]
    assert "41,665" in text and "75 s" in text and "812" in text
    assert re.search(r"Majority class +25\.0 +33\.0 +– +– +– +– +– +1 +0 +– +–", text)
    assert "±" not in lines["Majority class"]
    assert text.count("†") == 2 and LABEL in text and "130.9" in text and "80.27" in text
    assert "Majority class: the most frequent answer." in text
    assert "compared: pGNN and APPNP (each on the seeds that both rows have)." in " ".join(text.split())
    heading = next(line for line in text.splitlines() if line.startswith("Method"))
    for title, score in (("BLEU@4", "31.0 ± 0.0"), ("CIDEr", "130.0 ± 0.0")):  # aligned at the right
        appnp = next(line for line in text.splitlines() if line.startswith("  APPNP"))
        assert heading.index(title) + len(title) == appnp.index(score) + len(score)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], ""),
        (["GCN"], "GCN"),
        (["GCN", "pGNN"], "GCN and pGNN"),
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
        (
            [(21, 7), (7, 7)],
            f"{SEEDS} these 7 checkpoints. {APART} {SAME}",
        ),
        ([(7, 7), (3, 1)], f"{SEEDS} these 7 checkpoints. {APART} {SAME}"),
        ([(7, 7), (3, 3)], f"p values speak for new seeds, images and checkpoints. {OWN}"),
    ],
)
def test_what_p_values_speak_for(counts, sentence):
    assert scope([{"seeds": seeds, "checkpoints": checkpoints} for seeds, checkpoints in counts]) == sentence


def test_a_score_that_rounding_leaves_below_0_is_0():
    assert number(Summary(-1e-17, 0.002, 7)) == "0.0 ± 0.2" and number(Summary(-0.06, None, 1)) == "-6.0"


def test_text_with_a_width_wraps_columns():
    text = render_text(table(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("  GCNII") >= 3 and text.count("Method") >= 2
    assert render_text(table(), width=400) == render_text(table())


def test_one_seed_has_no_spread():
    text = render_text(table(seeds=1, comparisons=()))
    assert "±" not in text and "one seed" in text and "†" not in text


def test_markdown():
    text = render_markdown(table())
    assert "**57.0 ± 1.0** †" in text and "54.0" not in text.split("APPNP")[0]
    block = [line for line in text.splitlines() if line.startswith("|")]
    ours = block[: block.index(next(line for line in block if "69.53" in line)) - 2]
    assert len({line.count("|") for line in ours}) == 1
    assert "another scale" in text
    odd = Row("a|b*", "Other", {"vqa.accuracy": Summary(0.5, None, 1)})
    assert r"| a\|b\* | 50.0 |" in render_markdown(Table("t", [odd], COLUMNS))


def test_latex():
    text = render_latex(table())
    for part in (r"\toprule", r"\bottomrule", r"\textbf{57.0 $\pm$ 1.0}\textsuperscript{\textdagger}"):
        assert part in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and r"\multicolumn" not in line]
    assert {line.count("&") for line in rows} == {11}
    assert text.count("{") == text.count("}") and text.isascii()
    odd = render_latex(Table("50% & more_", [Row("μ ≥ 1 {x} ~ ^ # $ \\", "α_1", {})], COLUMNS))
    assert r"50\% \& more\_" in odd
    assert r"$\mu$ $\geq$ 1 \{x\} \textasciitilde{} \textasciicircum{} \# \$" in odd


def test_csv_holds_raw_numbers(tmp_path):
    read = pd.read_csv(write_csv(table(), tmp_path / "t.csv"))
    ours = read.set_index(["group", "name"]).loc[(ADAPTERS, "pGNN")]
    assert ours["vqa.accuracy_mean"] == pytest.approx(0.57) and ours["vqa.accuracy_std"] == pytest.approx(
        0.01
    )
    assert (ours["vqa.accuracy_n"], ours["vqa.accuracy_p_adjusted"], ours["parameters"]) == (3, 0.01, 41665)
    majority = read[read["name"] == "Majority class"].iloc[0]
    assert (
        np.isnan(majority["caption.cider_mean"])
        and majority["caption.cider_n"] == 0
        and np.isnan(majority["vqa.accuracy_std"])
    )
    published = read[read["group"] == LABEL].set_index("name")
    assert published.loc["pGNN", "caption.cider_mean"] == 1.309 and len(published) == 4


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


@pytest.mark.parametrize("seeds", [1, 3])
def test_figure_has_no_text_over_text(seeds):
    scores = {"caption.cider": Summary(9.99, 0.5, 2), "vqa.accuracy": Summary(0.9, 0.1, 2)}
    strong = Row("Full fine-tuning of everything", REFERENCE, scores, 12_500_000, 7000.0, 12_345)
    rows = [*rows_from_frame(frame(seeds), COLUMNS), strong]
    for whole in (Table("GNN ablation, $x_1$", rows, COLUMNS), table(seeds)):
        figure = draw_figure(whole)
        assert {"easy-VQA acc", "Avg", "pGNN"} <= {text.get_text() for text in figure.texts}
        assert texts_overlap(figure) == ([], [])


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


def test_a_narrow_table_has_room_for_its_headings():
    heading = "Published numbers, another scale: somebody's model on their data; MWMW with the rows above"
    row = Row("One", heading, {"t.score": Summary(0.5, None, 1)}, 1234, 70.0, 800.0)
    assert texts_overlap(draw_figure(Table("Narrow", [row], [Column("t.score", "Score")]))) == ([], [])


def test_figure_is_a_png(tmp_path):
    path = draw_png(table(), tmp_path / "t.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and [p.name for p in tmp_path.iterdir()] == ["t.png"]


@pytest.mark.parametrize("rows", [[], [Row("Frozen", REFERENCE, {})]])
def test_empty_tables_render(tmp_path, rows):
    paths = save_table(Table("nothing yet", rows, COLUMNS), tmp_path)
    assert all(path.stat().st_size > 0 for path in paths.values())


def test_save_table_and_a_failure_keeps_the_old_file(tmp_path, monkeypatch):
    paths = save_table(table(), tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        f"ablation.{suffix}" for suffix in ("csv", "md", "png", "tex", "txt")
    ]
    assert paths["txt"].read_text(encoding="utf-8") == render_text(table())

    def fail(self, file, **options):
        file.write_text("half")
        raise RuntimeError("disk full")

    before = paths["csv"].read_text()
    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(RuntimeError):
        write_csv(table(), paths["csv"])
    assert paths["csv"].read_text() == before and len(list((tmp_path / "new").iterdir())) == 5


@pytest.mark.slow
def test_text_output_does_not_import_matplotlib():
    code = "import sys, experiments.report.ablation; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_kinds():
    scores = {"GCN": {"count": Summary(0.5, 0.02, 5), "existence": 0.6}, "pGNN": {"count": 0.55}}
    text = kinds_markdown(scores, "VQA")
    assert "| count | 50.0 ± 2.0 | 55.0 |" in text and "| existence | 60.0 | – |" in text
    assert "**VQA**" in text
