"""Where memory is short, passes become smaller, and a step stays what it was."""

import json
from dataclasses import replace

import pytest
import torch

from attngraph.errors import UserError
from experiments.models.blip import BlipCaptioner
from experiments.training import cells, device, prediction, trainer
from experiments.training.execution import Execution
from experiments.training.out_of_memory import OutOfMemory, halved, is_out_of_memory, passes_of
from experiments.training.states import STATES
from tests.experiments.training.small import RECIPE, small_cell, small_run, train_small

RECIPE = replace(RECIPE, batch_size=8)
CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"  # noqa: E501
WINDOWS = "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."  # noqa: E501
ERRORS = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError(CPU),
    "windows": lambda: RuntimeError(WINDOWS),
    "cublas": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 2)
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


@pytest.fixture
def fits(monkeypatch):
    """``fits(most, after, error)``: from the ``after``-th pass on no more than so many examples fit; returns
    the sizes of the passes.
    """
    logits = BlipCaptioner.logits

    def limit(most, after=0, error="gpu"):
        sizes = []

        def limited(self, inputs):
            sizes.append(len(inputs["input_ids"]))
            if sizes[-1] > most and len(sizes) > after:
                raise ERRORS[error]()
            return logits(self, inputs)

        monkeypatch.setattr(BlipCaptioner, "logits", limited)
        return sizes

    return limit


@pytest.mark.parametrize("name", ERRORS)
def test_each_allocator_is_understood(name):
    assert is_out_of_memory(ERRORS[name]())


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), MemoryError(), ValueError(CPU), UserError(CPU)]
)
def test_nothing_else_is_taken_for_it(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "size, passes, processes, examples, more",
    [
        (8, 1, 1, 100, 2),
        (8, 4, 1, 100, 8),
        (8, 8, 1, 100, None),
        (6, 2, 1, 100, 6),
        (48, 16, 1, 100, 48),
        (9, 1, 1, 100, 3),
        (7, 1, 1, 100, 7),
        (8, 1, 2, 100, 2),
        (8, 4, 2, 100, None),
        (64, 1, 1, 10, 2),
    ],
)
def test_passes_at_least_double_and_divide_a_step_evenly(size, passes, processes, examples, more):
    recipe = replace(RECIPE, batch_size=size)
    assert halved(recipe, passes, processes, examples) == more
    if more is not None:
        replace(recipe, accumulation=more).per_process(processes, examples)


@pytest.mark.parametrize(
    "error", ["gpu", *(pytest.param(error, marks=pytest.mark.slow) for error in ("cpu", "windows", "cublas"))]
)
@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_run_goes_on_with_smaller_passes(error, after, fits, tmp_path):
    """At once, or after three steps that did fit; the result is that of an undisturbed run."""
    expected = train_small(tmp_path / "whole", recipe=RECIPE)
    sizes, said = fits(3, after, error), []
    for _ in range(3):
        try:
            outcome = train_small(tmp_path / "short", recipe=RECIPE)
            break
        except OutOfMemory as shortage:
            said.append(str(shortage))
    assert len(said) == 2 and "out of memory with 8 examples at a time: 4 at a time" in said[0]
    assert "2 at a time from now on, in 4 passes a step (2 before)" in said[1]
    assert outcome.trained.passes == 4 and set(sizes[-4:]) == {2}
    assert len(sizes) == after + 1 + (after > 3) + 1 + 4 * (8 - 2 * (after // 2))
    for name, weight in expected.weights.items():
        assert torch.allclose(weight, outcome.weights[name], atol=1e-6), name
    losses = [
        [line.split(",")[1] for line in found.metrics.splitlines()[1:]] for found in (expected, outcome)
    ]
    assert [float(x) for x in losses[0]] == pytest.approx([float(x) for x in losses[1]], abs=2e-5)


def test_a_single_example_that_does_not_fit_is_one_line(fits, tmp_path):
    fits(0)
    for more in (2, 4, 8):
        with pytest.raises(OutOfMemory):
            train_small(tmp_path, recipe=RECIPE)
        assert passes_of(tmp_path / "run", RECIPE) == more
    with pytest.raises(UserError, match="out of memory with a single example at a time") as error:
        train_small(tmp_path, recipe=RECIPE)
    assert not isinstance(error.value, OutOfMemory) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "null", '"many"', "0", "-3"])
def test_a_damaged_note_is_found_out_once_more(content, tmp_path):
    (tmp_path / STATES).mkdir()
    (tmp_path / STATES / "passes.json").write_text(content)
    assert passes_of(tmp_path, RECIPE) == 1


def test_answers_are_made_in_smaller_batches(tmp_path, monkeypatch, capsys):
    tuned, data = small_run(tmp_path)
    expected = prediction.predict(tuned, data)
    generate, sizes = BlipCaptioner.generate, []

    def limited(self, samples, decoding):
        sizes.append(len(samples))
        if len(samples) > 3:
            raise ERRORS["gpu"]()
        return generate(self, samples, decoding)

    monkeypatch.setattr(BlipCaptioner, "generate", limited)
    assert prediction.predict(tuned, data) == expected
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert capsys.readouterr().err.count("examples are answered at a time from now on") == 2


def test_one_example_that_cannot_be_answered_is_one_line(tmp_path, monkeypatch):
    tuned, data = small_run(tmp_path)

    def never(self, samples, decoding):
        raise ERRORS["cpu"]()

    monkeypatch.setattr(BlipCaptioner, "generate", never)
    with pytest.raises(UserError, match="out of memory with a single example to answer"):
        prediction.predict(tuned, data)


def test_a_cell_begins_again_by_itself_and_says_so(fits, tmp_path, monkeypatch, capsys):
    cell = small_cell(tmp_path, monkeypatch, RECIPE)
    short = Execution(tmp_path / "short")
    expected = cells.run_cell(cell, Execution(tmp_path / "whole"))
    fits(4, after=3)
    found = cells.run_cell(cell, short)
    assert (expected["accumulation"], found["accumulation"]) == (1, 2)
    assert found["scores"] == expected["scores"] and found["loss"] == pytest.approx(
        expected["loss"], abs=1e-6
    )
    assert capsys.readouterr().err.count("out of memory") == 1
    assert cells.is_finished(cell, short), "how many passes it took is no setting"
    saved = json.loads((cell.folder(short.out) / "scores.json").read_text())
    assert saved["accumulation"] == 2
