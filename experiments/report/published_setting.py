"""The setting of the published results: what is known of it, task by task, with the source of each item.

What neither the paper nor its code tells is :data:`UNKNOWN`. :mod:`experiments.report.overview.here` reads
the same items of runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PAPER, CODE, FILES = "paper", "code", "files"
SOURCES = "Sources: the p-adapter paper (AAAI-24), the code released with it, and the files of the data sets."
UNKNOWN = "unknown"
TASKS = ("vqa2", "vizwiz_vqa", "snli_ve", "coco", "textcaps", "vizwiz_caps")
QUESTIONS, CAPTIONS = ("vqa2", "vizwiz_vqa", "snli_ve"), ("coco", "textcaps", "vizwiz_caps")

Value = str | int | float | bool


@dataclass(frozen=True)
class Item:
    """One thing that a setting decides.

    Args:
        what: in words.
        reader: the name under which :mod:`experiments.report.overview.here` reads it of a run.
        source: where it is from.
        values: task -> what was published; several where the best of them was taken. A task that is left out
            is :data:`UNKNOWN`.
        note: what else is to be known.
    """

    what: str
    reader: str
    source: str
    values: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    note: str = ""


def _all(*values: Value) -> dict[str, Sequence[Value]]:
    return dict.fromkeys(TASKS, values)


def _three(vqa: Value, entailment: Value, coco: Value) -> dict[str, Sequence[Value]]:
    """What the code says, which trains on three tasks only."""
    return {"vqa2": (vqa,), "snli_ve": (entailment,), "coco": (coco,)}


ITEMS: tuple[Item, ...] = (
    Item(
        "pre-trained model",
        "model",
        f"{PAPER}, {CODE}",
        _all("BLIP CapFilt-L (model_base_capfilt_large)"),
        "ViT-B/16 and a 12-layer text decoder of width 768; no question encoder",
    ),
    Item("image encoder of adapters", "vision", PAPER, _all("frozen")),
    Item("side of pictures, pixels", "side", PAPER, _all(224)),
    Item("pictures changed in training", "augment", PAPER, _all(True), "random crops, RandAugment"),
    Item(
        "training examples",
        "trained_on",
        f"{PAPER} (Karpathy's split), {FILES}",
        {"vqa2": (605_102,), "snli_ve": (529_527,), "coco": (113_287,), "textcaps": (21_953,)},
        "of captions: pictures",
    ),
    Item(
        "scored examples",
        "examples",
        f"{PAPER} (Karpathy's test split), {FILES}",
        {"vqa2": (26_280,), "snli_ve": (17_901,), "coco": (5_000,)},
    ),
    Item(
        "epochs",
        "epochs",
        PAPER,
        {**dict.fromkeys(QUESTIONS, (5,)), **dict.fromkeys(CAPTIONS, (10,))},
        "of captions: passes over the pictures, one of five captions each; 2 epochs of all captions",
    ),
    Item(
        "examples in a step",
        "batch_size",
        f"8, 8 and 16 on a GPU ({CODE}), 8 GPUs ({PAPER})",
        _three(64, 64, 128),
    ),
    Item(
        "learning rate of adapters",
        "adapter_rate",
        f"{PAPER}: the best of these; {CODE}: 5e-4 for VQA2.0 and SNLI-VE, 3e-4 for COCO",
        _all(1e-4, 2e-4, 5e-4, 1e-3) | {"coco": (1e-4, 2e-4, 3e-4, 5e-4, 1e-3)},
    ),
    Item("learning rate of full fine-tuning", "full_rate", PAPER, _all(2e-5)),
    Item("learning rate goes down", "schedule", PAPER, _all("linear")),
    Item("share of steps to warm up", "warmup", ""),
    Item("weight decay (AdamW)", "weight_decay", PAPER, _all(0.05)),
    Item("label smoothing", "label_smoothing", CODE, _three(0.1, 0.1, 0.1)),
    Item("limit of the gradient norm", "clip", CODE, _three(1.0, 1.0, 1.0)),
    Item("precision", "precision", ""),
    Item("adapters stand after", "positions", PAPER, _all("self, cross, ffn"), "in the text decoder"),
    Item("width of the model / of the bottleneck", "reduction", PAPER, _all(8), "96 of 768"),
    Item("way to join the model", "join", PAPER, _all("replace"), "the released code has a gate"),
    Item("degrees of values", "degree", PAPER, _all("sum")),
    Item("p at the start (pGNN)", "p", CODE, _three(1.25, 1.5, 1.75)),
    Item("p is learned (pGNN)", "learn_p", PAPER, _all(True)),
    Item("μ (pGNN)", "mu", CODE, _three(0.1, 10.0, 0.1)),
    Item(
        "answers",
        "answers",
        CODE,
        _three("best of a list, k 32", "best of a list, k 3", "5 beams, 5 to 40 tokens, prompt included"),
    ),
    Item(
        "scored by",
        "evaluator",
        CODE,
        {"vqa2": ("min(0.3 · matches, 1), exact strings without normalisation",)},
    ),
)
