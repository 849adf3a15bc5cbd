"""Rendering of the ablation table."""

import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from attngraph.errors import UserError
from experiments.report.tables import (
    ADAPTERS,
    PUBLISHED_LABEL,
    REFERENCE,
    Row,
    Score,
    Table,
    draw_png,
    kinds_markdown,
    render_latex,
    render_markdown,
    render_text,
    rows_from_frame,
    save_all,
    seeds_markdown,
    summarise,
    write_csv,
)


def frame(seeds=3):
    lines = []
    for k, name in enumerate(("GCN", "APPNP", "GCNII", "pGNN")):
        for seed in range(seeds):
            lines.append(
                {
                    "name": name,
                    "group": ADAPTERS,
                    "seed": seed,
                    "vqa": 0.50 + 0.02 * k + 0.01 * seed,
                    "ve": 0.6,
                    "bleu4": 0.3 + 0.01 * k,
                    "cider": 1.2 + 0.1 * k,
                    "easy_vqa": 0.7,
                    "parameters": 41664 + (k == 3),
                    "seconds": 75.0,
                    "peak_mb": 812.3,
                }
            )
    lines.append(
        {
            "name": "Majority class",
            "group": REFERENCE,
            "seed": 0,
            "vqa": 0.25,
            "ve": 0.33,
            "parameters": 0,
            "note": "the most frequent answer",
        }
    )
    return pd.DataFrame(lines)


def table(seeds=3, **options):
    options = {"p_adjusted": {("pGNN", "vqa"): 0.01, ("APPNP", "vqa"): 0.2}} | options
    return Table("GNN ablation", rows_from_frame(frame(seeds)), **options)


def test_summarise():
    assert summarise([0.5]) == Score(0.5, None, 1)
    assert summarise([0.1, 0.3]) == pytest.approx(Score(0.2, math.sqrt(0.02), 2))
    with pytest.raises(ValueError):
        summarise([])


def test_average_is_taken_per_seed_on_the_printed_scale():
    row = rows_from_frame(frame())[0]
    assert 100 * row.columns["avg"].mean == pytest.approx((51 + 60 + 30 + 120) / 4)
    assert row.columns["avg"].std == pytest.approx(0.01 / 4)
    majority = rows_from_frame(frame())[-1]
    assert set(majority.columns) == {"vqa", "ve"} and majority.parameters == 0 and majority.seconds is None


def test_text():
    text = render_text(table())
    lines = {line.split("  ")[1]: line for line in text.splitlines() if line.startswith("  ")}
    assert "57.0 ± 1.0*†" in text.split("pGNN")[1]
    assert "41,665" in text and "75 s" in text and "812" in text
    assert re.search(r"Majority class +25\.0 +33\.0 +– +– +– +– +1 +0 +– +–", text)
    assert "±" not in lines["Majority class"]
    assert text.count("†") == 2 and PUBLISHED_LABEL in text and "130.9" in text and "80.27" in text
    assert "Majority class: the most frequent answer." in text
    heading = next(line for line in text.splitlines() if line.startswith("Method"))
    for title, number in (("BLEU@4", "31.0 ± 0.0"), ("CIDEr", "130.0 ± 0.0")):  # aligned at the right
        appnp = next(line for line in text.splitlines() if line.startswith("  APPNP"))
        assert heading.index(title) + len(title) == appnp.index(number) + len(number)


def test_text_with_a_width_wraps_columns():
    text = render_text(table(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("  GCNII") >= 3 and text.count("Method") >= 2
    assert render_text(table(), width=400) == render_text(table())


def test_one_seed_has_no_spread():
    text = render_text(table(seeds=1, p_adjusted={}))
    assert "±" not in text and "one seed" in text and "†" not in text


def test_best_is_among_adapters_only_and_ties_share():
    assert table().best("vqa") == {"pGNN"}
    assert table().best("ve") == {"GCN", "APPNP", "GCNII", "pGNN"}
    assert Table("t", rows_from_frame(frame())[:1]).best("vqa") == set()
    strong = Row("Full fine-tuning", REFERENCE, {"vqa": (0.9, None, 1)})
    assert Table("t", [*rows_from_frame(frame()), strong]).best("vqa") == {"pGNN"}


def test_markdown():
    text = render_markdown(table())
    assert "**57.0 ± 1.0** †" in text and "54.0" not in text.split("APPNP")[0]
    block = [line for line in text.splitlines() if line.startswith("|")]
    ours = block[: block.index(next(line for line in block if "69.53" in line)) - 2]
    assert len({line.count("|") for line in ours}) == 1
    assert "another scale" in text
    odd = Row("a|b*", "Other", {"vqa": (0.5, None, 1)})
    assert r"| a\|b\* | 50.0 |" in render_markdown(Table("t", [odd]))


def test_latex():
    text = render_latex(table())
    for part in (r"\toprule", r"\bottomrule", r"\textbf{57.0 $\pm$ 1.0}\textsuperscript{\textdagger}"):
        assert part in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and r"\multicolumn" not in line]
    assert {line.count("&") for line in rows} == {10}
    assert text.count("{") == text.count("}") and text.isascii()
    odd = render_latex(Table("50% & more_", [Row("μ ≥ 1 {x} ~ ^ # $ \\", "α_1", {})], published={}))
    assert r"50\% \& more\_" in odd
    assert r"$\mu$ $\geq$ 1 \{x\} \textasciitilde{} \textasciicircum{} \# \$" in odd


def test_csv_holds_raw_numbers(tmp_path):
    read = pd.read_csv(write_csv(table(), tmp_path / "t.csv"))
    ours = read.set_index(["group", "name"]).loc[(ADAPTERS, "pGNN")]
    assert ours["vqa_mean"] == pytest.approx(0.57) and ours["vqa_std"] == pytest.approx(0.01)
    assert (ours["vqa_n"], ours["vqa_p_adjusted"], ours["parameters"]) == (3, 0.01, 41665)
    majority = read[read["name"] == "Majority class"].iloc[0]
    assert np.isnan(majority["cider_mean"]) and majority["cider_n"] == 0 and np.isnan(majority["vqa_std"])
    published = read[read["group"] == PUBLISHED_LABEL].set_index("name")
    assert published.loc["pGNN", "cider_mean"] == 1.309 and len(published) == 4


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
def test_figure_has_no_text_over_text(tmp_path, monkeypatch, seeds):
    from experiments.report import table_figure

    figures, real = [], table_figure.Figure
    monkeypatch.setattr(table_figure, "Figure", lambda *a, **k: figures.append(real(*a, **k)) or figures[-1])
    strong = Row(
        "Full fine-tuning of everything",
        REFERENCE,
        {"cider": (9.99, 0.5, 2), "vqa": (0.9, 0.1, 2)},
        12_500_000,
        7000.0,
        12_345,
    )
    draw_png(Table("GNN ablation, $x_1$", [*rows_from_frame(frame(seeds)), strong]), tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    assert texts_overlap(figures[0]) == ([], [])


@pytest.mark.parametrize("rows", [[], [Row("Frozen", REFERENCE, {})]])
def test_empty_tables_render(tmp_path, rows):
    paths = save_all(Table("nothing yet", rows), tmp_path)
    assert all(path.stat().st_size > 0 for path in paths.values())


def test_save_all_and_a_failure_keeps_the_old_file(tmp_path, monkeypatch):
    paths = save_all(table(), tmp_path / "new")
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


def test_kinds_and_seeds():
    scores = {"GCN": {"count": (0.5, 0.02, 5), "existence": 0.6}, "pGNN": {"count": 0.55}}
    text = kinds_markdown(scores, "VQA")
    assert "| count | 50.0 ± 2.0 | 55.0 |" in text and "| existence | 60.0 | – |" in text
    assert "**VQA**" in text
    assert "| APPNP | 1 | 53.00 |" in seeds_markdown(frame())


def test_bad_input():
    with pytest.raises(UserError, match="several rows named 'GCN'"):
        Table("t", [Row("GCN", ADAPTERS, {}), Row("GCN", REFERENCE, {})])
    with pytest.raises(UserError, match="group"):
        rows_from_frame(frame().drop(columns="group"))


def test_text_output_does_not_import_matplotlib():
    code = "import sys, experiments.report.tables; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
