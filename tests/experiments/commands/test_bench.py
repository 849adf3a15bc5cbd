"""The benchmark command at tiny sizes, and peers that compute what they should."""

import json

import pytest
import torch

from adapters import PGNN
from attngraph import AttentionScores
from experiments.cli import main
from experiments.studies import bench as study
from experiments.studies import bench_runs as runs


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, k, 4, generator=draw, dtype=torch.float64) for k in (3, 6, 6))
    factor = torch.randn(2, 4, 4, generator=draw, dtype=torch.float64)
    return query, key, value, factor


@pytest.mark.parametrize("peer", [runs.per_edge, runs.square])
def test_peers_compute_the_same_step(peer, inputs):
    query, key, value, factor = inputs
    scores = AttentionScores(query, key, value, metric=factor @ factor.transpose(-1, -2))
    want = PGNN(p=1.5, mu=0.3, learn_p=False)(scores.graph())
    torch.testing.assert_close(peer(query, key, value, factor, 1.5, 0.4), want)


def test_attention_is_pytorchs(inputs):
    torch.testing.assert_close(
        runs.plain_attention(*inputs[:3]), torch.nn.functional.scaled_dot_product_attention(*inputs[:3])
    )


def test_ratios_are_taken_between_neighbours_and_long_runs_repeated_less_often(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(study.time, "perf_counter", lambda: now[0])

    def takes(*seconds: float):
        left = [0, *seconds]  # first to warm up
        return lambda: now.__setitem__(0, now[0] + left.pop(0))

    times = study.compare({"base": takes(1, 4, 2), "other": takes(3, 4, 8)}, "base", 3)
    assert times["other"] == {"seconds": 4, "ratio": 3, "repeats": 3}
    assert study.compare({"base": takes(*[8] * 15)}, "base", 15)["base"]["repeats"] == 8


@pytest.mark.slow  # a process for each run
def test_memory_is_that_of_the_run():
    small, large = (study.extra_memory(fill, "fill", {"megabytes": mb}, {"megabytes": 1}) for mb in (20, 60))
    assert 15 < small < 30 and 55 < large < 70


def fill(megabytes):
    return {"fill": lambda: torch.ones(megabytes * 2**18)}


def test_every_target_names_a_run():
    for benchmark in study.BENCHMARKS.values():
        names = set(benchmark.runs(**benchmark.quick))
        assert {benchmark.baseline, *benchmark.targets, *benchmark.memory} <= names


def quick(out, *names) -> int:
    return main(["bench", "--quick", "--out", str(out), *(["--only", *names] if names else [])])


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "extra_memory", lambda *args: 3.0)
    assert quick(tmp_path) == 0
    results = json.loads((tmp_path / "results.json").read_text())["benchmarks"]
    assert list(results) == list(study.BENCHMARKS)
    for result in results.values():
        assert result["runs"][result["baseline"]]["ratio"] == 1
    assert results["step"]["runs"][runs.OURS]["target"] == 2.2
    assert "| p-adapters |" in (tmp_path / "bench.md").read_text()


def test_what_is_chosen_is_measured_and_other_settings_need_another_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "extra_memory", lambda *args: 3.0)
    assert quick(tmp_path, "long-4k") == 0
    (result,) = json.loads((tmp_path / "results.json").read_text())["benchmarks"].values()
    assert set(result["runs"]) == {runs.FUSED, runs.TILED}
    assert "| ours, tiled |" in capsys.readouterr().out
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert quick(tmp_path, "step") == 2
    assert "other only" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "ratio, extra, told",
    [
        (1.9, 30, ["≤ 2 met", "30 (1.50 ×, ≤ 2 met)"]),
        (2.5, 50, ["≤ 2 missed by 0.50", "50 (2.50 ×, ≤ 2 missed)"]),
    ],
)
def test_a_table_tells_which_targets_are_met(ratio, extra, told):
    base = {"seconds": 0.001, "ratio": 1.0, "extra_mb": 20}
    ours = {"seconds": 0.002, "ratio": ratio, "extra_mb": extra, "target": 2.0}
    result = {"baseline": "base", "memory_target": 2.0, "runs": {"base": base, "ours": ours}}
    first, second = study.rows(result)
    assert first == ("base", "1.0", "1.00", "", "20")
    assert list(second[3:5]) == told
