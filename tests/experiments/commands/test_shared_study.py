"""A study that several machines share: each runs the seeds of one checkpoint, one of them makes the table."""

import json
import re
import shutil

import pytest

from experiments.cli import main
from experiments.models.blip import CHECKPOINT
from tests.experiments.commands.test_ablation import SMALL, one_line, times
from tests.experiments.drawn import DRAWN

MADE = ("ablation.txt", "results.json", "significance.json")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_table_is_made_when_all_parts_are_there(tmp_path, capsys):
    out, checkpoints, preset = tmp_path / "out", tmp_path / "checkpoints", tmp_path / "small.yaml"
    checkpoints.mkdir()
    seeds = "{gcn: 4, frozen: 2}"
    preset.write_text(f"checkpoints: 2\n{SMALL}".replace("{gcn: 1, pgnn: 1, frozen: 1, majority: 1}", seeds))

    def run(*words: str) -> int:
        given = ("--preset", preset, "--tasks", "vqa", "--checkpoints", checkpoints, "--out", out, *words)
        capsys.readouterr()
        return main(["ablation", *map(str, given)])

    def seeds_of(row: str) -> list[str]:
        return sorted(file.parent.name for file in out.glob(f"cells/{row}/vqa/*/scores.json"))

    assert run("--only-checkpoint", "1") == 2 and "seed1 is missing" in one_line(capsys)
    assert run("--only-checkpoint", "0") == 0
    said = capsys.readouterr()
    assert "3 runs from checkpoint 0 are in" in said.out and "GCN" not in said.out
    assert "seed 2: finished" in said.err and "accuracy" not in said.err, "test scores stay unseen"
    assert seeds_of("gcn") == ["seed0", "seed2"] and seeds_of("frozen") == ["seed0"]
    assert not any((out / name).exists() for name in MADE), "a part tells nothing of the whole"
    assert run() == 2 and "seed1 is missing" in one_line(capsys)

    shutil.copytree(CHECKPOINT, checkpoints / "seed1")
    assert run("--only-checkpoint", "1") == 0
    assert seeds_of("gcn") == [f"seed{seed}" for seed in range(4)]
    ran = times(out / "cells")
    assert run() == 0 and all((out / name).exists() for name in MADE)
    assert times(out / "cells") == ran
    assert run("--only-checkpoint", "0") == 0, "a part beside the table"

    shutil.rmtree(checkpoints / "seed1")
    assert run() == 0, "finished runs count without their checkpoint"
    file = out / "cells" / "gcn" / "vqa" / "seed3" / "config.json"
    content = json.loads(file.read_text())
    content["settings"]["weights"] = "of another machine"
    file.write_text(json.dumps(content))
    table = times(out)
    assert run() == 2
    assert "seed3 started from other weights than" in (said := one_line(capsys)) and "seed1: take" in said
    assert times(out).items() >= {path: time for path, time in table.items() if path.name in MADE}.items()


def test_a_dry_run_lists_the_part(tmp_path, capsys):
    words = ["--preset", "full", "--only-checkpoint", "3", "--dry-run", "--out", str(tmp_path / "out")]
    assert main(["ablation", *words]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pGNN  ")]
    assert len(lines) == 3 * len(DRAWN)
    assert {re.search(r"seed (\d+) ", line)[1] for line in lines} == {"3", "10", "17"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--only-checkpoint", "7"], "--only-checkpoint must be from 0 to 6, got 7"),
        (["--only-checkpoint", "1", "--model", "mine"], "1 changes nothing, since --model is for all seeds"),
        (["--only-checkpoint", "-1"], "--only-checkpoint must be from 0 to 6, got -1"),
    ],
)
def test_wrong_parts_are_refused(words, said, tmp_path, capsys):
    assert main(["ablation", "--preset", "full", "--out", str(tmp_path / "out"), *words]) == 2
    assert said in one_line(capsys)
    assert not (tmp_path / "out").exists()
