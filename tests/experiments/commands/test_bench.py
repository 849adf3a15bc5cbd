"""The benchmark command at tiny sizes, and peers that compute what they should."""

import json

import pytest
import torch

from adapters import PGNN
from attngraph import AttentionScores
from experiments.cli import main
from experiments.commands import bench
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


def test_pooling_to_every_token_is_no_pooling(inputs):
    torch.testing.assert_close(
        runs.pooled_square(*inputs, 1.5, 0.4, tokens=6), runs.square(*inputs, 1.5, 0.4)
    )
    assert not torch.allclose(
        runs.pooled_square(*inputs, 1.5, 0.4, tokens=3), runs.square(*inputs, 1.5, 0.4), rtol=1e-3
    )


def test_attention_is_pytorchs(inputs):
    query, key, value, _ = inputs
    torch.testing.assert_close(
        runs.plain_attention(query, key, value),
        torch.nn.functional.scaled_dot_product_attention(query, key, value),
    )


class Clock:
    """Time that passes only while something runs."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(study.time, "perf_counter", lambda: self.now)

    def takes(self, seconds: float):
        def run():
            self.now += seconds

        return run


def test_ratios_are_taken_between_neighbours(monkeypatch):
    clock = Clock(monkeypatch)

    def broken():
        return 1 / 0

    times, failed = study.compare(
        {"base": clock.takes(1), "other": clock.takes(3), "broken": broken}, "base", 2
    )
    assert times == {"base": (1, 1.0, 2), "other": (3, 3.0, 2)} and "ZeroDivisionError" in failed["broken"]
    with pytest.raises(ZeroDivisionError):
        study.compare({"base": broken}, "base", 1)


def test_long_runs_are_repeated_less_often(monkeypatch):
    times, _ = study.compare({"base": Clock(monkeypatch).takes(8)}, "base", 15)
    assert times["base"].repeats == 8


@pytest.mark.slow  # a process for each run
def test_memory_is_that_of_the_run():
    small, large = (study.extra_memory(fill, "fill", {"megabytes": mb}, {"megabytes": 1}) for mb in (20, 60))
    assert 15 < small < 30 and 55 < large < 70


def fill(options):
    return {options["name"]: lambda: torch.ones(options["megabytes"] * 2**18)}


def test_every_target_names_a_run():
    for benchmark in study.BENCHMARKS.values():
        names = set(benchmark.runs(benchmark.quick | {"seed": 0}))
        assert {benchmark.baseline, *benchmark.targets, *benchmark.memory} <= names


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "extra_memory", lambda *args: 3.0)
    assert main(["bench", "--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["benchmarks"]
    assert list(results) == list(study.BENCHMARKS)
    for result in results.values():
        assert result["runs"][result["baseline"]]["ratio"] == 1
        assert all("seconds" in run for run in result["runs"].values()), result
    assert results["step"]["runs"][runs.OURS]["target"] == 2.2
    errors = [run["error"] for run in results["sparse"]["runs"].values()]
    assert errors[0] == 0 and errors[1:] == sorted(errors[1:], reverse=True)
    shown, written = capsys.readouterr().out, (tmp_path / "bench.md").read_text()
    assert "p-adapters" in shown and "p-adapters" in written


@pytest.fixture
def counted(monkeypatch):
    """Benchmarks that only count how often they ran."""
    ran = []

    def run(benchmark, repeats, quick):
        ran.append(benchmark.title)
        number = {"seconds": float(len(ran)), "ratio": 1.0, "repeats": repeats}
        return {
            "title": benchmark.title,
            "baseline": "base",
            "options": {},
            "memory_target": None,
            "runs": {"base": number},
        }

    monkeypatch.setattr(bench, "run_benchmark", run)
    return ran


def seconds(out) -> dict[str, float]:
    results = json.loads((out / "results.json").read_text())["benchmarks"]
    return {name: result["runs"]["base"]["seconds"] for name, result in results.items()}


def test_some_benchmarks_leave_the_results_of_the_others(tmp_path, counted):
    words = ["bench", "--quick", "--out", str(tmp_path), "--only"]
    assert main([*words, "training", "step"]) == 0
    assert list(seconds(tmp_path)) == ["step", "training"]
    assert main([*words, "peers", "step"]) == 0
    assert seconds(tmp_path) == {"step": 4, "peers": 3, "training": 1}
    assert all(
        study.BENCHMARKS[name].title[1:] in (tmp_path / "bench.md").read_text() for name in seconds(tmp_path)
    )


def test_what_is_refused(tmp_path, counted, capsys):
    """Results of other settings, damaged ones, somebody else's files, numbers out of range."""
    out = tmp_path / "out"
    words = ["bench", "--quick", "--only", "step", "--out", str(out)]
    assert main(words) == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    assert main(["bench", "--only", "step", "--out", str(out)]) == 2
    assert "other repeats" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in out.iterdir()} == before
    (out / "results.json").write_text("[]")
    assert main(words) == 2
    assert f"{out}/results.json cannot be read" in capsys.readouterr().err
    mine = tmp_path / "mine" / "bench.md"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert main([*words[:-1], str(mine.parent)]) == 2
    assert "bench.md is there already" in capsys.readouterr().err
    assert mine.read_text() == "mine" and len(counted) == 1
