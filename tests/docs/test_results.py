"""The study's numbers in README and docs are those of its files, which follow from the raw statistics."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import cli
from tests.docs.pages import README, ROOT, shell_commands

STUDY = ROOT / "experiments" / "results" / "full"
RESULTS = ROOT / "docs" / "results.md"
PROTOCOL = ROOT / "docs" / "protocol.md"


def rows_of(page: Path, head: str) -> Iterator[list[str]]:
    """Rows of the first table of a page whose first line begins so, without that line."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith(head))
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_table_is_the_study_s():
    shown, made = (list(rows_of(page, "| Method")) for page in (RESULTS, STUDY / "ablation.md"))
    assert len(made) > 20 and shown == made


def test_the_readme_shows_rows_of_it():
    made = {
        row[0]: [cell.removesuffix(" †").replace("**", "") for cell in row]
        for row in rows_of(RESULTS, "| Method")
    }
    names = {"pGNN without distances": "Tempering alone", "pGNN with wrong distances": "Placebo distances"}
    shown = {
        names.get(row[0], row[0]): row[1:]
        for row in rows_of(README, "| | VQA acc")
        if not row[0].startswith(":")
    }
    assert {"GCN", "APPNP", "GCNII", "pGNN", *names.values()} < set(shown)
    columns = [1, 2, 3, 4, 5, 6, 8, 10]  # without Scene F1 and what follows easy-VQA
    assert shown == {name: [made[name][k] for k in columns] for name in shown}


def test_the_planned_tests_are_those_of_the_files():
    made = list(rows_of(STUDY / "comparisons" / "q1-q2.md", "| Rows"))
    columns = [0, 1, 2, 3, 4, 5, 7, 8]  # without seeds and the p for new checkpoints
    assert len(made) == 1 + 12
    assert list(rows_of(RESULTS, "| rows"))[1:] == [[row[k] for k in columns] for row in made[1:]]


def test_nothing_is_claimed_that_the_planned_tests_do_not_give():
    with (STUDY / "comparisons" / "q1-q2.csv").open(newline="") as file:
        corrected = [float(row["p_holm"]) for row in csv.DictReader(file)]
    assert min(corrected) > 0.05  # "not told apart" in every column


def test_all_runs_are_of_one_code_and_none_is_missing():
    made_with = json.loads((STUDY / "results.json").read_text())["made_with"]
    assert made_with["code"] == {"2e06e256a862": 856}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_p_values_follow_from_the_raw_statistics(tmp_path, monkeypatch):
    """The protocol's command, word for word."""
    monkeypatch.chdir(ROOT)
    (words,) = (words for words in shell_commands(PROTOCOL) if words[1] == "significance")
    assert cli.main([*words[1:], "--out", str(tmp_path), "-q"]) == 0
    recomputed, shipped = (
        list(csv.DictReader((folder / name).open(newline="")))
        for folder, name in ((tmp_path, "significance.csv"), (STUDY / "comparisons", "q1-q2.csv"))
    )
    assert len(shipped) == 12
    for ours, theirs in zip(recomputed, shipped, strict=True):
        assert (ours["row"], ours["baseline"], ours["column"]) == (
            theirs["row"],
            theirs["baseline"],
            theirs["column"],
        )
        for number in ("difference", "low", "high", "p", "p_holm", "new_p"):
            assert float(ours[number]) == pytest.approx(float(theirs[number]), rel=1e-6, abs=1e-9)
