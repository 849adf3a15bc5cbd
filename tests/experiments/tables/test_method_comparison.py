"""A table's runs in the files of PEFT's method comparison, from a command to a summary with intervals."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from attngraph.errors import UserError
from attngraph.experiments.cli import main
from attngraph.experiments.methods import method_named
from attngraph.experiments.models.batch import IGNORED
from attngraph.experiments.runs.saved import finished
from attngraph.experiments.tables.grid import load_table
from attngraph.experiments.tables.method_comparison import interval
from attngraph.experiments.tasks import TASKS

TABLE = """
about: one method of PEFT and the frozen model
title: PEFT
rows: {Methods: [ia3], Ends of the scale: [frozen]}
baseline: ia3
contenders: [ia3]
contest: method
tasks: [vqa]
forgetting: caption
seeds: 2
"""
SIZE = """
about: as little as possible
scenes: {questions: [24, 8, 12], hypotheses: [4, 4, 4], captions: [4, 4, 6]}
runs: {recipe: {steps: 3, batch_size: 8}}
settings: {methods: {ia3: {vqa: {learning_rate: 0.1}}}}
"""
#: What PEFT's processing.py reads of a file, and as what.
READ = {
    "run_info": {"created_at": str, "total_time": float, "experiment_name": str, "peft_branch": str},
    "train_info": {
        "accelerator_memory_reserved_avg": int,
        "accelerator_memory_max": int,
        "accelerator_memory_reserved_99th": int,
        "train_time": float,
        "file_size": int,
        "num_trainable_params": int,
        "status": str,
    },
}
PACKAGES = ("peft", "transformers", "datasets", "torch", "bitsandbytes")


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("peft")
    (folder / "small.yaml").write_text(TABLE)
    (folder / "little.yaml").write_text(SIZE)
    words = ["table", folder / "small.yaml", "--size", folder / "little.yaml", "--out", folder / "out", "-q"]
    assert main(list(map(str, words))) == 0
    files = {file: file.stat().st_mtime_ns for file in (folder / "out").rglob("results/*.json")}
    assert main(list(map(str, words))) == 0
    assert {file: file.stat().st_mtime_ns for file in files} == files, "measured runs are not measured again"
    return folder / "out"


@pytest.mark.timeout(400)
def test_each_run_is_a_file_that_peft_reads(out):
    """Field by field as its processing.py does."""
    folder = out / "small" / "method_comparison"
    names = sorted(file.name for file in (folder / "results").iterdir())
    assert names == [f"{row}--mini-blip-seed{k}.json" for row, k in (("frozen", 0), ("ia3", 0), ("ia3", 1))]
    for name in names:
        content = json.loads((folder / "results" / name).read_text())
        for part, fields in READ.items():
            for field, kind in fields.items():
                assert type(content[part][field]) is kind, field
        row, _, run = name.removesuffix(".json").partition("--")
        assert content["run_info"]["experiment_name"] == f"{row}/{run}"
        assert content["run_info"]["train_config"]["model_id"] == "mini-blip"
        assert {f"{name}-version" for name in PACKAGES} <= content["meta_info"]["package_info"].keys()
        cell = out / "cells" / row / "vqa" / f"seed{run[-1]}"
        scores, last = json.loads((cell / "scores.json").read_text()), content["train_info"]["metrics"][-1]
        assert {
            "test accuracy",
            "train loss",
            "train samples",
            "train total tokens",
            "forgetting",
        } <= last.keys()
        assert last["test accuracy"] == scores["scores"]["vqa.accuracy"]
        assert last["train loss"] == scores["loss"]
        place = folder / "experiments" / row / run
        assert json.loads((place / "training_params.json").read_text())["seed"] == int(run[-1])
        if row == "ia3":
            config = json.loads((place / "adapter_config.json").read_text())
            assert content["run_info"]["peft_config"] == config and config["peft_type"] == "IA3"
            assert content["train_info"]["file_size"] == (cell / "adapter_model.safetensors").stat().st_size
            assert content["run_info"]["train_config"]["optimizer_kwargs"]["lr"] == 0.1, "as it was chosen"
            assert content["train_info"]["num_trainable_params"] == scores["parameters"] == 4 * 4 * 128
            memory = [content["train_info"][f"accelerator_memory_{x}"] for x in ("reserved_avg", "max")]
            assert 50e6 < memory[0] <= memory[1]


@pytest.mark.timeout(400)
def test_forgetting_is_the_rise_of_the_loss(out):
    """By sums over single examples; the frozen model forgets nothing."""
    folder = out / "small" / "method_comparison" / "results"

    def measured(name: str) -> float:
        return json.loads((folder / f"{name}.json").read_text())["train_info"]["metrics"][-1]["forgetting"]

    assert measured("frozen--mini-blip-seed0") == 0
    run = finished(out / "cells" / "ia3" / "vqa" / "seed1")
    tuned = run.tuned(None, "cpu")
    family, task = tuned.family, TASKS["caption"]
    losses = {True: [], False: []}
    for example in task.examples(out / "data", "test"):
        inputs = family.training_inputs([task.sample(example, family.name, draw=0.0)])
        labels = inputs.pop("labels")[0]
        places = [k for k in range(1, len(labels)) if labels[k] != IGNORED]
        for adapted in losses:
            with torch.no_grad():
                if adapted:
                    logits = family.logits(inputs)[0]
                else:
                    with family.unadapted():
                        logits = family.logits(inputs)[0]
            losses[adapted] += [cross_entropy(logits[k - 1], labels[k]).item() for k in places]
    due = [sum(found) / len(found) for found in losses.values()]
    assert measured("ia3--mini-blip-seed1") == pytest.approx(due[0] - due[1], abs=1e-5)
    assert abs(due[0] - due[1]) > 1e-4, "it has moved"


@pytest.mark.timeout(400)
def test_the_summary_has_intervals_over_seeds(out):
    folder = out / "small" / "method_comparison"
    frame = pd.read_csv(folder / "summary.csv").set_index("seeds")
    files = [json.loads(file.read_text()) for file in sorted((folder / "results").glob("ia3--*.json"))]
    values = [file["train_info"]["metrics"][-1]["forgetting"] for file in files]
    low, mean, high = interval(values)
    assert frame.loc[2, ["forgetting_low", "forgetting", "forgetting_high"]].tolist() == [low, mean, high]
    half = 12.7062047 * abs(values[0] - values[1]) / 2  # t with one degree of freedom, s / sqrt(2)
    assert (mean - low, high - mean) == pytest.approx((half, half))
    assert math.isnan(frame.loc[1, "forgetting_low"])
    text = (folder / "summary.md").read_text()
    assert "(IA)³" in text and "Frozen model" in text and " to " in text


def test_the_table_of_peft_names_known_rows_and_one_task(tmp_path):
    grid = load_table("peft", "peft")
    assert (grid.tasks, grid.forgetting, grid.seeds) == (["vqa"], "caption", 5)
    rates = {len(grid.rates_of(method)) for name in grid.counts if (method := method_named(name)).trains}
    assert rates == {5}, "equal budgets of rates"
    for change, told in (("tasks=[vqa, ve]", "a table of one task"), ("forgetting=captions", "did you mean")):
        with pytest.raises(UserError, match=told):
            load_table("peft", "peft", [change])
