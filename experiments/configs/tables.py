"""The tables of the paper: which rows and tasks each has, and how much of it is run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, model_validator

from adapters.scheme import SCHEMES
from attngraph.errors import UserError
from experiments.configs.presets import MOST_SEEDS, Amount, Preset
from experiments.configs.reading import Config, Read, file_named, read_config
from experiments.configs.settings import Settings
from experiments.known import check_known
from experiments.methods import METHODS, GraphAdapter, Method, method_named
from experiments.tasks import TASKS
from experiments.training.plan import searched_for

TABLES, SIZES = (Path(__file__).with_name(name) for name in ("tables", "sizes"))
ADAPTERS = "adapters"  # in a size's rates: all graph adapters
REMEDY = "give a file as attngraph search and attngraph sweep write it"


class TableFile(Config):
    """A table.

    Args:
        about: one line for ``--help``.
        title: printed on top.
        rows: block of the table -> its methods, in their order.
        baseline: the method with which the others are compared.
        contenders: the methods that are compared, and among which the best is marked.
        contest: what these are, in words.
        tasks: in the order of the columns.
        notes: sentences under the table.
        published: names of the blocks of published numbers.
        seeds: of every row.
    """

    about: str
    title: str
    rows: dict[str, list[str]]
    baseline: str
    contenders: list[str]
    contest: str
    tasks: list[str]
    notes: list[str] = Field(default_factory=list)
    published: list[str] = Field(default_factory=list)
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 1

    @model_validator(mode="after")
    def _rows_fit(self):
        names = [name for rows in self.rows.values() for name in rows]
        if not names or not self.tasks:
            raise ValueError("rows and tasks need at least one name each")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"rows name {twice[0]!r} twice: leave one out")
        for field, given in (("baseline", [self.baseline]), ("contenders", self.contenders)):
            if wrong := [name for name in given if name not in names]:
                raise ValueError(f"{field} names {wrong[0]!r}, which is no row: add the row, or leave it out")
        return self

    @property
    def blocks(self) -> dict[str, str]:
        """Method -> its block, in the order of the rows."""
        return {name: block for block, names in self.rows.items() for name in names}


class Size(Amount):
    """How much of a table is run, and with which settings.

    Args:
        settings: of methods on tasks, or on the tasks that these are like.
        rates: method -> learning rates with which ``attngraph sweep`` begins; :data:`ADAPTERS` for all graph
            adapters that have none of their own.
    """

    settings: Settings = Settings()
    rates: dict[str, Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=2)]] = Field(
        default_factory=dict
    )

    def rates_of(self, method: Method) -> list[float]:
        """The learning rates with which a sweep of a method begins, in rising order.

        Raises:
            UserError: the file has none.
        """
        kind = ADAPTERS if isinstance(method, GraphAdapter) else None
        found = self.rates.get(method.name) or self.rates.get(kind or method.name)
        if found is None:
            where = f"{method.name}{f' or {kind}' if kind else ''}"
            raise UserError(
                f"the size names no rates for {where}: add rates: {{{method.name}: [1e-4, 3e-4]}}"
            )
        return sorted(set(found))

    def preset(self, table: TableFile) -> Preset:
        """What is run of a table."""
        fields = {name: getattr(self, name) for name in Amount.model_fields}
        return Preset(seeds=dict.fromkeys(table.blocks, table.seeds), **fields)

    def chosen(self, file: Path | None = None) -> Settings:
        """The settings of a table's cells.

        Args:
            file: as ``attngraph search`` writes it; what it says of a method on a task goes before all
                others, what it leaves open stays.
        """
        if file is None:
            return self.settings
        given = read_config(file, Settings, REMEDY)
        _check_names(given, f"{file}")
        return _over(self.settings, given)


def _check_names(settings: Settings, where: str, rates: Iterable[str] = ()) -> None:
    """Checks the names of methods and tasks: an unknown one would change nothing, in silence.

    Args:
        settings: by method and task.
        where: they are from, for errors.
        rates: names of methods, or :data:`ADAPTERS`, that learning rates are given for.

    Raises:
        UserError: a name is unknown.
    """
    methods = [*dict.fromkeys([*METHODS, *SCHEMES])]
    tasks = [task for of_task in settings.methods.values() for task in of_task]
    try:
        for names, known, what in (
            ([*settings.methods], methods, "method"),
            (tasks, [*TASKS], "task"),
            ([*rates], [*methods, ADAPTERS], "method"),
        ):
            if names:
                check_known(names, known, what)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _over(below: Settings, above: Settings) -> Settings:
    """Settings with others laid over them, field by field.

    What they leave open is what the method would have had: of the task or of the one that it is like, and of
    the method or of the one that it follows. What they say of a task holds for those that are like it, too.
    """
    merged = Settings(methods={name: dict(of_task) for name, of_task in below.methods.items()})
    leaders = {name: method_named(name).leader for name in above.methods}
    for name in sorted(above.methods, key=lambda name: leaders[name] != name):  # before those that follow
        of_task = above.methods[name]
        known = {*of_task, *merged.methods.get(name, {}), *merged.methods.get(leaders[name], {})}
        for task in sorted(known, key=lambda task: (TASKS[task].like is not None, task)):
            for choice in filter(None, map(of_task.get, (TASKS[task].like or "", task))):
                found = searched_for(method_named(name), TASKS[task], merged)
                under = (found and method_named(name).choice(merged, found)) or choice
                said = {field: getattr(choice, field) for field in choice.model_fields_set}
                merged.methods.setdefault(name, {})[task] = under.model_copy(update=said)
    reduction = above.reduction if "reduction" in above.model_fields_set else below.reduction
    return Settings(reduction=reduction, methods=merged.methods)


def table_names() -> list[str]:
    """The tables that ship with the package, ``main`` first."""
    return sorted((file.stem for file in TABLES.glob("*.yaml")), key=lambda name: (name != "main", name))


def size_names() -> list[str]:
    """The sizes that ship with the package, the small one first."""
    return sorted((file.stem for file in SIZES.glob("*.yaml")), reverse=True)


def load_table(name: str) -> TableFile:
    """A table by its name, or by the path of a YAML file of one's own.

    Raises:
        UserError: no such table, or a damaged file.
    """
    return _load(name, TABLES, table_names(), TableFile, "table")


def load_size(name: str) -> Size:
    """A size by its name, or by the path of a YAML file of one's own.

    Raises:
        UserError: no such size, or a damaged file.
    """
    size = _load(name, SIZES, size_names(), Size, "size")
    _check_names(size.settings, f"size {name}", size.rates)
    return size


def _load(name: str, folder: Path, known: list[str], kind: type[Read], what: str) -> Read:
    file = file_named(name, folder, known, what)
    return read_config(file, kind, f"see experiments/configs/{folder.name} for examples")
