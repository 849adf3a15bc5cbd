"""What adapters do: means over layers, then over seeds; which learned numbers seeds agree on."""

from pathlib import Path

import pytest

from experiments.report.effects import EFFECTS, agree, effects_markdown, learned_markdown
from experiments.report.runs import Run
from experiments.tasks import TASKS

LAYER = "text_decoder.bert.encoder.layer.{}.{}.self"


def effect(value):
    return dict.fromkeys(EFFECTS.values(), value)


def run(row, seed, task="vqa", **result):
    return Run(row, task, seed, {"learned": {}, **result}, Path(f"{row}/{task}/{seed}"))


def test_means_over_layers_and_seeds_by_kind():
    runs = [
        run(
            "pgnn",
            seed,
            effects={
                LAYER.format(0, "attention"): effect(0.2 + 0.1 * seed),
                LAYER.format(0, "crossattention"): effect(0.5),
                LAYER.format(1, "attention"): effect(0.4 + 0.1 * seed),
                LAYER.format(1, "crossattention"): effect(0.7),
            },
        )
        for seed in (0, 1)
    ]
    one = {LAYER.format(0, "attention"): {"kappa": 1.0}, LAYER.format(0, "crossattention"): {"kappa": 1.0}}
    runs += [run("gcn", 0, effects=one), run("full", 0, effects={}), run("pgnn", 0, "ve", effects=one)]
    text = effects_markdown(runs, TASKS["vqa"])
    assert "VQA (Scenes, VQA v2 format): what the adapters do" in text
    assert "| Method | Layers | κ | mass moved |" in text
    assert "| pGNN | layer.\\*.attention | 0.35 ± 0.07 | 0.35 ± 0.07 |" in text
    assert "| pGNN | layer.\\*.crossattention | 0.60 ± 0.00 |" in text
    assert "| GCN | layer.\\*.attention | 1.00 | – | – |" in text and "Full" not in text
    assert text.count("\n| pGNN") == 2


def test_no_table_where_nothing_was_measured():
    """Results of earlier versions have no effects."""
    assert effects_markdown([run("gcn", 0), run("full", 0, effects={})], TASKS["vqa"]) == ""
    assert learned_markdown([run("full", 0)], TASKS) == ""


@pytest.mark.parametrize(
    "ends, together",
    [
        ((1.1, 1.0, 1.2), True),
        ((1.9, 1.95, 2.0), True),
        ((1.1, 1.9, 1.4), False),  # they scatter around the start
        ((1.2, 1.5, 1.1), False),  # 0.23 from the start, and 0.21 from each other
        ((1.1, 1.0), False),  # too few
        ((1.1, 1.0, float("nan")), False),
    ],
)
def test_seeds_agree_where_their_spread_is_small_against_the_way(ends, together):
    assert agree([1.5] * len(ends), ends) == together


def test_learned_numbers_are_listed_where_seeds_agree():
    runs = [
        run(
            "pgnn",
            seed,
            started={"a.p": 1.5, "b.p": 1.5},
            learned={"a.p": 1.1 + 0.01 * seed, "b.p": 1 + seed},
        )
        for seed in range(3)
    ]
    text = learned_markdown(runs, TASKS)
    assert "agree**: 1 of 2. The others are not listed: there are fewer than 3 seeds, or" in text
    assert (
        "| VQA (Scenes, VQA v2 format) | pGNN | a.p | 1.500 | 1.110 ± 0.010 |" in text and "b.p" not in text
    )
    unknown = [run("pgnn", seed, learned={"a.p": 1.1}) for seed in range(3)]  # where they started
    assert "0 of 1." in learned_markdown(unknown, TASKS) and "|" not in learned_markdown(unknown, TASKS)
