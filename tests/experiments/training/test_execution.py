"""The options of commands that run cells."""

import argparse
import os
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.training import execution
from experiments.training.execution import Execution, add_run_arguments, execution_of, jobs_for


def asked(*words):
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    return execution_of(parser.parse_args(words), Path("out"))


def test_how_many_cells_run_at_once(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert jobs_for("cpu", None) == 8 and jobs_for("cpu", 3) == 3 and jobs_for("cpu", None, threads=16) == 4
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert jobs_for("cpu", None) == 2 and jobs_for("mps", None) == 1 and jobs_for("cpu", None, threads=8) == 1
    monkeypatch.setattr(execution.torch.cuda, "device_count", lambda: 4)
    assert jobs_for("cuda", None) == 4 and jobs_for("cuda:1", None) == 1
    with pytest.raises(UserError, match="--jobs must be at least 1, got 0"):
        jobs_for("cpu", 0)


def test_threads_are_one_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert asked() == Execution(Path("out"), "cpu", 4) and asked().threads == 1
    assert asked("--jobs", "1").conditions() == asked().conditions() == {"threads": 1, "processes": 1}
    assert asked("--threads", "2") == Execution(Path("out"), "cpu", 2, threads=2)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--threads", "0"], "--threads must be at least 1 and at most 4, this machine's cores; got 0"),
        (["--threads", "1000000"], "--threads must be at least 1 and at most 4"),
        (["--cache-gb", "-1"], "--cache-gb must be at least 0, got -1"),
        (["--cache-gb", "nan"], "--cache-gb must be at least 0, got nan"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--device", "meta"], "--device meta is not available here .*: use cpu"),
        (["--device", "toaster"], "--device toaster is not available here .*: use cpu"),
        (["--device", "cpu:1"], "--device cpu:1: a machine has one cpu"),
    ],
)
def test_wrong_options_end_with_one_line(words, said, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with pytest.raises(UserError, match=said) as error:
        asked(*words)
    assert "\n" not in str(error.value)
