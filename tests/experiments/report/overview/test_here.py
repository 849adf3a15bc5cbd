"""The published setting, and how runs stand beside it."""

import inspect

import pytest

from adapters import SCHEMES, GraphAdapterConfig
from experiments.methods import METHODS
from experiments.models.weights import weights_digest
from experiments.report.overview import here
from experiments.report.overview.found import Found
from experiments.report.overview.grouped import Series
from experiments.report.overview.here import (
    DIFFERS,
    HEAD,
    OPEN,
    READERS,
    SAME,
    model_in_words,
    setting_grid,
    verdict,
)
from experiments.report.published_setting import ITEMS
from experiments.report.published_setting import TASKS as PUBLISHED
from experiments.tasks import TASKS

#: pGNN as the paper and its code have it, on VQA v2.
AS_PUBLISHED = {
    "weights": "BLIP",
    "side": 224,
    "settings": {"gnn": "pgnn", "gnn_args": {"p": 1.25, "mu": 0.1}, "join": "replace", "reduction": 8},
    "recipe": {
        "learning_rate": 5e-4,
        "steps": 47_274,
        "batch_size": 64,
        "warmup": 0.06,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "clip": 1.0,
        "augment": True,
    },
}
RESULT = {
    "trained_on": 605_102,
    "examples": 26_280,
    "answering": {"way": "rank", "k": 32, "answers": 3128, "digest": "0"},
    "evaluator": "VQA v2's evaluator",
}


def grid(task="vqa2", settings=AS_PUBLISHED, method="pgnn", **result):
    row = Series(method, title=METHODS[method].title)
    config = {"settings": settings, "precision": "float32"}
    row.runs[task, 0] = Found("", "", "", method, task, 0, config, RESULT | result)
    made = setting_grid([row], [TASKS[task]])
    return made and {line[0]: dict(zip(HEAD, line, strict=True)) for line in made.lines}


def test_every_item_is_known_of_published_tasks_and_read_somehow():
    assert set(PUBLISHED) <= set(TASKS)
    assert {item.reader for item in ITEMS} == set(READERS)
    for item in ITEMS:
        assert set(item.values) <= set(PUBLISHED) and all(item.values.values())
        assert bool(item.source) == bool(item.values), item.what


def test_known_numbers():
    """Items against the sentences of the paper and its code."""
    by_name = {item.reader: item for item in ITEMS}
    assert by_name["batch_size"].values == {"vqa2": (64,), "snli_ve": (64,), "coco": (128,)}
    assert by_name["mu"].values == {"vqa2": (0.1,), "snli_ve": (10.0,), "coco": (0.1,)}
    assert by_name["epochs"].values["snli_ve"] == (5,) and by_name["epochs"].values["textcaps"] == (10,)
    config = GraphAdapterConfig()
    assert ", ".join(config.positions) == by_name["positions"].values["vqa2"][0]
    assert config.reduction == by_name["reduction"].values["vqa2"][0] == 768 / 96


def test_a_run_in_the_published_setting_differs_in_nothing_that_is_known():
    lines = grid()
    others = {what: line for what, line in lines.items() if line["Verdict"] != SAME}
    assert set(others) == {"pre-trained model", "share of steps to warm up", "precision", "scored by"}
    assert others["pre-trained model"]["Verdict"] == others["precision"]["Verdict"] == OPEN
    assert others["scored by"]["Verdict"] == DIFFERS
    assert lines["epochs"]["Here"] == "5" and lines["answers"]["Here"] == "best of a list, k 32"


@pytest.mark.parametrize(
    "change, what, here",
    [
        ({"side": 384}, "side of pictures, pixels", "384"),
        ({"recipe": AS_PUBLISHED["recipe"] | {"learning_rate": 0.01}}, "learning rate of adapters", "0.01"),
        ({"recipe": AS_PUBLISHED["recipe"] | {"schedule": "cosine"}}, "learning rate goes down", "cosine"),
        ({"recipe": AS_PUBLISHED["recipe"] | {"steps": 9455}}, "epochs", "1"),
        ({"settings": {"gnn": "pgnn"}}, "way to join the model", "blend"),
        ({"settings": {"gnn": "pgnn", "gnn_args": {"p": 2.0}}}, "p at the start (pGNN)", "2"),
        ({"settings": {"gnn": "pgnn", "gnn_args": {"degree": "mean"}}}, "degrees of values", "mean"),
    ],
)
def test_what_differs_is_seen(change, what, here):
    line = grid(settings=AS_PUBLISHED | change)[what]
    assert line["Verdict"] == DIFFERS and line["Here"] == here


def test_defaults_are_those_of_schemes_and_adapters():
    """A run that names no argument has the scheme's own."""
    lines = grid(settings=AS_PUBLISHED | {"settings": {"gnn": "pgnn"}})
    known = inspect.signature(SCHEMES["pgnn"]).parameters
    assert lines["μ (pGNN)"]["Here"] == f"{known['mu'].default:g}"
    assert lines["p at the start (pGNN)"]["Here"] == f"{known['p'].default:g}"
    assert lines["degrees of values"]["Here"] == SCHEMES["pgnn"]().degree


def test_items_of_other_methods_are_left_out():
    lines = grid(method="gcn", settings=AS_PUBLISHED | {"settings": {"gnn": "gcn", "gnn_args": {}}})
    assert "μ (pGNN)" not in lines and "way to join the model" in lines
    lines = grid(method="full", settings=AS_PUBLISHED | {"settings": {}})
    assert "way to join the model" not in lines and "learning rate of adapters" not in lines
    assert lines["learning rate of full fine-tuning"]["Verdict"] == DIFFERS


def test_what_nobody_published_cannot_be_told():
    lines = grid("textcaps", answering={"way": "generate", "beams": 3, "tokens": 20, "least": 5})
    assert lines["answers"]["Published"] == "unknown" and lines["answers"]["Verdict"] == OPEN
    assert lines["answers"]["Here"] == "3 beams, 5 to 20 tokens"
    assert grid(settings=AS_PUBLISHED | {"side": None})["side of pictures, pixels"]["Here"] == "not recorded"


def test_a_task_without_published_results_has_no_list():
    assert grid("easy_vqa") is None and grid("vqa") is not None


def test_shipped_models_are_named(monkeypatch):
    """A digest says which one a run started from."""
    assert grid(settings=AS_PUBLISHED | {"weights": weights_digest()})["pre-trained model"]["Here"] == (
        "mini-BLIP (ships with the package)"
    )
    monkeypatch.setattr(here, "_shipped", lambda: {"0" * 24: "mini-mplug"})
    assert model_in_words("0" * 24) == "mini-mPLUG (ships with the package)"
    assert model_in_words("1" * 24) == "a checkpoint with digest 11111111" and model_in_words("a/b") == "a/b"


def test_verdicts():
    assert verdict((64,), [64, 64.3]) == SAME and verdict((64,), [64, 66]) == DIFFERS
    assert verdict((), [1]) == OPEN and verdict(("a", "b"), ["b"]) == SAME
    assert verdict((True,), [False]) == DIFFERS and verdict(("1",), [1]) == DIFFERS
