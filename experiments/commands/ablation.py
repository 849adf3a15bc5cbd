"""The GNN ablation table: a preset, or a selection of its rows, tasks and seeds; in Python, a table of any
methods as a data frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import current_process
from operator import index
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from attngraph.errors import UserError
from attngraph.experiments.base.files import check_out
from attngraph.experiments.base.types import MOST_SEED
from attngraph.experiments.commands.options import AblationOptions
from attngraph.experiments.data.dataset import DATA_SETS
from attngraph.experiments.data.records import write_records
from attngraph.experiments.methods.peft import row_name
from attngraph.experiments.runs.plugins import load_plugins
from attngraph.experiments.runs.saved import ROWS
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tables.make import make
from attngraph.experiments.tables.render import table_frame
from attngraph.experiments.tables.table import Table
from attngraph.experiments.tasks import TASKS, tasks_named
from attngraph.names import did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftConfig


def run(options: AblationOptions) -> int:
    """Execute the missing runs, then print and save the table."""
    _table(options)
    return 0


def _table(options: AblationOptions, say: Callable[[str], None] = print) -> Table | None:
    grid = load_preset(options.preset, options.changes).with_settings(options.settings)
    name = Path(options.preset).stem
    out = options.out or Path("runs") / f"ablation-{name}"
    title = grid.title or f"GNN ablation, preset {name}"
    return make(options, options.seeds, grid, title, out, out, say=say)


def compare(
    methods: str | Sequence[str | PeftConfig],
    tasks: str | Sequence[str] | None = None,
    data: str | Path | Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    out: str | Path,
    **options: Any,
) -> pd.DataFrame | None:
    """Train and score methods on tasks, as ``attngraph ablation``, and return the table of ``ablation.csv``.

    >>> attngraph.compare(["gcn", "pgnn", LoraConfig(r=4)], "vqa", seeds=5, out="runs/three")

    Runs are in ``out``; finished ones are not repeated, so a second call with more seeds adds these. They run
    in worker processes, so a script must call this below ``if __name__ == "__main__":``.

    Args:
        methods: names of rows (``attngraph list methods``, or a type of PEFT configurations such as ``ia3``)
            and PEFT configurations, whose target modules are chosen on the language side where they are None.
            Each is saved in ``out/rows``, from which the command can run it: ``--plugin
            FOLDER/adapter_config.json``. The reference rows of the preset are added.
        tasks: names of tasks; None for the preset's.
        data: a folder of datasets, as for ``--data``; None for synthetic data. For tasks on official
            files also records for ``train``, ``validation`` and ``test``, as in a ``datasets.DatasetDict``
            (:mod:`attngraph.experiments.data.records`), which are saved in ``out/records``.
        seeds: number of seeds of each method, or distinct seeds; None for the preset's.
        out: folder for runs and tables.
        options: other options of the command by their names, such as ``preset="full"``,
            ``model="models/blip"``, ``device="cuda"``, ``on=["jobs=2"]`` or
            ``changes=["runs.recipe.steps=100"]`` (``--set``).

    Returns:
        A line for each row: ``name``, ``group``, for each column of a task its ``<column>_mean`` and ``_std``
        over seeds (fractions; CIDEr at most 10), ``_n`` seeds and ``_p_adjusted`` (Holm-adjusted p-value of
        the difference from the baseline, where compared), then ``parameters``, ``seconds``, ``peak_mb`` and
        ``note``. Under ``torchrun``, None in all processes but the first.

    Raises:
        UserError: in the same cases as the command, and in a worker process that imports the script.
    """
    if getattr(current_process(), "_inheriting", False):
        raise UserError(
            "a worker process imports this script, and would start the table again: call compare below "
            '`if __name__ == "__main__":`'
        )
    known = [
        name for name in AblationOptions.__dataclass_fields__ if name not in ("rows", "download", "dry_run")
    ]
    if wrong := [name for name in options if name not in known]:
        near = did_you_mean(wrong[0], known)
        raise UserError(f"compare has no option {wrong[0]!r}{near}: choose from {', '.join(known)}")
    for name, kind in (("preset", str), ("on", tuple), ("changes", tuple)):
        if name in options:
            options[name] = kind(options[name])
    methods = (methods,) if isinstance(methods, str) else methods
    tasks = (tasks,) if isinstance(tasks, str) else tasks and tuple(tasks)
    check_out(Path(out))
    if not isinstance(data, (str, Path, Mapping, NoneType)):
        raise UserError("the records are not given by split: pass a dictionary of train, validation and test")
    if isinstance(data, Mapping):
        data = _written(data, tasks or (), Path(out) / "records")
    table = _table(
        AblationOptions(
            rows=tuple(x if isinstance(x, str) else _saved(x, Path(out)) for x in methods),
            tasks=tasks,
            data=None if data is None else Path(data),
            seeds=None if seeds is None else _seeds(seeds),
            out=Path(out),
            **options,
        ),
        say=lambda text: None,
    )
    return None if table is None else table_frame(table)


def _seeds(seeds: int | Sequence[int]) -> Sequence[int]:
    """The seeds, or those from 0 if their number is given."""
    try:
        listed = list(map(index, seeds if isinstance(seeds, Iterable) else range(index(seeds))))
    except TypeError:
        listed = []
    if not listed or len(set(listed)) < len(listed) or not 0 <= min(listed) <= max(listed) < MOST_SEED:
        raise UserError(
            f"seeds={seeds!r}: use a number of seeds such as 5, or distinct seeds such as [0, 1, 4], all of "
            f"them from 0 to {MOST_SEED - 1}"
        )
    return listed


def _saved(config: PeftConfig, out: Path) -> str:
    """The name of a configuration's row, which worker processes read from a file."""
    name = row_name(config)
    folder = out / ROWS / name
    config.save_pretrained(str(folder))
    load_plugins([folder / "adapter_config.json"])
    return name


def _written(data: Mapping[str, Any], tasks: Sequence[str], folder: Path) -> Path:
    """A folder with the records, which worker processes read, as the data of each task."""
    for task in tasks_named(tasks).values():
        if task.data_set is None:
            names = ", ".join(name for name, one in TASKS.items() if one.data_set is not None)
            raise UserError(f"task {task.name} reads no records: choose from {names}")
        write_records(data, DATA_SETS[task.data_set], task.takes_text, task.file_format.labels, folder)
    return folder
