"""The files beside the weights of a pre-trained checkpoint: scores, training log, loss curve and README."""

import csv
import json
import platform
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import BlipForConditionalGeneration

TEMPLATE = """# mini-BLIP

`BlipForConditionalGeneration` of Hugging Face transformers in a small configuration, trained from scratch on
drawn scenes.

- Image encoder: {vision.num_hidden_layers} layers, width {vision.hidden_size}, {vision.num_attention_heads}
  heads, {vision.image_size} x {vision.image_size} pixels in patches of {vision.patch_size}.
- Text decoder: {text.num_hidden_layers} layers, width {text.hidden_size}, {text.num_attention_heads} heads,
  causal self-attention and cross-attention to the image, {text.vocab_size} tokens (words, and characters for
  anything else), {text.max_position_embeddings} positions.
- {parameters:,} parameters, stored in float16 (`model.safetensors`).
- A text is `[DEC] prompt answer [SEP]`: the prompt is given, the answer is generated.

## Recipe

    attngraph pretrain --seed {run[seed]} --steps {run[steps]} --out FOLDER

{run[recipe]}

{run[precision]}, no dropout. Trained on {run[date]} in {run[minutes]} minutes on
{run[machine]}{run[remark]}; torch {run[torch]}, transformers {run[transformers]}.

![training loss](loss.png)

## Scores

Exact match of the generated answer on {run[scenes]} held-out scenes, per kind of prompt; "average" is their
mean.

| prompt | exact match |
|---|---|
{rows}

Loss per caption token: {caption_loss:.3f}.

`attngraph pretrain --check` computes these again from the checkpoint (equal within {run[check_tolerance]}).
For a new run of the command, an average within {run[tolerance]} is expected; no second run has been made to
measure it.

## Use and limits

Made to be adapted and measured in this package's experiments. It knows the drawn shapes, colours and
sentences, and nothing else. Some pairs of colour and shape, textured backgrounds and the downstream wordings
are not in its training.
Where a kind asks for one of two answers, as "more" and most "spatial" prompts do, 50 % is chance. "half" and
"place" ask where one thing is, "spatial" how two things stand to each other.
"""


def write_card(
    folder: Path,
    model: BlipForConditionalGeneration,
    run: dict,
    scores: dict[str, float],
    log: list[list[float]],
) -> None:
    """Writes scores.json, training_log.csv, loss.png and README.md into a checkpoint's folder.

    Args:
        run: what the card says about the run (seed, steps, recipe, date, minutes, machine, versions,
            tolerances).
        scores: from `skill_scores`.
        log: rows of step, running mean of the loss, seconds.
    """
    text = json.dumps({"run": run, "scores": scores}, indent=2) + "\n"
    (folder / "scores.json").write_text(text, encoding="utf-8")
    with open(folder / "training_log.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["step", "loss", "seconds"], *log])
    _plot(log, folder / "loss.png")
    exact = {
        name.removeprefix("exact_"): value for name, value in scores.items() if name.startswith("exact_")
    }
    card = TEMPLATE.format(
        vision=model.config.vision_config,
        text=model.config.text_config,
        parameters=model.num_parameters(),
        run=run,
        rows="\n".join(
            f"| {name.replace('_', ' ')} | {100 * value:.1f} % |" for name, value in exact.items()
        ),
        caption_loss=scores["caption_loss"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


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
    return f"{name}, {torch.get_num_threads()} threads"


def _plot(log: list[list[float]], file: Path) -> None:
    figure = Figure(figsize=(5, 3), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.plot([row[0] for row in log], [row[1] for row in log])
    axes.set(xlabel="step", ylabel="loss per answer token (running mean)", title="mini-BLIP pre-training")
    axes.grid(alpha=0.3)
    figure.savefig(file)
