"""List the names accepted by options and files: methods, tasks, models, tables or schemes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from attngraph.adapters import SCHEMES
from attngraph.experiments.base.shipped import DEFAULT, SHIPPED, abouts
from attngraph.experiments.commands.options import ListOptions
from attngraph.experiments.methods import METHODS
from attngraph.experiments.methods.method import peft_types
from attngraph.experiments.methods.peft import can_train
from attngraph.experiments.models import FAMILIES
from attngraph.experiments.tasks import TASKS, Task


def run(options: ListOptions) -> int:
    """``attngraph list``."""
    lines = list(LISTS[options.what]())
    width = max(len(name) for name, _ in lines)
    print("\n".join(f"{name:<{width}}  {about}".rstrip() for name, about in lines))
    return 0


def _methods() -> Iterator[tuple[str, str]]:
    for name, method in METHODS.items():
        yield name, method.title + f": {method.note}" * bool(method.note)
    of_peft = [name for name in peft_types() if name not in METHODS and can_train(name)]
    yield "TYPE", f"a method of PEFT by the type of its configuration: {', '.join(of_peft)}"


def _tasks() -> Iterator[tuple[str, str]]:
    for name, task in TASKS.items():
        yield name, f"{task.title}; {_data(task)}"


def _data(task: Task) -> str:
    if task.packaged:
        return "data in a package"
    return "synthetic data" if task.drawn is not None else "official files, in the folder of --data"


def _models() -> Iterator[tuple[str, str]]:
    for name, title in SHIPPED.items():
        yield name, f"{title}, {'included' if name == DEFAULT else 'in the repository'}"
    yield "FOLDER, hub:NAME", f"a transformers model of one of these families: {', '.join(FAMILIES)}"


def _schemes() -> Iterator[tuple[str, str]]:
    for name, scheme in SCHEMES.items():
        first = next(iter((scheme.__doc__ or "").strip().splitlines()), "")
        plain = re.sub(r":\w+:`~?(.*?)`", r"\1", first).replace(r"\equiv", "≡")
        yield name, plain.removesuffix(".")


LISTS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "methods": _methods,
    "tasks": _tasks,
    "models": _models,
    "tables": lambda: iter(abouts("table").items()),
    "schemes": _schemes,
}
