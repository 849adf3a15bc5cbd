"""The study's tables and verdicts in README and docs are those of its files, which follow from raw data."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attngraph.experiments import cli
from attngraph.experiments.models import load_family
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.tables.compare import holm, p_text
from attngraph.experiments.tables.frame import table_columns
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tables.runs import unpack
from docs.examples import post_hoc
from tests.docs.pages import README, ROOT, mentioned_commands, shell_commands
from tests.experiments.drawn import DRAWN

STUDY = ROOT / "experiments" / "results" / "full"
FINDINGS = ROOT / "docs" / "findings.md"
IN_FULL = STUDY / "README.md"
PROTOCOL = [STUDY / "protocol.md", STUDY / "deviations.md"]
COMPARISONS = STUDY / "comparisons"

HEADINGS = {column.key: column.heading for column in table_columns(DRAWN)}


def table_of(page: Path, head: str) -> list[list[str]]:
    """The cells of a page's first table whose first line begins so, without the line of dashes."""
    lines = [*page.read_text(encoding="utf-8").splitlines(), ""]
    first = next(k for k, line in enumerate(lines) if line.startswith(head))
    last = next(k for k in range(first, len(lines)) if not lines[k].startswith("|"))
    shown = [line for line in lines[first:last] if not re.match(r"\| ?:", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in shown]


def comparisons(name: str, folder: Path = COMPARISONS) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read(cell: str) -> object:
    """A cell's number or numbers, or its text."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def q1() -> list[dict[str, str]]:
    return [row for row in comparisons("q1-q2") if row["baseline"] == "GCN"]


def test_the_table_is_the_one_that_the_command_wrote():
    shown, made = (table_of(page, "| Method") for page in (IN_FULL, STUDY / "ablation.md"))
    assert len(made) > 20 and shown == made


def test_the_planned_tests_are_those_of_the_files():
    (_, *shown), (_, *made) = table_of(IN_FULL, "| rows"), table_of(COMPARISONS / "q1-q2.md", "| Rows")
    columns = [0, 1, 2, 3, 4, 5, 7, 8]  # without seeds and the p for new checkpoints
    assert len(made) == 12
    assert shown == [[row[k] for k in columns] for row in made]
    for cells, numbers in zip(shown, comparisons("q1-q2"), strict=True):
        points = [100 * float(numbers[key]) for key in ("difference", "low", "high", "new_low", "new_high")]
        assert cells[0] == f"{numbers['row']} − {numbers['baseline']}"
        assert cells[1] == HEADINGS[numbers["column"]]
        assert cells[2:4] == [f"{points[0]:+.2f}", f"{points[1]:+.2f} to {points[2]:+.2f}"]
        assert cells[4:6] == [f"{float(numbers['p']):.4f}", f"{float(numbers['p_holm']):.3f}"]
        assert cells[6].split() == [f"{100 * one:+.2f}" for one in json.loads(numbers["by_checkpoint"])]
        assert cells[7] == f"{points[3]:+.2f} to {points[4]:+.2f}"


def test_the_verdict_is_the_protocol_s():
    """Better and worse need a corrected p below 0.05; general, an interval for new checkpoints without 0."""
    significant = [row for row in comparisons("q1-q2") if float(row["p_holm"]) < 0.05]
    general = [row for row in q1() if not float(row["new_low"]) <= 0 <= float(row["new_high"])]
    page = " ".join(IN_FULL.read_text(encoding="utf-8").split())
    verdict = "**Q1, is pGNN better than GCN?** *No significant difference*, in every column."
    assert (verdict in page) == (not significant)
    assert ("No difference can be called general" in page) == (not general)
    for shown in (FINDINGS.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")):
        assert ("**No planned test is significant.**" in shown) == (not significant)


def test_the_findings_are_those_of_the_study_in_full():
    """Every line of their two tables is one of the tables in full, in its columns."""
    (_, *shown), (_, *made) = table_of(FINDINGS, "| pGNN − GCN"), table_of(IN_FULL, "| rows")
    assert [["pGNN − GCN", *cells] for cells in shown] == [[*row[:6], row[7]] for row in made[:4]]
    (_, *shown), (_, *made) = table_of(FINDINGS, "| post hoc"), table_of(IN_FULL, "| rows | four columns")
    in_full = {row[0]: [row[1], row[2], row[6]] for row in made}
    assert len(shown) == 5 and all(in_full[name] == cells for name, *cells in shown)


def test_the_study_gives_the_planned_p_values():
    """Corrected over the planned twelve and over Q1's own four."""
    rows = {row["column"]: (float(row["p"]), float(row["p_holm"])) for row in q1()}
    own = dict(zip(rows, holm([p for p, _ in rows.values()]), strict=True))
    vqa, cider = (f"{task}.{metric}" for task, metric in (("vqa", "accuracy"), ("caption", "cider")))
    assert f"{own[vqa]:.3f}" == f"{own[cider]:.3f}"
    sentence = (
        f"the corrected p-values are {rows[vqa][1]:.2f} and {rows[cider][1]:.2f}. "
        f"Holm's correction over Q1's own four tests gives {own[vqa]:.3f} for both"
    )
    assert sentence in " ".join(IN_FULL.read_text(encoding="utf-8").split())


DISTANCES = ROOT / "experiments" / "results" / "distances"
SCENE_AND_VQA = ("caption.scene", "vqa.accuracy")


def in_points(line: dict[str, str], kind: str = "") -> str:
    """A difference with its interval, as the pages print them."""
    difference, low, high = (100 * float(line[x]) for x in ("difference", f"{kind}low", f"{kind}high"))
    return f"{difference:+.2f} ({low:.2f} to {high:.2f})".replace("-", "−")


def test_the_study_of_distances_gives_the_numbers_of_its_files():
    """In its own page, in the findings and in the README: differences, intervals, p-values and answers."""
    lines = {(x["question"], x["column"]): x for x in comparisons("comparisons", DISTANCES) if not x["at"]}
    (_, *shown), (_, *found) = table_of(DISTANCES / "README.md", "| |"), table_of(FINDINGS, "| | captions")
    assert len(shown) == len(found) == 4
    for (name, _, *cells), (_, *summary) in zip(shown, found, strict=True):
        for cell, short, column in zip(cells, summary, SCENE_AND_VQA, strict=True):
            line = lines[name, column]
            number, text = in_points(line), cell.replace("**", "")
            p, answer = p_text(float(line["test_p_holm"]), 4 if "<" in cell else 3), line["answer"]
            if answer.startswith("none"):
                assert text == f"{number}: no answer"
            elif name == "H0":
                assert text == f"{number}, p {p}: {'holds' if answer == 'above 0' else 'fails'}"
            else:
                assert text == f"{number}, p {p}: {answer}"
            assert short.replace("**", "") == number
    oracle = in_points(lines["H0", "vqa.accuracy"]).removeprefix("+").replace(" (", " points (", 1)
    assert f"improve VQA by {oracle}" in " ".join(README.read_text(encoding="utf-8").split())


@pytest.mark.slow
def test_the_report_follows_from_the_raw_statistics(tmp_path):
    """The README's command, with copies of the files of the search, next to which it writes. In a process of
    its own, since the study changes tasks and methods."""
    for name in ("search.csv", "settings.yaml"):
        shutil.copy(DISTANCES / name, tmp_path)
    closed_form = DISTANCES.parent / "heterophily" / "closed-form.md"
    options = ["--rates", tmp_path, "--other", DISTANCES / "other", "--closed-form", closed_form]
    command = [sys.executable, "-m", "attngraph.experiments.studies.distances_report", DISTANCES, *options]
    subprocess.run([*command, "--out", tmp_path / "report"], check=True, cwd=ROOT, capture_output=True)
    made = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert made == (DISTANCES / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "folder, head, count",
    [("post-hoc", "| | VQA accuracy", 10), ("post-hoc/oracle", "| | accuracy on VQA", 6)],
)
def test_the_post_hoc_comparisons_of_distances_are_those_of_their_file(folder, head, count):
    lines = comparisons("significance", DISTANCES / folder)
    made = {(f"{x['row']} − {x['baseline']}", x["column"]): x for x in lines}
    _, *shown = table_of(DISTANCES / "README.md", head)
    assert 2 * len(shown) == len(made) == count
    for pair, *cells in shown:
        names = [name.removesuffix(" (R = 1)") for name in pair.split(" − ")]
        pair = " − ".join(name if name == "p = 2" else name[0].upper() + name[1:] for name in names)
        for cell, column in zip(cells, SCENE_AND_VQA[::-1], strict=True):
            line = made[pair, column]
            assert cell == f"{in_points(line, 'new_')}, p {p_text(float(line['new_p_holm']), 3)}"


def test_the_post_hoc_summary_is_that_of_its_file():
    _, *shown = table_of(IN_FULL, "| rows | four columns")
    lines = comparisons("post-hoc", STUDY)
    assert [line["column"] for line in lines] == ["summary", "way"] * len(shown)

    def numbers(line, scale):
        points = [scale * float(line[key]) for key in ("difference", "low", "high")]
        return [f"{points[0]:+.2f}", f"{points[1]:+.2f} to {points[2]:+.2f}"]

    def p_value(text):
        return "< 0.0001" if float(text) < 5e-5 else f"{float(text):.4f}"

    for cells, summary, way in zip(shown, lines[::2], lines[1::2], strict=True):
        parts = json.loads(summary["by_checkpoint"])
        above = f"{sum(one > 0 for one in parts)} of {len(parts)}"
        p_values = [p_value(summary[key]) for key in ("p", "new_p", "flips_seeds")]
        assert cells == [
            f"{summary['row']} − {summary['baseline']}",
            *numbers(summary, 1),
            *p_values,
            above,
            *numbers(way, 100),
            *(p_value(way[key]) for key in ("p", "new_p")),
        ]


def test_checkpoint_6_is_what_its_runs_started_from(tmp_path):
    """In float16, which is read as float32."""
    folder = STUDY / "checkpoint-6"
    unpack(STUDY / "seed-20.tar.xz", tmp_path)
    started = {json.loads(file.read_text())["settings"]["weights"] for file in tmp_path.rglob("config.json")}
    assert started == {weights_digest(folder)}
    model = load_family(folder).model
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }
    half = load_file(folder / "model.safetensors")
    assert {value.dtype for value in half.values()} == {torch.float16}
    name = "text_decoder.bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.state_dict()[name], half[name].float())


def test_every_run_of_the_preset_is_there_once():
    """And all are of one state of the code."""
    results = json.loads((STUDY / "results.json").read_text())
    assert results["made_with"]["code"] == {"2e06e256a862": len(results["cells"])}
    made = [(cell["row"], cell["task"], cell["seed"]) for cell in results["cells"]]
    assert len(made) == len(set(made)) == 856
    seeds = load_preset("full").counts
    shared = {"learned_p"}  # pGNN's runs under another name
    assert set(made) == {
        (row, task, seed) for row in set(seeds) - shared for task in DRAWN for seed in range(seeds[row])
    }


def commands() -> dict[str, list[str]]:
    """The arguments of the protocol's commands that compare rows, by the file that has their output."""
    files = {
        "pgnn": "q1-q2",
        "p2": "q4",
        "tempering": "controls",
        "pgnn_gated": "gated",
    }  # by their first row
    every = [words for page in PROTOCOL for words in (*shell_commands(page), *mentioned_commands(page))]
    compared = [words[1:] for words in every if words[1] == "significance" and "--rows" in words]
    return {files[words[words.index("--rows") + 1].split(",")[0]]: words for words in compared}


def test_every_comparison_that_is_shown_has_its_command():
    assert {path.stem for path in COMPARISONS.glob("*.csv")} == set(commands())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["q1-q2", "q4", "controls", "gated", "post-hoc"])
def test_p_values_follow_from_the_raw_statistics(name, tmp_path, monkeypatch):
    """The protocol's commands, word for word."""
    monkeypatch.chdir(ROOT)
    if name == "post-hoc":
        post_hoc.main(["experiments/results/full", "--out", str(tmp_path)])
        recomputed, shipped = comparisons(name, tmp_path), comparisons(name, STUDY)
    else:
        assert cli.main([*commands()[name], "--out", str(tmp_path), "-q"]) == 0
        recomputed, shipped = comparisons("significance", tmp_path), comparisons(name)
    assert len(recomputed) == len(shipped)
    for ours, theirs in zip(recomputed, shipped):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            value = read(theirs[key])
            equal = value if isinstance(value, str) else pytest.approx(value, rel=1e-6, abs=1e-9)
            assert read(ours[key]) == equal, key
