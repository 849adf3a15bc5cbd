"""The runs of a table: rows × tasks × seeds, with fields of all runs or of those of one task.

A :class:`Grid` is one YAML file (``presets``: of ``attngraph ablation``), or two files, of which the second
defines the scale (``tables`` and ``sizes``: of ``attngraph table``). Options of the commands change its
fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, PlainValidator, model_validator

from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, file_named, read_config, read_yaml
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.base.types import MOST_SEED
from attngraph.experiments.methods import GraphAdapter, Method
from attngraph.experiments.methods.method import known_methods
from attngraph.experiments.methods.peft import ConfigMethod
from attngraph.experiments.methods.settings import Settings, chosen_settings
from attngraph.experiments.runs.changes import with_changes
from attngraph.experiments.runs.experiment import Experiment, Part, Scenes, laid_over
from attngraph.experiments.runs.plan import written_out
from attngraph.experiments.tasks import TASKS, Task

ADAPTERS = "adapters"  # in a grid's rates: all graph adapters
PEFT = "peft"  # likewise: all methods by the types of PEFT's configurations
MOST_SEEDS = 1000  # of a row
REMEDY = "use a file written by attngraph search or attngraph sweep"

#: Places of the checkpoints of pre-training seeds, other than the shipped one.
CHECKPOINTS = (
    Path("runs/checkpoints"),
    Path(__file__).parents[1] / "results" / "distances" / "checkpoints",
)


def _seeds(value: Any) -> Any:
    """Check a number for all rows, or one for each."""
    counts = value.values() if isinstance(value, dict) else [value or None]
    names = value if isinstance(value, dict) else ()
    if not all(isinstance(name, str) for name in names) or not all(
        type(count) is int and 0 <= count <= MOST_SEEDS for count in counts
    ):
        raise ValueError(f"use an integer from 1 to {MOST_SEEDS}, or one for each method")
    return value


def _checkpoints(value: Any) -> Any:
    """Check a number of checkpoints, or a list of pre-training seeds."""
    seeds = value if isinstance(value, list) else range(value) if type(value) is int else []
    if (
        not 1 <= len(seeds) <= MOST_SEEDS
        or not all(type(seed) is int and 0 <= seed < MOST_SEED for seed in seeds)
        or len({*seeds}) < len(seeds)
    ):
        raise ValueError(
            f"use a number of checkpoints from 1 to {MOST_SEEDS}, or a list of distinct pre-training seeds"
        )
    return value


class Grid(Config):
    """The runs of a table.

    Args:
        about: one line for ``--help``.
        title: title of the table.
        rows: block of the table -> its methods, in their order; empty if ``seeds`` names the rows, which are
            then in the blocks of their methods.
        seeds: number of seeds of every row; or method -> number of seeds.
        tasks: tasks in the order of the columns; null for all with available data.
        runs: fields of all runs.
        by_task: task -> fields of its runs; null skips the task unless it is requested.
        scenes: the synthetic data.
        checkpoints: pre-trained checkpoints, to which the seeds are assigned in turn: their number (the
            shipped one and those of the next pre-training seeds), or a list of pre-training seeds, of which 0
            is that of the shipped checkpoint.
        settings: settings chosen on validation data, for methods on tasks or on the tasks that these are
            like; null for the shipped settings; a table's size without this field does not use settings.
        rates: method -> learning rates with which ``attngraph sweep`` begins, and which ``attngraph search``
            tries with all seeds; :data:`ADAPTERS` for all graph adapters and :data:`PEFT` for all methods of
            PEFT's types without a separate entry.
        baseline: the method that the others are compared with.
        contenders: the methods to compare, the best of which is marked; null for the GNN adapters.
        contest: word for the contenders in notes.
        notes: sentences under the table.
        published: names of the blocks of published numbers.
        axis: the number that sets the rows apart, of :data:`attngraph.experiments.tables.table.AXES`: the
            figure has it as its x axis. None for a forest plot.
        forgetting: of a table of one task, another task whose loss is compared before and after training. The
            table then has a folder in the layout of PEFT's method comparison
            (:mod:`attngraph.experiments.tables.method_comparison`).
    """

    about: str
    title: str = ""
    rows: dict[str, list[str]] = Field(default_factory=dict)
    seeds: Annotated[int | dict[str, int], PlainValidator(_seeds)] = 1
    tasks: list[str] | None = None
    runs: Part = Part()
    by_task: dict[str, Part | None] = Field(default_factory=dict)
    scenes: Scenes = Scenes()
    checkpoints: Annotated[int | list[int], PlainValidator(_checkpoints)] = 1
    settings: Settings | None = None
    rates: dict[str, Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=2)]] = Field(
        default_factory=dict
    )
    baseline: str = "gcn"
    contenders: list[str] | None = None
    contest: str = "GNN adapter"
    notes: list[str] = Field(default_factory=list)
    published: list[str] = Field(default_factory=list)
    axis: Literal["width", "p"] | None = None
    forgetting: str | None = None

    @model_validator(mode="after")
    def _rows_fit(self):
        named = [name for rows in self.rows.values() for name in rows]
        if twice := [name for name in named if named.count(name) > 1]:
            raise ValueError(f"rows contain {twice[0]!r} twice: remove one of them")
        if not self.counts:
            raise ValueError(
                "the table has no rows: name them in rows, or set the number of seeds of each method, such "
                "as seeds: {gcn: 3} (--seeds is for all rows)"
            )
        if self.rows and (wrong := {*named} ^ {*self.counts}):
            raise ValueError(f"{min(wrong)!r} is in only one of rows and seeds: add or remove it")
        if self.tasks == []:
            raise ValueError("tasks is empty: name a task, or remove tasks")
        if self.forgetting is not None and (self.tasks is None or len(self.tasks) != 1):
            raise ValueError("forgetting is for a table of one task: name it in tasks")
        for field, given in (("baseline", [self.baseline]), ("contenders", self.contenders or [])):
            if self.rows and (wrong := [name for name in given if name not in named]):
                raise ValueError(f"{field} contains {wrong[0]!r}, which is not a row: add or remove it")
        return self

    @property
    def blocks(self) -> dict[str, str]:
        """Method -> its block, in the order of the rows; empty if the methods define their blocks."""
        return {name: block for block, names in self.rows.items() for name in names}

    @property
    def counts(self) -> dict[str, int]:
        """Method -> number of seeds, in the order of the rows."""
        if isinstance(self.seeds, int):
            return dict.fromkeys(self.blocks, self.seeds)
        return dict(self.seeds)

    @property
    def pretrained(self) -> Sequence[int]:
        """The pre-training seeds of the checkpoints."""
        return range(self.checkpoints) if isinstance(self.checkpoints, int) else self.checkpoints

    @property
    def own_settings(self) -> Settings:
        """The settings chosen for its runs, as in a settings file."""
        return chosen_settings() if self.settings is None else self.settings

    def model_of(self, seed: int) -> str | None:
        """The model that a seed's runs start from: seeds are assigned to the checkpoints in turn. The
        checkpoint of pre-training seed 0 is the shipped one (None).
        """
        pretrained = self.pretrained
        number = pretrained[seed % len(pretrained)]
        if number == 0:
            return None
        places = [folder / f"seed{number}" for folder in CHECKPOINTS]
        return str(next((place for place in places if place.is_dir()), places[0]))

    def part(self, task: Task) -> dict[str, Any]:
        """Fields of a task's runs."""
        own = self.by_task.get(task.name) or Part()
        return laid_over(self.runs.said(), own.said())

    def experiment(self, method: str, task: Task, **more: Any) -> Experiment:
        """The experiment file of a run: the grid's fields and further ones."""
        return Experiment(method=method, task=task.name, **laid_over(self.part(task), more))

    def rates_of(self, method: Method) -> list[float]:
        """The learning rates with which a sweep of a method begins, in increasing order.

        Raises:
            UserError: the file does not have any.
        """
        kinds = {GraphAdapter: ADAPTERS, ConfigMethod: PEFT}
        kind = next((name for kind, name in kinds.items() if isinstance(method, kind)), method.name)
        found = self.rates.get(method.name) or self.rates.get(kind)
        if found is None:
            names = " or ".join(dict.fromkeys((method.name, kind)))
            raise UserError(f"the size has no rates for {names}: add rates: {{{method.name}: [1e-4, 3e-4]}}")
        return sorted(set(found))

    def with_settings(self, file: Path | None) -> Grid:
        """The grid with settings from a file written by ``attngraph search``: its entries for a method and
        task take precedence; fields that it does not set are unchanged.
        """
        if file is None:
            return self
        given = read_config(file, Settings, REMEDY)
        _check_names(given, f"{file}")
        return self.model_copy(update={"settings": written_out(self.own_settings, given)})


def load_preset(preset: str, words: Sequence[str] = ()) -> Grid:
    """A preset by its name, or by the path of a YAML file.

    Args:
        preset: name or path.
        words: changes of its values, as for ``--set``.

    Raises:
        UserError: no such preset, or a damaged file.
    """
    return _loaded({"preset": preset}, words)


def load_table(table: str, size: str, words: Sequence[str] = ()) -> Grid:
    """A table of a size, each by name or path.

    Raises:
        UserError: no such table or size, or a damaged file; or both files set the same field.
    """
    return _loaded({"table": table, "size": size}, words)


def _loaded(named: dict[str, str], words: Sequence[str]) -> Grid:
    content: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for what, name in named.items():
        file = file_named(name, what)
        remedy = f"see experiments/configs/{what}s for examples"
        said = read_yaml(file, remedy)
        if not isinstance(said, dict):
            raise UserError(f"{file}: must consist of fields with values (name: value); {remedy}")
        if twice := [field for field in said if field in content and field != "about"]:
            raise UserError(f"{file}: {origin[twice[0]]} sets {twice[0]}, too: remove it from one of them")
        content, origin = {**said, **content}, {**dict.fromkeys(said, file), **origin}
    if "size" in named:
        content.setdefault("settings", {})

    def source(field: str) -> str:
        return f"{origin.get(field.partition('.')[0], file)}"

    grid = with_changes(content, words, Grid, source, remedy)
    compared = [grid.baseline, *(grid.contenders or [])]
    others = filter(None, [grid.forgetting])
    _check_names(grid.settings or Settings(), f"{file}", grid.rates, compared, others)
    return grid


def _check_names(
    settings: Settings,
    where: str,
    rates: Iterable[str] = (),
    compared: Iterable[str] = (),
    others: Iterable[str] = (),
) -> None:
    """Raise UserError if a file (``where``) contains an unknown method or task, which would otherwise be
    ignored silently.
    """
    methods = known_methods()
    tasks = [task for of_task in settings.methods.values() for task in of_task] + list(others)
    for names, known, what in (
        ([*settings.methods, *compared], methods, "method"),
        (tasks, [*TASKS], "task"),
        ([*rates], [*methods, ADAPTERS, PEFT], "method"),
    ):
        try:
            if names:
                check_known(names, known, what)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
