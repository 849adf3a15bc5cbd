"""What runs say of how they were made."""

import json

from experiments.report.runs import differently_made, versions_of
from tests.experiments.drawn import DRAWN
from tests.experiments.report.made import runs_on


def made(run, **about):
    (run.folder / "config.json").write_text(json.dumps({"settings": {}, **about}))


def runs(folder):
    return runs_on(folder, {"vqa": DRAWN["vqa"]}, rows=("gcn", "pgnn"), seeds=(0, 1))


def test_runs_that_were_made_differently_are_counted(tmp_path):
    some = runs(tmp_path)
    for run in some:
        code = "new" if run.row == "pgnn" and run.seed else "old"
        made(run, versions={"torch": "2.13", "code": code}, machine="Linux x86_64")
    shown = [*some, some[0]]  # in two rows, but made once
    assert versions_of(shown) == {
        "torch": {"2.13": 4},
        "code": {"old": 3, "new": 1},
        "machine": {"Linux x86_64": 4},
    }
    assert differently_made(shown) == "Not all runs were made with the same: code old in 3, new in 1"
    assert differently_made(some[:2]) == ""


def test_runs_of_earlier_versions_do_not_say(tmp_path):
    some = runs(tmp_path / "earlier")
    assert versions_of(some) == {} and differently_made(some) == ""
    some = runs(tmp_path / "mixed")
    made(some[0], versions={"code": "new"})
    assert differently_made(some) == "Not all runs were made with the same: code new in 1, unknown in 3"


def test_a_run_that_went_on_with_other_code_has_both(tmp_path):
    some = runs(tmp_path)
    for run in some:
        made(run, versions={"code": "new"})
    old = {"device": "cpu", "precision": "float32", "versions": {"code": "old"}}
    made(some[0], before=[old, {"versions": None}, old], versions={"code": "new"})
    assert versions_of(some) == {"code": {"old, then new": 1, "new": 3}}
