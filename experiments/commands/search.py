"""Choose learning rates, joins and the schemes' arguments on validation data, with the same budget for each
GNN; :mod:`experiments.tables.search` says what is tried.
"""

from __future__ import annotations

from attngraph.errors import UserError
from experiments.base.files import write_text
from experiments.base.outputs import Outputs, check_folder
from experiments.base.progress import note
from experiments.commands.options import SearchOptions
from experiments.methods.settings import write_settings
from experiments.runs.device import processes
from experiments.runs.execution import execution_of, in_folder
from experiments.runs.prepare import prepare
from experiments.tables.checkpoints import check_checkpoints
from experiments.tables.grid import load_preset
from experiments.tables.make import wanted_of
from experiments.tables.race import FURTHER, Trial
from experiments.tables.search import FROZEN, Search
from experiments.tables.search_report import how_to_use, search_report

NAMES = ("trials.csv", "search.md", "settings.yaml")


def run(options: SearchOptions) -> int:
    """Run the races; a second call continues."""
    grid = load_preset(options.preset, options.changes)
    execution = execution_of(options, options.out)
    search = Search(grid, wanted_of(options, None), options.data or options.out / "data", execution)
    check_folder(options.out, "search")
    return in_folder(execution, lambda: _search(options, search))


def _search(options: SearchOptions, search: Search) -> int:
    """Run the races and save what they choose."""
    out, is_main = options.out, processes(options.device).is_main_process
    cells = [search.cell(Trial(FROZEN, task)) for task in search.tasks]
    outputs = Outputs(out, "search", search.about(), NAMES)
    if is_main:
        outputs.check()
    scenes = search.grid.scenes if options.data is None else None
    prepare(cells, search.execution, scenes, options.download)
    if is_main:
        outputs.claim()
    _note_checkpoints(search)
    settings = search.run()
    if not is_main:
        return 0
    file = out / "settings.yaml"
    write_settings(file, settings)
    report = search_report(search)
    write_text(out / "search.md", report)
    print(report + "\n" + file.read_text(encoding="utf-8"))
    note(
        f"\nsaved: {out}/trials.csv, search.md, settings.yaml\nto use these settings in attngraph ablation: "
        f"{how_to_use(file, [*search.tasks])}"
    )
    return 0


def _note_checkpoints(search: Search) -> None:
    """Say early what finalists need hours later."""
    seeds = range(1 + FURTHER)
    try:
        check_checkpoints([search.cell(Trial(FROZEN, task, seed=n)) for n in seeds for task in search.tasks])
    except UserError as error:
        note(f"for the finalists, after the first stage: {error}")
