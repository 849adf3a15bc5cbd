"""Twelve kills at random moments: what is done again ends like what nobody disturbed, to the bit.

A round starts a command, kills it (SIGKILL, SIGTERM or SIGHUP; alone or with its workers; at any moment, or
in the middle of a save) and goes on with what the last round left. When a command comes to its end, all that
it made is compared with an undisturbed run's, and nothing else may lie in the folder. Then the next folder
begins.
"""

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.experiments.runs.commands import Command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc"),
]
TABLE_ROUNDS = 12
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
PRESET = """
about: two cells that train and one that does not, short
seeds: {gcn: 1, pgnn: 1, frozen: 1}
runs: {recipe: {steps: 8, validate_every: 3}, train_examples: 16, eval_examples: 8}
scenes: {questions: [24, 4, 12], hypotheses: [3, 3, 3], captions: [2, 2, 2]}
"""
OFTEN = """
from attngraph.experiments.runs import train as training
training.SAVE_EVERY = 1
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """``table(out)``: the words of a small table into a folder."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "often.py").write_text(OFTEN)
    (folder / "small.yaml").write_text(PRESET)
    words = ["--plugin", folder / "often.py", "ablation", "--preset", folder / "small.yaml", "--tasks", "vqa"]
    return lambda out: [*words, "--out", out]


def files(out):
    """All files but the cached states, whose names follow from the pictures' times, and the drawn data."""
    found = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith(("image-states/", "data/"))}


def made_by_a_table(out):
    """What may not depend on kills: all but times and memory."""
    made = {}
    for folder in sorted(out.glob("cells/*/*/*")):
        scores = json.loads((folder / "scores.json").read_text())
        for name in ("train_seconds", "eval_seconds", "peak_mb"):
            assert scores.pop(name) >= 0
        assert all(value > 0 for value in scores.pop("memory_mb").values())
        with np.load(folder / "statistics.npz") as arrays:
            statistics = {key: arrays[key].tobytes() for key in arrays}
        others = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".csv")]
        contents = {path.name: path.read_bytes() for path in (folder / "predictions.json", *others)}
        made[folder.relative_to(out)] = (scores, statistics, contents)
    assert len(made) == 3 and sum(len(contents) for _, _, contents in made.values()) == 9
    states = sorted(np.load(path).tobytes() for path in out.glob("image-states/*.npy"))
    assert len(states) >= 3
    return made, files(out), states


def saving(out):
    """Whether a state is being written, or anything else."""
    parts = (out.glob(f"{below}.attngraph-*") for below in ("", "cells/*/*/*/", "cells/*/*/*/states/"))
    return any(any(found) for found in parts)


def run_rounds(rounds, words, made, folder, seed):
    """Kills the command so many times; compares whenever it comes to its end."""
    assert Command(["--version"], folder / "said").wait() == 0  # later ones find everything imported
    undisturbed = folder / "undisturbed"
    began = time.monotonic()
    whole = Command(words(undisturbed), folder / "said")
    assert whole.wait() == 0, whole.said.read_text()
    seconds, expected = time.monotonic() - began, made(undisturbed)
    draw, kills, compared, is_done = random.Random(seed), 0, 0, False
    while kills < rounds or not is_done:
        out, said = folder / f"out{compared}", folder / f"said{compared}"
        number, group, in_a_save = draw.choice(SIGNALS), draw.random() < 0.3, draw.random() < 0.5
        is_new, began = not out.exists(), time.monotonic()
        command = Command(words(out), said)
        if kills < rounds:
            command.wait(draw.uniform(0.2, 1.0) * seconds)
            if in_a_save:
                command.wait_until(lambda out=out: saving(out), seconds)
            command.kill(number, group)
        code, took = command.wait(), time.monotonic() - began
        told = f"round {kills}, {number!r}, group {group}, seed {seed}:\n{said.read_text()}"
        assert code in (0, -number, 128 + number), told
        assert command.rest() == [], told
        assert "Traceback" not in said.read_text(), told
        is_done = code == 0
        if is_done:
            if is_new:  # the first may have been slow
                seconds = min(seconds, took)
            assert made(out) == expected, told
            compared += 1
        else:
            kills += 1
    assert kills == rounds and compared


def test_a_table(table, tmp_path):
    run_rounds(TABLE_ROUNDS, table, made_by_a_table, tmp_path, seed=12)
