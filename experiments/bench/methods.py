r"""Every transfer method at full size: a training step, answers, saved states; time, memory, FLOPs.

The model has random weights. ``blip`` is BLIP-base: ViT-B/16, a text decoder of 12 layers with
cross-attention, 30,524 words. ``mplug`` is mPLUG with ViT-B/16: a text encoder and a fusion of 6 layers
each, which only questions go through, and a decoder of 12. Two tasks stand for the benchmarks: ``vqa``
(questions of some words; the list of answers is ranked, the best of a short list in full) and ``caption``
(captions of some words, after a prompt where the model has one; written with beams, always to the last
token). Each method runs in a process of its own, next to one with the vanilla adapter (:data:`BASELINE`), and
both do everything in turn; so ratios are between neighbours in time. Memory is measured apart, in a process
for each method and piece of work that does nothing else: what a process has freed stays with it, so that one
which does everything would show the dearest piece of work for all.

``methods.json`` and ``methods-mplug.json``, which ``attngraph table --dry-run`` reads, hold

- ``form``: 2. Other numbers are other forms.
- ``device``: in words; ``device_name``: the processor or GPU; ``threads``; ``torch``: its version;
  ``precision``: of the training step, in words; ``load``: how many processes wanted to run, over the last 15
  minutes, at the end (more than ``threads``: the machine was busy, and ``seconds`` are too high).
- ``options``: the model and the sizes; see :func:`measure`. Files without a model are BLIP's.
- ``baseline``: the method to which ratios are taken.
- ``methods``: for each measured method, by its registered name,

  - ``title``, ``trained`` (the number of trained parameters), ``saved_mb`` (trained weights and the
    optimiser's state on disk);
  - ``save``, ``resume``: writing and reading that state;
  - ``tasks``: ``vqa`` and ``caption``, each with

    - ``train``: a whole optimiser step, the image encoder included, and its ``phases`` ``encode`` (the frozen
      image encoder; absent where it is trained), ``forward``, ``backward``, ``update``; ``text_ratio`` and
      ``text_cpu_ratio``: the ratios of all but ``encode``;
    - ``answer``: all answers of a batch, the image encoder included; ``way``: ``rank`` or ``generate``.

Each of ``save``, ``resume``, ``train``, ``answer`` and the phases has

- ``seconds``: median; ``cpu_seconds``: median of the processor time of all threads, which is what ``seconds``
  would be with one thread on an idle processor (no use where ``device_name`` is a GPU's);
- ``ratio``, ``cpu_ratio``: medians of the ratios to the baseline, within the same repetition;

and ``train`` and ``answer`` also

- ``examples`` (in a batch), ``seconds_per_example``, ``cpu_seconds_per_example`` and ``flops_per_example``
  (of matrix products and attention; a multiplication and an addition are two);
- ``base_mb``: memory before the work (model, libraries, Python); ``peak_mb``: the peak of :data:`TIMES` times
  the work, one after the other, so that the optimiser's state is there from the second on; ``extra_mb``: the
  difference (10⁶ bytes; of the process, or of the GPU).
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from experiments.bench.measure import ENOUGH, LEAST
from experiments.bench.method_worker import ANSWER, RESUME, SAVE, TASKS, TRAIN, Worker
from experiments.methods import METHODS
from experiments.progress import note
from experiments.training.device import training_precision

FORM = 2
BASELINE = "gcn"
NAMES = ("full", "decoder", "prefix", "lora", BASELINE, "appnp", "gcnii", "pgnn", "tempering", "placebo")
TARGETS, MEMORY_TARGET = {"pgnn": 1.2}, 1.2
QUESTION, CAPTION = (7, 1), (3, 11)  # words of prompt and answer, about as in VQA v2 and COCO
WORDS = {
    "blip": {"vqa": QUESTION, "caption": CAPTION},
    "mplug": {"vqa": QUESTION, "caption": (0, CAPTION[1])},  # its captions have no prompt
}
WAYS = {"vqa": "rank", "caption": "generate"}
TIMES = 2  # a piece of work whose memory is measured: a second training step has the optimiser's state
ANSWERED = [f"{what} {task}" for task in TASKS for what in (TRAIN, ANSWER)]
WORK = [*ANSWERED, SAVE, RESUME]
UNITS = {"seconds": "ratio", "cpu_seconds": "cpu_ratio"}  # of time, and the name of their ratios

Measured = dict[str, list[dict[str, dict[str, float]]]]  # work -> repetitions -> phase -> numbers


def measure(options: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Measure methods.

    Args:
        options: ``model`` (of :data:`experiments.bench.full_size.MODELS`), ``side`` of the pictures in
            pixels, ``width``, ``layers`` (of the image encoder and the decoder),
            ``reduction`` of the bottlenecks, ``batch`` (examples of a step), ``answered`` (examples answered
            together), ``answers`` (of the list), ``k`` (of them scored in full), ``tokens`` (of a caption),
            ``beams``, ``methods`` (their names), ``device``, ``seed``.
        repeats: of each piece of work; fewer, but at least ``LEAST``, where it takes long.

    Returns:
        What ``methods.json`` holds.
    """
    options = {**options, "words": WORDS[options["model"]], "threads": torch.get_num_threads()}
    names = options["methods"]
    device = options["device"]
    baseline = Worker(BASELINE, options)
    try:
        results = {name: _compared(name, baseline, options, repeats) for name in names}
    finally:
        baseline.kill()
    gpu = device.startswith("cuda")
    return {
        "form": FORM,
        "device": f"{device}, {options['threads']} threads" if not gpu else device,
        "device_name": torch.cuda.get_device_name(device) if gpu else processor(),
        "threads": options["threads"],
        "torch": torch.__version__,
        "precision": training_precision(device),
        "load": round(os.getloadavg()[2], 1) if hasattr(os, "getloadavg") else None,
        "options": {name: value for name, value in options.items() if name != "threads"},
        "baseline": BASELINE,
        "methods": results,
    }


def _compared(name: str, baseline: Worker, options: dict[str, Any], repeats: int) -> dict[str, Any]:
    """A method's numbers, next to the baseline's."""
    note(f"methods: {METHODS[name].title}")
    worker = baseline if name == BASELINE else Worker(name, options)
    try:
        flops = {work: worker.do(work, flops=True) for work in ANSWERED}
        own: Measured = {work: [] for work in WORK}
        base: Measured = {work: [] for work in WORK}
        began = time.perf_counter()
        for repeat in range(repeats):
            if repeat >= LEAST and time.perf_counter() - began > ENOUGH:
                break
            for work in WORK:
                pair = [(worker, own)] if worker is baseline else [(worker, own), (baseline, base)]
                for who, into in pair[:: 1 if repeat % 2 else -1]:
                    into[work].append(who.do(work))
    finally:
        if worker is not baseline:
            worker.kill()
    tasks: dict[str, dict[str, Any]] = {}
    for work in ANSWERED:
        what, _, task = work.partition(" ")
        count = options["batch" if what == TRAIN else "answered"]
        found = tasks.setdefault(task, {})[what] = _whole(work, own, base) | _memory(name, work, options)
        for unit in UNITS:
            found[f"{unit}_per_example"] = found[unit] / count
        found |= {"examples": count, "flops_per_example": flops[work]}
        if what == ANSWER:
            found["way"] = WAYS[task]
    return {
        "title": METHODS[name].title,
        "trained": worker.about["trained"],
        "saved_mb": own[SAVE][-1][SAVE]["saved_mb"],
        **{what: _whole(what, own, base) for what in (SAVE, RESUME)},
        "tasks": tasks,
    }


def _memory(name: str, work: str, options: dict[str, Any]) -> dict[str, float]:
    """The peak of memory of a piece of work, in a process that does nothing else."""
    worker = Worker(name, options)
    try:
        phases = [phase for _ in range(TIMES) for phase in worker.do(work).values()]
    finally:
        worker.kill()
    base, peak = worker.about["base_mb"], max(phase["peak_mb"] for phase in phases)
    return {"base_mb": base, "peak_mb": peak, "extra_mb": peak - base}


def _whole(work: str, own: Measured, base: Measured) -> dict[str, Any]:
    """The time of a piece of work with all of its phases, and of each of several phases."""
    mine = own[work]
    theirs = base[work] or mine  # the baseline itself
    found = _times([_total(one) for one in mine], [_total(one) for one in theirs])
    if len(mine[0]) > 1:
        text = [[_total(one, leave_out="encode") for one in side] for side in (mine, theirs)]
        found |= {f"text_{name}": x for name, x in _times(*text).items() if "ratio" in name}
        found["phases"] = {
            phase: _times([one[phase] for one in mine], [one.get(phase) for one in theirs])
            for phase in mine[0]
        }
    return found


def _total(phases: dict[str, dict[str, float]], leave_out: str = "") -> dict[str, float]:
    """All phases of one repetition together."""
    parts = [numbers for phase, numbers in phases.items() if phase != leave_out]
    return {unit: sum(part[unit] for part in parts) for unit in UNITS}


def _times(mine: list[dict[str, float]], theirs: list[dict[str, float] | None]) -> dict[str, float]:
    """Medians over repetitions."""
    found = {}
    for unit, ratio in UNITS.items():
        found[unit] = statistics.median(one[unit] for one in mine)
        found[ratio] = statistics.median(
            one[unit] / max(1e-9, other[unit]) for one, other in zip(mine, theirs) if other is not None
        )
    return found


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def runs(options: dict[str, Any]) -> dict[str, None]:
    """The names of the lines."""
    return dict.fromkeys(options["methods"])


def lines(detail: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Whole training steps on captions, as lines of a benchmark's table."""
    steps = {name: found["tasks"]["caption"][TRAIN] for name, found in detail["methods"].items()}
    return {
        name: {key: step[key] for key in ("seconds", "ratio", "extra_mb")} for name, step in steps.items()
    }
