"""The simulated cluster: schedules against brute force and bounds, costs against a cell counted by hand."""

import itertools
import json
import math
import random
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments import cli
from experiments.commands import table
from experiments.launchers.simulation import (
    MEASURED,
    READ,
    START,
    cell_seconds,
    check_gpu_arguments,
    dealt,
    read_costs,
    simulate,
    simulation_text,
)
from experiments.scenes.write import Sizes
from experiments.tasks import TASKS
from experiments.training.cells import Cell
from experiments.training.loading import MOST
from experiments.training.plan import Plan
from experiments.training.recipe import Recipe

SPEED = 1e12


def about(train, answer, flops=2e9):
    return {
        "train": {
            "cpu_seconds_per_example": train,
            "seconds_per_example": 3 * train,
            "flops_per_example": flops,
        },
        "answer": {
            "cpu_seconds_per_example": answer,
            "seconds_per_example": 3 * answer,
            "flops_per_example": flops,
        },
    }


def content(**more):
    methods = {
        "full": {"tasks": {"vqa": about(3.0, 0.5), "caption": about(4.0, 2.0)}},
        "gcn": {"tasks": {"vqa": about(1.0, 0.5), "caption": about(2.0, 2.0)}},
        "pgnn": {"tasks": {"vqa": about(1.5, 0.75), "caption": about(2.5, 2.25)}},
    }
    machine = {"device": "cpu, 1 threads", "device_name": "a processor", "threads": 1}
    return {"form": 2, **machine, "baseline": "gcn", "methods": methods, **more}


def test_the_costs_that_ship_can_be_read():
    for model in MEASURED:
        assert read_costs(model).seconds["pgnn"]["caption"]["train"] > 0


@pytest.fixture
def costs_file(tmp_path):
    file = tmp_path / "methods.json"
    file.write_text(json.dumps(content()))
    return file


def cell(method, task, steps, batch, seed=0):
    recipe = Recipe(1e-3, steps, batch_size=batch) if steps else None
    return Cell(method, method, {}, task, seed, recipe, Path("data"))


@pytest.fixture
def plan():
    rows = {
        "gcn": [cell("gcn", "vqa", 100, 8), cell("gcn", "caption", 50, 4)],
        "lora": [cell("lora", "vqa", 100, 8)],
        "frozen": [cell("frozen", "vqa", 0, 0)],
    }
    tasks = {name: TASKS[name] for name in ("vqa", "caption")}
    return Plan(rows, tasks, Sizes((24, 8, 10), (24, 8, 10), (8, 4, 6)))


def minute_by_minute(seconds, machines):
    """List scheduling on whole seconds, step by step."""
    waiting, running, ends, now = list(enumerate(seconds)), {}, {}, 0
    while waiting or running:
        for machine in range(machines):
            if running.get(machine, (0, 0))[1] == now and machine in running:
                ends[running.pop(machine)[0]] = now
        for machine in range(machines):
            if machine not in running and waiting:
                number, time = waiting.pop(0)
                running[machine] = (number, now + time)
        now += 1
    return [ends[number] for number in range(len(seconds))]


def test_cells_go_to_the_machine_that_is_free_first():
    draw = random.Random(0)
    for _ in range(60):
        seconds = [draw.randint(1, 9) for _ in range(draw.randint(1, 12))]
        machines = draw.randint(1, 5)
        assert dealt(seconds, machines) == minute_by_minute(seconds, machines)


def test_schedules_keep_their_bounds():
    """One machine takes the sum; no schedule is shorter than the longest cell or an even share; the longest
    first take at most 4/3 - 1/(3 N) of the best schedule there is (Graham 1969).
    """
    draw = random.Random(1)
    for _ in range(40):
        seconds = sorted((draw.uniform(1, 9) for _ in range(7)), reverse=True)
        for machines in (1, 2, 3):
            shares = itertools.product(range(machines), repeat=len(seconds))
            best = min(
                max(sum(t for t, to in zip(seconds, share) if to == machine) for machine in range(machines))
                for share in shares
            )
            span = max(dealt(seconds, machines))
            assert span >= best * (1 - 1e-12)
            assert best >= max(seconds[0], sum(seconds) / machines) * (1 - 1e-12)
            assert span <= best * (4 / 3 - 1 / (3 * machines)) * (1 + 1e-12)
        assert math.isclose(max(dealt(seconds, 1)), sum(seconds))
        assert max(dealt(seconds, 100)) == seconds[0]


def test_a_cell_counted_by_hand(costs_file):
    """The baseline's 2e9 operations take 0.002 s on a GPU of 1e12 in a second, and took 2 s: factor 0.001."""
    costs = read_costs(folder=costs_file.parent)
    assert costs.factor(SPEED) == 0.001
    trained = cell("pgnn", "caption", 100, 8)
    assert cell_seconds(trained, 40, True, costs, SPEED) == pytest.approx(
        START + 0.001 * (800 * 2.5 + 40 * 2.25)
    )
    assert cell_seconds(trained, 40, False, costs, SPEED) == pytest.approx(
        START + 0.001 * (800 * 1.5 + 40 * 0.75)
    )
    assert cell_seconds(cell("gcn", "vqa", 0, 0), 40, False, costs, SPEED) == pytest.approx(START + 0.02)


def test_pictures_that_are_changed_have_to_be_read(costs_file):
    """800 examples at no less than READ / MOST seconds, however fast the GPU is."""
    costs = read_costs(folder=costs_file.parent)
    cached = cell("gcn", "vqa", 100, 8)
    changed = replace(cached, recipe=replace(cached.recipe, augment=True))
    for speed, expected in ((1e30, 800 * READ / MOST), (1e9, 800 * 2.0 / 2)):
        assert cell_seconds(changed, 0, False, costs, speed) == pytest.approx(START + expected)
    assert cell_seconds(cached, 0, False, costs, 1e30) == pytest.approx(START)


def test_cells_that_wait_for_pictures_are_counted(plan, costs_file):
    """An example is read in 0.001625 s; at a factor of 0.001 captions of gcn take 0.002 s, questions 0.001 s,
    and 0.0015 s with the costs of pgnn.
    """
    rows = {
        row: [replace(one, recipe=one.recipe and replace(one.recipe, augment=True)) for one in cells]
        for row, cells in plan.rows.items()
    }
    costs, changed = read_costs(folder=costs_file.parent), replace(plan, rows=rows)
    assert [simulate(changed, [costs] * models, SPEED).waiting for models in (1, 2)] == [2, 4]
    assert simulate(plan, [costs], SPEED).waiting == 0
    said = simulation_text(changed, 2, teraflops=1.0, folder=costs_file.parent)
    assert "cells that wait for pictures, so that their methods take the same time: 2 of 4" in said


def test_what_is_not_counted_is_said(plan, costs_file):
    said = "not counted: scores on validation data while runs train"
    assert said not in simulation_text(plan, 2, folder=costs_file.parent)
    (one,) = plan.rows["lora"]
    validated = replace(one, recipe=replace(one.recipe, validate_every=10))
    plan = replace(plan, rows={**plan.rows, "lora": [validated]})
    assert said in simulation_text(plan, 2, folder=costs_file.parent)


def test_costs_of_a_gpu_are_taken_as_they_are(costs_file):
    costs_file.write_text(json.dumps(content(device="cuda", device_name="a GPU")))
    costs = read_costs(folder=costs_file.parent)
    assert costs.factor(1.0) == 1.0 and costs.seconds["gcn"]["vqa"]["train"] == 3.0, "on the clock"


def test_methods_that_were_not_measured_cost_what_the_dearest_small_one_does(costs_file):
    costs = read_costs(folder=costs_file.parent)
    assert costs.method("lora") == "pgnn" and costs.method("full") == "full"


def test_a_table(plan, costs_file):
    costs = read_costs(folder=costs_file.parent)
    one, two = (simulate(plan, [costs] * models, SPEED) for models in (1, 2))
    # vqa of gcn: 100 x 8 x 1.0 + 10 x 0.5; caption of gcn: 50 x 4 x 2.0 + 6 x 2.0; lora and frozen as pgnn.
    times = {"gcn": [0.805, 0.412], "lora": [1.2075], "frozen": [0.0075]}
    for row, seconds in times.items():
        assert one.rows[row] == pytest.approx([START + s for s in seconds])
        assert two.rows[row] == pytest.approx([START + s for s in seconds for _ in range(2)])
    assert one.longest == "lora vqa seed 0"
    assert one.makespan(1) == pytest.approx(sum(map(sum, one.rows.values())))
    assert one.makespan(4) == one.makespan(99) == max(one.seconds)
    assert one.efficiency(1) == pytest.approx(1) and one.efficiency(8) == pytest.approx(one.efficiency(4) / 2)
    assert two.makespan(8) == one.makespan(4), "twice the cells on twice the GPUs"
    gcn, caption, (lora,), (frozen,) = *one.rows["gcn"], one.rows["lora"], one.rows["frozen"]
    assert one.seconds == [gcn, lora, caption, frozen]  # those with most training first
    assert two.seconds == [gcn, gcn, lora, lora, caption, caption, frozen, frozen]


def test_what_a_dry_run_prints(plan, costs_file):
    said = simulation_text(plan, 2, teraflops=1e-3, folder=costs_file.parent)  # the factor is 1
    lines = said.splitlines()
    assert lines[0].split() == "row cells GPU hours hours on 2 GPUs".split()
    assert lines[1].split() == ["gcn", "2", f"{(2 * START + 1217) / 3600:.1f}", f"{(START + 805) / 3600:.1f}"]
    assert lines[4].split()[:3] == ["all", "rows", "4"]
    table = [line.split()[0] for line in lines if line[:4].strip().isdigit()]
    assert table == ["2", "8", "64"]
    assert (
        "measured: seconds per example of each method, in training and answering, BLIP-base on a processor"
        in said
    )
    assert (
        "that a GPU does 0.001 teraFLOP/s" in said
        and "not measured with BLIP-base: lora, frozen cost what pgnn does\n" in said + "\n"
    )
    assert "62 teraFLOP/s, 20% of an A100's peak" in simulation_text(plan, 2, folder=costs_file.parent)


@pytest.fixture
def mplug_costs(costs_file):
    """mPLUG takes three times the seconds, and six times the operations."""
    methods = {
        name: {
            "tasks": {
                task: about(*(3 * cost[what]["cpu_seconds_per_example"] for what in cost), flops=12e9)
                for task, cost in found["tasks"].items()
            }
        }
        for name, found in content()["methods"].items()
    }
    file = costs_file.with_name("methods-mplug.json")
    more = {"options": {"model": "mplug"}, "device_name": "another processor"}
    file.write_text(json.dumps(content(methods=methods, **more)))
    return file


def test_two_models_of_which_each_was_measured(plan, costs_file, mplug_costs):
    """A GPU gives mPLUG six times the seconds of BLIP, since it does six times the operations."""
    blip, mplug = (read_costs(model, costs_file.parent) for model in ("blip", "mplug"))
    assert mplug.factor(SPEED) == pytest.approx(2 * blip.factor(SPEED))
    one, other, two = (simulate(plan, of, SPEED) for of in ([blip], [mplug], [blip, mplug]))
    for row, seconds in one.rows.items():
        assert [x - START for x in other.rows[row]] == pytest.approx([6 * (x - START) for x in seconds])
        assert sorted(two.rows[row]) == sorted([*seconds, *other.rows[row]])
    assert sum(two.seconds) == pytest.approx(sum(one.seconds) + sum(other.seconds))


def hours(said: str) -> list[float]:
    """On two GPUs, of one model and of two."""
    (line,) = (line.split() for line in said.splitlines() if line.split()[:1] == ["2"])
    return [float(line[1]), float(line[3])]


def test_the_two_models_are_blip_and_mplug(plan, costs_file, mplug_costs):
    said = simulation_text(plan, 2, teraflops=1e-3, folder=costs_file.parent)
    assert "one model: BLIP-base; two models: BLIP-base and mPLUG ViT-B" in said
    assert "BLIP-base on a processor (cpu, 1 threads); mPLUG ViT-B on another processor" in said
    assert "costs what BLIP-base does" not in said
    costs = [read_costs(model, costs_file.parent) for model in ("blip", "mplug")]
    one, two = (simulate(plan, of, 1e9).makespan(2) / 3600 for of in (costs[:1], costs))
    assert hours(said) == pytest.approx([one, two], abs=0.06)
    mplug_costs.unlink()
    said = simulation_text(plan, 2, teraflops=1e-3, folder=costs_file.parent)
    assert "mPLUG ViT-B costs what BLIP-base does, since it was not measured: measure it with " in said
    assert "`attngraph bench --only methods-mplug`" in said
    alike = simulate(plan, costs[:1] * 2, 1e9).makespan(2) / 3600
    assert hours(said) == pytest.approx([one, alike], abs=0.06) and alike < two / 2


def test_a_model_that_is_an_mplug_has_its_costs(plan, costs_file, mplug_costs, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "mplug"}')
    rows = {row: [replace(c, model=str(tmp_path / "model")) for c in of] for row, of in plan.rows.items()}
    plan = replace(plan, rows=rows)
    said = simulation_text(plan, 2, teraflops=1e-3, folder=costs_file.parent)
    assert "one model: mPLUG ViT-B; two models: BLIP-base and mPLUG ViT-B" in said
    mplug = read_costs("mplug", costs_file.parent)
    assert hours(said)[0] == pytest.approx(simulate(plan, [mplug], 1e9).makespan(2) / 3600, abs=0.06)


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "is missing: measure it with `attngraph bench"),
        ("{", "cannot be read .JSONDecodeError"),
        ("[]", "cannot be read .TypeError"),
        (json.dumps(content(form=1)), "form 1"),
        (json.dumps(content(options={"model": "mplug"})), "it is of the model mplug"),
        (json.dumps(content(baseline="x")), "KeyError: 'x'"),
        (json.dumps(content(methods={"gcn": {"tasks": {"vqa": about(0.0, 1.0)}}})), "0.0 is no time"),
        (json.dumps(content(methods=[])), "cannot be read"),
        (json.dumps(content(methods={"gcn": {"tasks": {"caption": about(1.0, 1.0)}}})), "KeyError: 'vqa'"),
    ],
)
def test_costs_that_cannot_be_read_are_one_line(text, said, tmp_path):
    file = tmp_path / "methods.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_costs(folder=tmp_path)
    assert "\n" not in str(error.value) and "methods.json" in str(error.value)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"gpus": 8}, "--gpus 8 simulates GPUs: give --dry-run too"),
        ({"gpu_teraflops": 1.0}, "--gpu-teraflops 1 changes nothing without --gpus"),
        *(
            ({"gpus": 8, "dry_run": True, "gpu_teraflops": speed}, "--gpu-teraflops must be above 0, got")
            for speed in (0.0, -1.0, math.inf, math.nan)
        ),
    ],
)
def test_options_that_change_nothing_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        check_gpu_arguments(Namespace(**{"gpus": None, "dry_run": False, "gpu_teraflops": None} | given))


def test_the_main_table_at_full_size(costs_file, capsys, monkeypatch, tmp_path):
    """By the command, without any data: 5 methods, 6 benchmarks, 3 seeds."""
    monkeypatch.setattr(table, "simulation_text", partial(simulation_text, folder=costs_file.parent))
    monkeypatch.chdir(tmp_path)
    words = "table main --size paper --rows full,prefix,lora,gcn,pgnn --dry-run --gpus 64 --gpu-teraflops 0.1"
    assert cli.main(words.split()) == 0
    said = capsys.readouterr().out.split("\nrow ")[1].splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in said if line.split()[1:2] == ["18"]}
    assert set(rows) == {"full", "prefix", "lora", "gcn", "pgnn"}
    # Factor 0.01. gcn: 5 epochs of questions at 1 s, 10 of captions at 2 s, and answers at 0.5 and 2 s.
    trained = 5 * (605102 + 19497 + 529527) + 10 * 2 * (113287 + 20855 + 22259)
    answered = 0.5 * (26280 + 4319 + 17901) + 2 * (5000 + 3166 + 7542)
    hours = 3 * (6 * START + 0.01 * (trained + answered)) / 3600
    assert float(rows["gcn"][1]) == pytest.approx(hours, abs=0.06)
    assert rows["lora"] == rows["prefix"] == rows["pgnn"]
    assert [line.split()[0] for line in said if line[:4].strip().isdigit()] == ["8", "64"]
