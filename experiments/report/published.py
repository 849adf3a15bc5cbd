"""Numbers from elsewhere that a table shows below its own, above all published ones.

These come from a larger model on other data sets, so they stand in blocks of their own, whose labels say so.
The numbers themselves are in ``published.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.configs.reading import Config, read_config
from experiments.report.columns import AVERAGE, WAY
from experiments.tasks.task import Column

FILE = Path(__file__).with_name("published.yaml")
LABEL = "Published numbers, another scale: {about}; not comparable with the rows above"
DRAWN = {"vqa2": "vqa", "snli_ve": "ve", "coco": "caption"}  # the task on drawn scenes that is like one


@dataclass(frozen=True)
class Published:
    """A block of numbers from elsewhere.

    Args:
        label: printed above the block.
        rows: name -> column key -> number as printed, which may have a spread: ``62.5 ± 0.4``.
        averaged: keys of the columns that the block's average is the mean of.
    """

    label: str
    rows: Mapping[str, Mapping[str, str]]
    averaged: frozenset[str] = frozenset()


class _Block(Config):
    """A block as it stands in the file; a row's numbers are in the order of ``columns``."""

    about: str
    averaged: list[str]
    columns: list[str]
    rows: dict[str, str]

    def published(self) -> Published:
        rows = {
            name: dict(zip(self.columns, numbers.split(), strict=True)) for name, numbers in self.rows.items()
        }
        return Published(LABEL.format(about=self.about), rows, frozenset(self.averaged))


class _File(Config):
    main_blip: _Block
    main_mplug: _Block
    gnn: _Block
    position: _Block
    width: _Block
    concat: _Block
    p: _Block


def published_blocks() -> dict[str, Published]:
    """Every block by its name.

    Raises:
        UserError: the file is damaged.
    """
    content = read_config(FILE, _File, "install attngraph again")
    return {name: getattr(content, name).published() for name in _File.model_fields}


def of_drawn(block: Published) -> Published:
    """A block with the columns of the tasks on drawn scenes in the place of those that they are like."""

    def renamed(key: str) -> str:
        task, dot, metric = key.partition(".")
        return f"{DRAWN.get(task, task)}{dot}{metric}"

    rows = {
        name: {renamed(key): number for key, number in of_row.items()} for name, of_row in block.rows.items()
    }
    return Published(block.label, rows, frozenset(map(renamed, block.averaged)))


def published_for(columns: Sequence[Column], blocks: Iterable[Published]) -> tuple[Published, ...]:
    """The parts of blocks that a table with these columns can show; blocks without such a part are left out.

    Means over columns are kept only where the table takes them over the same columns.
    """
    averaged, shown = {column.key for column in columns if column.averaged}, []
    for block in blocks:
        kept = {column.key for column in columns}
        if averaged != block.averaged:
            kept -= {AVERAGE.key, WAY.key}
        rows = {
            name: {key: number for key, number in numbers.items() if key in kept}
            for name, numbers in block.rows.items()
        }
        if any(rows.values()):
            shown.append(Published(block.label, rows, block.averaged))
    return tuple(shown)
