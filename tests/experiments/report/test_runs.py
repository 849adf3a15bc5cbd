"""What runs say of how they were made."""

import json

from experiments.report.runs import differently_made, versions_of
from tests.experiments.drawn import DRAWN
from tests.experiments.report.made import runs_on


def test_runs_that_were_made_differently_are_counted(tmp_path):
    runs = runs_on(tmp_path, {"vqa": DRAWN["vqa"]}, rows=("gcn", "pgnn"), seeds=(0, 1))
    for run in runs:
        versions = {"torch": "2.13", "code": "new" if run.row == "pgnn" and run.seed else "old"}
        about = {"settings": {}, "versions": versions, "machine": "Linux x86_64"}
        (run.folder / "config.json").write_text(json.dumps(about))
    shown = [*runs, runs[0]]  # in two rows, but made once
    assert versions_of(shown) == {
        "torch": {"2.13": 4},
        "code": {"old": 3, "new": 1},
        "machine": {"Linux x86_64": 4},
    }
    assert differently_made(shown) == "Not all runs were made with the same: code old in 3, new in 1"
    assert differently_made(runs[:2]) == ""


def test_runs_of_earlier_versions_do_not_say(tmp_path):
    runs = runs_on(tmp_path, {"vqa": DRAWN["vqa"]})
    assert versions_of(runs) == {"machine": {"unknown": 4}} and differently_made(runs) == ""
