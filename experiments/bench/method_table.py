"""The tables of :mod:`experiments.bench.methods`, in Markdown."""

from __future__ import annotations

from typing import Any

PHASES = ("encode", "forward", "backward", "update")
ABOUT = """{title} on {device} ({device_name}), PyTorch {torch}, training in {precision}; {load} processes
wanted to run, on average. Seconds are medians; ratios are medians of the ratios to {baseline} within the same
repetition, in parentheses those of processor time. MB: the peak of memory beyond that of the model, in a
process that does this alone, twice."""


def markdown(result: dict[str, Any], title: str) -> str:
    """A table of training steps and answers for each task, and one of saved states.

    Args:
        result: what ``methods.json`` holds.
        title: of the benchmark.
    """
    baseline, methods = result["methods"].get(result["baseline"]), result["methods"]
    parts = [ABOUT.format(title=title[0].upper() + title[1:], **result)]
    for task in next(iter(methods.values()))["tasks"]:
        parts.append(f"### {task}\n")
        way = next(iter(methods.values()))["tasks"][task]["answer"]["way"]
        head = ["", *PHASES, "step, s", "ratio", "without encode", "MB", "of it", f"{way}, s", "ratio", "MB"]
        parts.append(_table(head, [_steps(one, baseline, task) for one in methods.values()]))
    parts.append("### Saved states\n")
    head = ["", "trained, M", "on disk, MB", "save, s", "resume, s"]
    parts.append(_table(head, [_saved(one) for one in methods.values()]))
    return "\n".join(parts) + "\n"


def _steps(method: dict[str, Any], baseline: dict[str, Any] | None, task: str) -> list[str]:
    step, answer = (method["tasks"][task][what] for what in ("train", "answer"))
    phases = step["phases"]
    share = ""
    if baseline is not None:
        share = f"{step['extra_mb'] / max(1e-9, baseline['tasks'][task]['train']['extra_mb']):.2f}"
    return [
        method["title"],
        *(f"{phases[phase]['seconds']:.2f}" if phase in phases else "" for phase in PHASES),
        f"{step['seconds']:.2f}",
        f"{step['ratio']:.2f} ({step['cpu_ratio']:.2f})",
        f"{step['text_ratio']:.2f} ({step['text_cpu_ratio']:.2f})" if "encode" in phases else "",
        f"{step['extra_mb']:.0f}",
        share,
        f"{answer['seconds']:.2f}",
        f"{answer['ratio']:.2f} ({answer['cpu_ratio']:.2f})",
        f"{answer['extra_mb']:.0f}",
    ]


def _saved(method: dict[str, Any]) -> list[str]:
    save, resume = method["save"], method["resume"]
    return [
        method["title"],
        f"{method['trained'] / 1e6:.2f}",
        f"{method['saved_mb']:.0f}",
        f"{save['seconds']:.2f}",
        f"{resume['seconds']:.2f}",
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ruler, *rows))
