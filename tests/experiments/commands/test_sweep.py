"""``attngraph sweep`` as a user runs it, from end to end: in the folder of the tables, and before them."""

import csv
import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.methods.settings import chosen_settings
from experiments.runs.runner import run_cells
from experiments.tables.runs import saved_runs
from tests.experiments.bad_inputs.world import SIZE

TABLE = """
about: adapters
title: Adapters
rows: {Adapters: [gcn, pgnn], Ends of the scale: [frozen]}
baseline: gcn
contenders: [gcn, pgnn]
contest: adapter
tasks: [vqa2]
seeds: 1
"""
OF_PGNN = """
settings:
  methods:
    pgnn: {vqa: {learning_rate: 1.0e-3, join: gated, arguments: {p: 1.25, mu: 0.5}}}
"""
MADE = ("settings.yaml", "sweep.csv", "sweep.md")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "two.yaml").write_text(TABLE)
    (folder / "little.yaml").write_text(SIZE + OF_PGNN)
    return folder


def run(command: str, files: Path, *more) -> int:
    words = [command, files / "two.yaml", "--size", files / "little.yaml", "--out", files / "out", *more]
    return main([*map(str, words), "--quiet"])


@pytest.fixture(scope="module")
def out(files) -> Path:
    """The folder of a sweep that was stopped after its first run and called again."""

    def stopped(cells, *_, **__):
        run_cells(cells[:1], *_, **__)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.tables.tune.run_cells", stopped)
        assert run("sweep", files) == 130
    out = files / "out"
    assert not any((out / name).exists() for name in MADE)
    before = times(out / "cells")
    assert sum(path.name == "scores.json" for path in before) == 1
    assert run("sweep", files) == 0
    assert before.items() <= times(out / "cells").items(), "a finished run was written again"
    return out


def tried(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(400)
def test_each_row_has_the_best_of_its_rates_on_validation_data(out):
    chosen, lines = chosen_settings(out / "settings.yaml"), tried(out)
    for row in ("gcn", "pgnn"):
        of_row = [line for line in lines if line["method"] == row]
        assert {line["task"] for line in of_row} == {"vqa2"} and 2 <= len(of_row) <= 4
        best = max(of_row, key=lambda line: float(line["score"]))
        choice = chosen.choice(row, "vqa2")
        assert choice.learning_rate == float(best["rate"])
        of_size = ("gated", {"p": 1.25, "mu": 0.5}) if row == "pgnn" else ("blend", {})
        assert (choice.join, choice.arguments) == of_size
        assert chosen.choice(row, "vizwiz_vqa") == choice and chosen.choice(row, "coco") is None
        rates = sorted(float(line["rate"]) for line in of_row)
        assert {6e-3, 1.2e-2} <= set(rates)
    assert chosen.choice("frozen", "vqa2") is None
    runs = [json.loads(file.read_text()) for file in out.glob("cells/*/*/*/scores.json")]
    assert len(runs) == len(lines) and {run["split"] for run in runs} == {"validation"}
    shown = (out / "sweep.md").read_text()
    assert shown.count("(chosen)") == 2 and "vizwiz_vqa takes the settings of vqa2" in shown


@pytest.mark.timeout(400)
def test_a_table_takes_the_rates_and_shares_the_folder(out, files):
    before = times(out)
    assert run("table", files, "--settings", out / "settings.yaml") == 0
    chosen = chosen_settings(out / "settings.yaml")
    for row in ("gcn", "pgnn"):
        settings = json.loads((out / "cells" / row / "vqa2" / "seed0" / "config.json").read_text())[
            "settings"
        ]
        assert settings["recipe"]["learning_rate"] == chosen.choice(row, "vqa2").learning_rate
        assert settings.get("split", "test") == "test"
    results = json.loads((out / "two" / "results.json").read_text())["cells"]
    assert {cell["row"] for cell in results} == {"gcn", "pgnn", "frozen"}, "none of the sweep's"
    with saved_runs(out) as runs:
        assert {run.row for run in runs} == {"gcn", "pgnn", "frozen"}
    assert run("sweep", files) == 0
    after = times(out)
    assert all(after[path] == before[path] for path in before if "cells" in path.parts), "none is run again"


def test_what_is_refused_drops_nothing(out, files, capsys):
    """Fewer rows than an earlier sweep chose rates for, and rows that do not train."""
    before = times(out)
    for row, said in (
        ("gcn", "holds settings of pgnn on vqa2, which this sweep would drop"),
        ("frozen", "unknown row 'frozen': choose from gcn, pgnn"),
    ):
        assert run("sweep", files, "--rows", row) == 2
        assert said in capsys.readouterr().err
    assert times(out) == before
