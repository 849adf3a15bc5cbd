"""The table and the plot of a benchmark run."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HEAD = ("", "ms", "ratio", "target", "extra MB", "error")


def rows(result: dict) -> list[list[str]]:
    """A benchmark's lines: name, milliseconds, ratio to the baseline, target, extra memory, error."""
    lines = []
    for name, run in result["runs"].items():
        if "failed" in run:
            lines.append([name, "—", "—", "", "", run["failed"]])
            continue
        target, met = run.get("target"), ""
        if target is not None:
            over = run["ratio"] - target
            met = f"≤ {target:g} " + ("met" if over <= 0 else f"missed by {over:.2f}")
        if "seconds_limit" in run:
            met = _limit(run["seconds"], run["seconds_limit"], "s")
        memory = f"{run['extra_mb']:.0f}" if "extra_mb" in run else ""
        if memory and "mb_limit" in run:
            memory += f" ({_limit(run['extra_mb'], run['mb_limit'], 'MB')})"
        limit = result.get("memory_target")
        if memory and limit and name != result["baseline"]:
            share = run["extra_mb"] / max(1e-9, result["runs"][result["baseline"]]["extra_mb"])
            memory += f" ({share:.2f} ×, ≤ {limit:g} {'met' if share <= limit else 'missed'})"
        lines.append(
            [
                name,
                f"{1000 * run['seconds']:.1f}",
                f"{run['ratio']:.2f}",
                met,
                memory,
                f"{run['error']:.2g}" if "error" in run else "",
            ]
        )
    return lines


def _limit(value: float, limit: float, unit: str) -> str:
    return f"≤ {limit:g} {unit} {'met' if value <= limit else 'missed'}"


def text(result: dict) -> str:
    """For the screen."""
    lines = [list(HEAD), *rows(result)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEAD))]
    body = [
        "  ".join(
            cell.ljust(w) if k in (0, 3, 4) else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([result["title"], *body, ""])


def markdown(results: dict) -> str:
    """All tables, and what they were measured on."""
    machine = results["machine"]
    parts = [
        f"Medians of {results['repeats']} interleaved repetitions (fewer where they took over a minute) on "
        f"{machine}; ratios are medians of the ratios to the first line within the same repetition. Forward "
        "and backward unless it says otherwise. Extra MB: growth of the peak of resident memory over one run "
        "in a process of its own."
    ]
    for result in results["benchmarks"].values():
        parts.append(f"\n### {result['title'][0].upper() + result['title'][1:]}\n")
        parts += [
            f"| {' | '.join(line)} |"
            for line in (list(HEAD), ["---"] + ["---:"] * (len(HEAD) - 1), *rows(result))
        ]
    return "\n".join(parts) + "\n"


def draw(results: dict, path: Path) -> None:
    """One bar chart of ratios per benchmark; targets are marks."""
    benchmarks = list(results["benchmarks"].values())
    heights = [1 + 0.32 * len(result["runs"]) for result in benchmarks]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(benchmarks), squeeze=False, height_ratios=heights)[:, 0]
    for panel, result in zip(panels, benchmarks):
        runs = {name: run for name, run in result["runs"].items() if "ratio" in run}
        bars = panel.barh(
            list(runs),
            [run["ratio"] for run in runs.values()],
            color=["#8f9bb3" if name == result["baseline"] else "#3b6fb6" for name in runs],
        )
        panel.bar_label(
            bars,
            [
                f"{run['ratio']:.2f}" + (f", error {run['error']:.2g}" if run.get("error") else "")
                for run in runs.values()
            ],
            padding=3,
            fontsize=8,
        )
        for k, run in enumerate(runs.values()):
            if "target" in run:
                panel.plot([run["target"]] * 2, [k - 0.45, k + 0.45], color="#c0392b")
        high = max(run["ratio"] for run in runs.values())
        if high > 20:
            panel.set_xscale("log")
        panel.set_xlim(None if high > 20 else 0, high * (3 if high > 20 else 1.25))
        panel.set_title(result["title"], fontsize=9, loc="left")
        panel.tick_params(labelsize=8)
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("time / time of the first line (red: target)", fontsize=8)
    figure.savefig(path, dpi=150)
