"""Published numbers that a table shows beside its own.

They come from a larger model on other data sets, so they stand in a block of their own, whose label says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.report.columns import AVERAGE
from experiments.tasks.task import Column


@dataclass(frozen=True)
class Published:
    """A block of published numbers.

    Args:
        label: printed above the block.
        rows: name -> column key -> number as printed.
    """

    label: str
    rows: Mapping[str, Mapping[str, str]]


_KEYS = ("vqa.accuracy", "ve.accuracy", "caption.bleu4", "caption.cider", AVERAGE.key)

BLIP_CAPFILT = Published(
    "Published numbers, another scale: BLIP CapFilt-L on VQA2.0 / SNLI-VE / COCO; "
    "not comparable with the rows above",
    {
        name: dict(zip(_KEYS, numbers, strict=True))
        for name, numbers in {
            "GCN": ("69.53", "78.85", "38.9", "128.8", "79.02"),
            "APPNP": ("70.22", "79.03", "39.4", "129.1", "79.44"),
            "GCNII": ("70.13", "79.12", "39.7", "129.7", "79.66"),
            "pGNN": ("70.39", "79.40", "40.4", "130.9", "80.27"),
        }.items()
    },
)


def published_for(columns: Sequence[Column], block: Published = BLIP_CAPFILT) -> Published | None:
    """The part of a block that a table with these columns can show; None if there is none.

    A published average is kept only where the table averages the same columns.
    """
    averaged = {column.key for column in columns if column.averaged}
    rows = {}
    for name, numbers in block.rows.items():
        kept = {column.key for column in columns} & set(numbers)
        if averaged != set(numbers) - {AVERAGE.key}:
            kept -= {AVERAGE.key}
        rows[name] = {key: number for key, number in numbers.items() if key in kept}
    return Published(block.label, rows) if any(rows.values()) else None
