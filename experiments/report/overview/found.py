"""The finished runs of the folders that a user names, each of them once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attngraph.errors import UserError
from experiments.known import check_known
from experiments.methods import method_named
from experiments.progress import Progress
from experiments.report.ablation import RESULTS
from experiments.report.archive import PATTERN, cell_of, unpack
from experiments.tasks import TASKS
from experiments.training.saved import CONFIG, SCORES, read_config, read_result

#: Parts of a run's settings that say which place of a table it takes, or on which examples it was scored.
PLACE = ("label", "method", "task", "seed", "weights", "data", "split", "eval_examples")
OUTCOME = ("scores", "kinds", "examples", "loss")  # of ``scores.json``: equal in runs that are the same


@dataclass(frozen=True, eq=False)
class Found:
    """A finished run.

    Args:
        folder: where its files can be read.
        source: what the user named.
        place: what the user knows as the run's place.
        method, task, seed: of the run.
        config: its ``config.json``.
        result: its ``scores.json``.
    """

    folder: Path
    source: Path
    place: str
    method: str
    task: str
    seed: int
    config: Mapping[str, Any]
    result: dict[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decided its result."""
        return self.config["settings"]

    @property
    def weights(self) -> str:
        """The pre-trained weights that it started from."""
        return str(self.settings.get("weights", "unknown"))

    @cached_property
    def examined(self) -> tuple[Any, ...]:
        """On which examples it was scored."""
        asked = (self.settings.get(name) for name in ("data", "split", "eval_examples"))
        return (*asked, self.result["examples"])

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """All other settings, by dotted name."""
        return flat({name: value for name, value in self.settings.items() if name not in PLACE})

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """Machine, device, versions and the like, by dotted name."""
        return flat({name: value for name, value in self.config.items() if name != "settings"})

    @property
    def outcome(self) -> tuple[Any, ...]:
        """What two runs have in common that are the same."""
        return tuple(self.result.get(name) for name in OUTCOME)


def flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    held: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            held.update(flat(value, f"{above}{name}."))
        else:
            held[above + name] = value
    return held


@dataclass(frozen=True)
class Search:
    """What was found.

    Args:
        runs: finished ones.
        unfinished: number of runs that have begun and not ended.
    """

    runs: Sequence[Found]
    unfinished: int


@contextmanager
def found_runs(sources: Sequence[Path]) -> Iterator[Search]:
    """The runs in folders of tables, folders of single runs, and folders of archives; their files can be read
    while the block runs.

    Raises:
        UserError: a folder holds no finished run, a file is damaged, or a row or task is not known.
    """
    with ExitStack() as stack:
        cells: list[tuple[Path, Path, str]] = []
        unfinished = 0
        for source in dict.fromkeys(sources):
            own, begun = _cells(source, stack)
            if not own:
                began = f", {begun} that began" if begun else ""
                raise UserError(
                    f"{source} holds no finished run ({CONFIG}, {SCORES}{began}): give the folder of a "
                    f"table, of a run, or of archives ({PATTERN})"
                )
            cells += [(cell, source, place) for cell, place in own]
            unfinished += begun
        once = {cell.resolve(): (cell, source, place) for cell, source, place in reversed(cells)}
        bar = Progress(list(reversed(once.values())), desc="runs", unit="", leave=False, delay=2)
        yield Search([_read(*one) for one in bar], unfinished)


def _cells(source: Path, stack: ExitStack) -> tuple[list[tuple[Path, str]], int]:
    """The folders of finished runs with what the user knows as their place, and how many have not ended."""
    if not source.is_dir():
        raise UserError(f"{source} is no folder: give the folder of a table, of a run, or of archives")
    if (source / CONFIG).is_file() or (source / SCORES).is_file():
        is_whole = (source / SCORES).is_file()
        return [(source, str(source))] * is_whole, int(not is_whole)
    has_cells = (source / "cells").is_dir()
    if not has_cells and (source / RESULTS).is_file() and (source.parent / "cells").is_dir():
        return _of_table(source), 0
    archives = sorted(source.glob(PATTERN))
    if archives and not has_cells:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="attngraph-")))
        cells = []
        for archive in archives:
            unpack(archive, scratch / archive.name)
            for file in sorted((scratch / archive.name).glob(f"cells/*/*/seed*/{SCORES}")):
                shown = archive / file.parent.relative_to(scratch / archive.name)
                cells.append((file.parent, str(shown)))
        return cells, 0
    begun = {file.parent for file in source.glob(f"cells/*/*/seed*/{CONFIG}")}
    ended = {file.parent for file in source.glob(f"cells/*/*/seed*/{SCORES}")}
    order = sorted(ended, key=lambda cell: (*cell_of(cell)[:2], cell_of(cell)[2]))
    return [(cell, str(cell)) for cell in order], len(begun - ended)


def _of_table(source: Path) -> list[tuple[Path, str]]:
    """The runs of a table whose folder stands beside the cells that several tables share."""
    file = source / RESULTS
    try:
        held = json.loads(file.read_text(encoding="utf-8"))["cells"]
        places = [(str(one["row"]), str(one["task"]), f"seed{int(one['seed'])}") for one in held]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({type(error).__name__}): make the table again") from None
    cells = [source.parent.joinpath("cells", *place) for place in places]
    if missing := [cell for cell in cells if not (cell / SCORES).is_file()]:
        raise UserError(f"{missing[0]}, of which {file} tells, is missing: make the table again")
    return [(cell, str(cell)) for cell in cells]


def _read(cell: Path, source: Path, place: str) -> Found:
    config = read_config(cell)
    row, task, seed = cell_of(cell)
    if not place.endswith(f"{row}/{task}/seed{seed}") or "label" in config["settings"]:
        settings = config["settings"]
        row, task, seed = (settings.get(name) for name in ("label", "task", "seed"))
    _check(cell, config["settings"])
    method = config["settings"].get("method", row)
    try:
        if not isinstance(method, str) or not isinstance(task, str):
            raise UserError(f"{CONFIG} names no method or no task")
        method_named(method)
        check_known([task], list(TASKS), "task")
    except UserError as error:
        raise UserError(f"{place}: {error}, or load its file with --plugin FILE") from None
    return Found(cell, source, place, method, task, seed, config, read_result(cell, row, TASKS[task], seed))


def _check(cell: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError where a run's settings are not what cells write."""
    recipe, of_method = settings.get("recipe") or {}, settings.get("settings") or {}
    wrong = [
        name
        for name, value in (
            ("recipe", recipe),
            ("settings", of_method),
            ("gnn_args", _in(of_method, "gnn_args", {})),
        )
        if not isinstance(value, Mapping)
    ]
    for name in ("steps", "batch_size", "learning_rate"):
        wrong += [] if isinstance(_in(recipe, name, 1), (int, float)) else [name]
    if wrong:
        raise UserError(f"{cell / CONFIG} is damaged ({wrong[0]}): delete the folder {cell} and run again")


def _in(content: Any, name: str, default: Any) -> Any:
    return content.get(name, default) if isinstance(content, Mapping) else default
