"""The benchmark command at tiny sizes, and peers that compute what they should."""

import json

import pytest
import torch

from attngraph import AttentionScores
from attngraph.adapters import PGNN
from attngraph.experiments.cli import main
from attngraph.experiments.runs.device import cpu_threads
from attngraph.experiments.studies import bench as study
from attngraph.experiments.studies import bench_runs as runs


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
    fused = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(runs.plain_attention(*inputs[:3]), fused(*inputs[:3]))


def test_keys_and_values_are_laid_out_as_a_projection_gives_them():
    """Contiguous ones spare a kernel copies that it has to make in a model."""
    (x,) = runs.projected((2, 3, 5, 4))
    assert x.shape == (2, 3, 5, 4) and x.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("name, nodes", [("step", 1), ("step-all", 3), ("self", 3)])
def test_every_way_of_a_step_gives_the_same_gradients(name, nodes, monkeypatch):
    """Eager and fused attention, and ours in each way: a forgotten mask or leaf would make one way faster."""
    grads, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: grads.append(grad(*args, **options)))
    benchmark = study.BENCHMARKS[name]
    ways = benchmark.runs(**benchmark.quick)
    for run in ways.values():
        run()
    found = dict(zip(ways, grads, strict=True))
    assert {len(x) for x in grads} == {nodes + 1}, "of nodes, and of p"
    torch.testing.assert_close(found[runs.FUSED], found[runs.ATTENTION])
    ours = runs.OURS_CAUSAL if name == "self" else runs.OURS
    torch.testing.assert_close(found[runs.DENSE], found[ours], rtol=1e-3, atol=1e-4)


def test_ratios_are_taken_between_neighbours_and_long_runs_repeated_less_often(monkeypatch):
    now = [0.0]
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(study.time, clock, lambda: now[0])

    def takes(*seconds: float):
        left = [0, *seconds]  # first to warm up
        return lambda: now.__setitem__(0, now[0] + left.pop(0))

    times = study.compare({"base": takes(1, 4, 2), "other": takes(3, 4, 8)}, "base", 3)
    assert times["other"] == {"seconds": 4, "ratio": 3, "repeats": 3}
    assert study.compare({"base": takes(*[4] * 15)}, "base", 15)["base"]["repeats"] == 8


def test_one_thread_is_timed_by_the_processor_several_by_the_clock(monkeypatch):
    """Other programs would change the one; threads that wait use the processor too."""
    monkeypatch.setattr(study.time, "perf_counter", iter(range(0, 1000, 5)).__next__)
    monkeypatch.setattr(study.time, "process_time", iter(range(0, 1000, 3)).__next__)
    for threads, seconds in ((1, 3), (2, 5)):
        with cpu_threads(threads):
            assert study.compare({"base": lambda: None}, "base", 1)["base"]["seconds"] == seconds


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
        assert {runs[result["baseline"]]["ratio"] for runs in result["threads"].values()} == {1}
    assert "| p-adapters |" in (tmp_path / "bench.md").read_text()
    assert (tmp_path / "bench.png").is_file() and (tmp_path / "bench.caption.txt").is_file()


def test_what_is_chosen_is_measured_and_other_settings_need_another_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "extra_memory", lambda *args: 3.0)
    assert quick(tmp_path, "long") == 0
    (result,) = json.loads((tmp_path / "results.json").read_text())["benchmarks"].values()
    assert set(result["threads"]["1"]) == {runs.FUSED, runs.TILED}
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
    base, ours = {"seconds": 0.001, "ratio": 1.0}, {"seconds": 0.002, "ratio": ratio}
    threads = {"1": {"base": base, "ours": ours}, "2": {"base": base, "ours": {**ours, "ratio": 9.0}}}
    memory = {"targets": {"ours": 2.0}, "memory_target": 2.0, "extra_mb": {"base": 20, "ours": extra}}
    head, first, second = study.rows({"baseline": "base", "threads": threads, **memory})
    assert head == ("", "ms", "ratio, 1 thread", "ratio, 2 threads", "target", "extra MB")
    assert first == ("base", "1.0", "1.00", "1.00", "", "20")
    assert second == ("ours", "2.0", f"{ratio:.2f}", "9.00", *told)
