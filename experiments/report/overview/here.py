"""How runs were made, beside the published setting."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from adapters import SCHEMES, GraphAdapterConfig
from experiments.methods import method_named
from experiments.models.weights import weights_digest
from experiments.report.overview.blocks import Grid
from experiments.report.overview.found import Found
from experiments.report.overview.grouped import Series
from experiments.report.published import DRAWN
from experiments.report.published_setting import ITEMS, PAPER, TASKS, UNKNOWN, Item, Value
from experiments.report.wording import listed
from experiments.shipped import CHECKPOINTS, SHIPPED
from experiments.tasks.task import Task
from experiments.training.answering import GENERATE

SHIPS = " (ships with the package)"
NOT_RECORDED = "not recorded"
SAME, DIFFERS, OPEN = "same", "differs", "cannot be told"
NEAR = 0.01  # share by which numbers may differ that count as equal

HEAD = ("Setting", "Task", "Published", "Here", "Verdict", "Source, remark")
ALL = "all"
WHOLE = ("full", "decoder", "text")  # methods that train the model's own weights


def setting_grid(rows: Sequence[Series], tasks: Sequence[Task]) -> Grid | None:
    """Every item of the published setting beside the same item of runs; None where no task is like one of the
    published ones. Tasks with the same content of a line share it.
    """
    likes = {task.name: like for task in tasks if (like := published_task(task.name)) in TASKS}
    if not likes:
        return None
    own = {name: _of_task(rows, name) for name in likes}
    lines: list[list[str]] = []
    for item in ITEMS:
        remark = "; ".join(filter(None, (item.source, item.note)))
        found: dict[tuple[str, str, str], list[str]] = {}
        for task in (task for task in tasks if task.name in likes):
            here = values_of(item, own[task.name])
            if here:
                published = item.values.get(likes[task.name], ())
                content = (_published(published), _told(here), verdict(published, list(here)))
                found.setdefault(content, []).append(task.title.partition(" (")[0])
        what = item.what
        for (published_text, told, equal), titles in found.items():
            which = listed(titles) if len(found) > 1 or len(likes) == 1 else ALL
            lines.append([what, which, published_text, told, equal, remark])
            what = remark = ""  # said once
    seeds = sorted({len(runs) for of_task in own.values() for _, runs in of_task})
    many = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    equal = SAME if seeds == [1] else DIFFERS
    lines.append(["seeds of a row", ALL, "1", many, equal, f"{PAPER}; no spread is reported"])
    return Grid(HEAD, lines, reads=True, strong=DIFFERS)


def published_task(name: str) -> str:
    """The published task that a task is like: itself, or the one whose data its scenes imitate."""
    return {drawn: official for official, drawn in DRAWN.items()}.get(name, name)


def _of_task(rows: Sequence[Series], name: str) -> list[tuple[Series, list[Found]]]:
    """The rows that have runs on a task, with these."""
    own = [(row, [run for (task, _), run in row.runs.items() if task == name]) for row in rows]
    return [(row, runs) for row, runs in own if runs]


def values_of(item: Item, own: Sequence[tuple[Series, Sequence[Found]]]) -> dict[Value, list[str]]:
    """Value -> titles of the rows that have it; rows to which the item does not apply are left out."""
    here: dict[Value, list[str]] = {}
    for row, runs in own:
        for run in runs:
            value = READERS[item.reader](run)
            if value is not None and row.title not in here.setdefault(value, []):
                here[value].append(row.title)
    return here


def verdict(published: Sequence[Value], here: Sequence[Value]) -> str:
    """Whether all runs have one of the published values."""
    if not published or any(isinstance(value, str) and NOT_RECORDED in value for value in here):
        return OPEN
    return SAME if all(any(_equal(one, value) for one in published) for value in here) else DIFFERS


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=NEAR)


def _published(values: Sequence[Value]) -> str:
    if not values:
        return UNKNOWN
    *others, last = map(in_words, values)
    return f"{', '.join(others)} or {last}" if others else last


def _told(here: Mapping[Value, Sequence[str]]) -> str:
    if len(here) == 1:
        return in_words(next(iter(here)))
    return "; ".join(f"{in_words(value)} ({listed(titles)})" for value, titles in here.items())


def in_words(value: Value) -> str:
    """A value as it is printed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else value


# ---- readers: the value that a run has, None where the item does not apply to it -------------------------


def model_in_words(weights: str) -> str:
    """Pre-trained weights, as far as they can be named."""
    if weights in _shipped():
        return SHIPPED[_shipped()[weights]] + SHIPS
    is_digest = len(weights) == 24 and set(weights) <= set("0123456789abcdef")
    return f"a checkpoint with digest {weights[:8]}" if is_digest else weights


def _model(run: Found) -> Value:
    named = model_in_words(run.weights)
    return named if named.endswith(SHIPS) else f"{named}; its origin is {NOT_RECORDED}"


def _vision(run: Found) -> Value | None:
    method = method_named(run.method)
    return method.vision if method.trains and method.name not in WHOLE else None


def _side(run: Found) -> Value:
    side = run.settings.get("side")
    if side is None and run.weights in _shipped():
        return _shipped_side(_shipped()[run.weights])
    return NOT_RECORDED if side is None else side


def _epochs(run: Found) -> Value | None:
    recipe = run.settings.get("recipe") or {}
    if not {"steps", "batch_size"} <= recipe.keys() or not run.result["trained_on"]:
        return None
    size = min(recipe["batch_size"], run.result["trained_on"])
    return round(recipe["steps"] * size / run.result["trained_on"], 2)


def _rate(run: Found, of_full: bool) -> Value | None:
    is_full = run.method in WHOLE
    return _recipe(run, "learning_rate", None) if is_full == of_full else None


def _recipe(run: Found, name: str, default: Value | None) -> Value | None:
    recipe = run.settings.get("recipe")
    return recipe.get(name, default) if recipe else None


def _adapter(run: Found, name: str) -> Value | None:
    """A setting of a graph adapter; its configuration's default where the run names none."""
    settings = _of_method(run)
    if "gnn" not in settings:
        return None
    value = settings.get(name, GraphAdapterConfig.__dataclass_fields__[name].default)
    return ", ".join(value) if isinstance(value, (list, tuple)) else value


def _argument(run: Found, name: str, schemes: Sequence[str] | None = None) -> Value | None:
    """An argument of the scheme that an adapter runs."""
    gnn = _of_method(run).get("gnn")
    if gnn not in SCHEMES or (schemes is not None and gnn not in schemes):
        return None
    known = inspect.signature(SCHEMES[gnn]).parameters
    if name not in known:
        return None
    return _of_method(run).get("gnn_args", {}).get(name, known[name].default)


def _of_method(run: Found) -> Mapping[str, Any]:
    settings = run.settings.get("settings")
    return settings if isinstance(settings, Mapping) else {}


def _answers(run: Found) -> Value:
    about = run.result.get("answering")
    if not about:
        return NOT_RECORDED
    if about["way"] != GENERATE:
        return f"best of a list, k {about['k']}"
    beams = "greedy" if about["beams"] == 1 else f"{about['beams']} beams"
    length = f"{about['least']} to" if about.get("least") else "at most"
    return f"{beams}, {length} {about['tokens']} tokens" + ", prompt included" * ("released" in about)


READERS: dict[str, Callable[[Found], Value | None]] = {
    "model": _model,
    "vision": _vision,
    "side": _side,
    "augment": lambda run: _recipe(run, "augment", False),
    "trained_on": lambda run: run.result["trained_on"] if run.settings.get("recipe") else None,
    "examples": lambda run: run.result["examples"],
    "epochs": _epochs,
    "batch_size": lambda run: _recipe(run, "batch_size", None),
    "adapter_rate": lambda run: _rate(run, of_full=False),
    "full_rate": lambda run: _rate(run, of_full=True),
    "schedule": lambda run: _recipe(run, "schedule", "linear"),
    "warmup": lambda run: _recipe(run, "warmup", None),
    "weight_decay": lambda run: _recipe(run, "weight_decay", None),
    "label_smoothing": lambda run: _recipe(run, "label_smoothing", None),
    "clip": lambda run: _recipe(run, "clip", None),
    "precision": lambda run: str(run.config.get("precision", NOT_RECORDED)),
    "positions": lambda run: _adapter(run, "positions"),
    "reduction": lambda run: _adapter(run, "reduction"),
    "join": lambda run: _adapter(run, "join"),
    "degree": lambda run: _argument(run, "degree"),
    "p": lambda run: _argument(run, "p", ("pgnn",)),
    "learn_p": lambda run: _argument(run, "learn_p", ("pgnn",)),
    "mu": lambda run: _argument(run, "mu", ("pgnn",)),
    "answers": _answers,
    "evaluator": lambda run: run.result.get("evaluator") or NOT_RECORDED,
}


@cache
def _shipped() -> dict[str, str]:
    """Digest -> name of a model that ships with the package."""
    return {weights_digest(name): name for name in SHIPPED}


@cache
def _shipped_side(name: str) -> int:
    config = json.loads((CHECKPOINTS / name / "config.json").read_text(encoding="utf-8"))
    return config["vision_config"]["image_size"]
