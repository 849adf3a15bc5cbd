"""The files beside the weights of a pre-trained checkpoint: scores, training log, loss curve and README."""

from __future__ import annotations

import csv
import json
import platform
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from experiments.files import whole, write_json, write_text
from experiments.pretraining.minis import Mini
from experiments.shipped import option

TEMPLATE = """# {title}

{about}

## Recipe

    attngraph pretrain{chosen} --seed {run[seed]} --steps {run[steps]} --out FOLDER

{run[recipe]}

{run[precision]}, no dropout. Trained on {run[date]} in {run[minutes]} minutes on
{run[machine]}{run[remark]}; torch {run[torch]}, transformers {run[transformers]}.

![training loss](loss.png)

## Scores

Exact match of the generated answer on {run[scenes]} held-out scenes, per kind of prompt; "average" is their
mean.

{rows}

`attngraph pretrain{chosen} --check` computes these again from the checkpoint \
(equal within {run[check_tolerance]}).
{again}

## Use and limits

Made to be adapted and measured in this package's experiments. It knows the drawn shapes, colours and
sentences, and nothing else. Some pairs of colour and shape, textured backgrounds and the downstream wordings
are not in its training.
Where a kind asks for one of two answers, as "more" and most "spatial" prompts do, 50 % is chance. "half" and
"place" ask where one thing is, "spatial" how two things stand to each other.
"""


def write_card(
    folder: Path,
    mini: Mini,
    model: PreTrainedModel,
    run: dict,
    scores: dict[str, float],
    log: list[list[float]],
) -> None:
    """Writes scores.json, training_log.csv, loss.png and README.md into a checkpoint's folder.

    Files ``seed<number>.json`` in the folder, the scores.json of runs with other seeds, become columns of the
    card.

    Args:
        folder: of the checkpoint.
        mini: which model it is.
        model: the checkpoint, for its sizes.
        run: what the card says about the run (seed, steps, recipe, date, minutes, machine, versions,
            tolerances).
        scores: from :func:`~experiments.pretraining.scoring.skill_scores`.
        log: rows of step, running mean of the loss, seconds.
    """
    with whole(folder / "training_log.csv") as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["step", "loss", "seconds"], *log])
    with whole(folder / "loss.png") as part:
        _plot(mini.title, log, part)
    others = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))["scores"]
        for file in sorted(folder.glob("seed*.json"))
    }
    card = TEMPLATE.format(
        title=mini.title,
        about=mini.about(model),
        chosen=option(mini.name),
        run=run,
        rows=_rows(
            {
                f"seed {run['seed']}": scores,
                **{name.replace("seed", "seed "): other for name, other in others.items()},
            }
        ),
        again=_again(
            scores["exact_average"],
            {name: other["exact_average"] for name, other in others.items()},
            run["tolerance"],
        ),
    )
    write_text(folder / "README.md", card)
    # Last: it marks the checkpoint as finished.
    write_json(folder / "scores.json", {"run": run, "scores": scores}, indent=2)


def _rows(runs: dict[str, dict[str, float]]) -> str:
    """A Markdown table: a line per score, a column per run."""
    lines = [["prompt", *runs], ["---", *["---:"] * len(runs)]]
    for name in next(iter(runs.values())):
        if name == "caption_loss":
            lines.append(["loss per caption token", *(f"{scores[name]:.3f}" for scores in runs.values())])
        else:
            title = name.removeprefix("exact_").replace("_", " ")
            lines.append([title, *(f"{100 * scores[name]:.1f} %" for scores in runs.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _again(average: float, others: dict[str, float], tolerance: float) -> str:
    """What a new run of the recipe may be expected to reach."""
    if not others:
        return f"A new run of the command is expected to reach the average within {tolerance:g}."
    largest = max(abs(value - average) for value in others.values())
    return (
        f"A new run of the command is expected to reach the average within {tolerance:g}: the runs with "
        f"other seeds\n(columns above; not shipped) differ from the shipped one by at most {largest:.3f}."
    )


def describe_machine(device: str) -> str:
    """The GPU's name, or the processor's with the number of threads in use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the general name will do
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads != 1)}"


def _plot(title: str, log: list[list[float]], file: Path) -> None:
    figure = Figure(figsize=(5, 3), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.plot([row[0] for row in log], [row[1] for row in log])
    axes.set(xlabel="step", ylabel="loss per answer token (running mean)", title=f"{title} pre-training")
    axes.grid(alpha=0.3)
    figure.savefig(file)
