"""The report of :func:`experiments.datasets.checking.check` in text and in JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from experiments.datasets.checking import FormatCheck, Report, SplitCheck

SHOWN = 10  # faults of a split, and damaged pictures, that are printed


def as_text(report: Report, shown: int | None = SHOWN) -> str:
    """The report for people.

    Args:
        report: what was found.
        shown: how many faults of each split are named; None for all.
    """
    data_set = report.data_set
    lines = [f"{data_set.title} ({data_set.name}) in {report.root}"]
    for form in report.formats:
        lines += ["", f"format {form.name}: {form.title}", *_table(form, data_set.unit)]
        lines += [f"  {split.split}: {note}" for split in form.splits for note in split.notes]
    if len(report.formats) > 1:
        lines += [
            "",
            "tasks read the first format that has all splits, those with an annotated test split first",
        ]
    for form in report.formats:
        for split in form.splits:
            lines += _listed(f"{form.name}, {split.split}", split.faults, shown)
    if report.damaged is not None:
        lines += ["", f"{report.decoded:,} pictures decoded"]
        lines += _listed("pictures", [f"{file}: {why}" for file, why in report.damaged.items()], shown)
    return "\n".join([*lines, "", verdict(report), ""])


def verdict(report: Report) -> str:
    """Whether the data set is whole, in a line."""
    if report.faults:
        return f"not whole: {report.faults:,} fault{'s' * (report.faults > 1)}"
    if report.differs:
        splits = [
            f"{split.split} ({form.name})"
            for form in report.formats
            for split in form.splits
            if split.differs
        ]
        return f"no faults, but other counts than the published ones: {', '.join(splits)}"
    if report.drawn:
        return "whole: no faults; these are drawn scenes, with counts of their own"
    return "whole: no faults, and no counts but the published ones"


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs; every fault is named."""
    return {
        "data_set": report.data_set.name,
        "root": str(report.root),
        "drawn": report.drawn,
        "verdict": verdict(report),
        "faults": report.faults,
        "formats": [
            {
                "name": form.name,
                "splits": [
                    {
                        "split": split.split,
                        "records": split.records,
                        "images": split.images,
                        "published": split.published
                        and {"records": split.published.records, "images": split.published.images},
                        "differs": split.differs,
                        "faults": split.faults,
                        "notes": split.notes,
                    }
                    for split in form.splits
                ],
            }
            for form in report.formats
        ],
        "decoded": report.decoded,
        "damaged": report.damaged,
    }


def _table(form: FormatCheck, unit: str) -> list[str]:
    rows = [("split", unit, "published", "images", "published", "faults"), *map(_row, form.splits)]
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _row(split: SplitCheck) -> tuple[str, ...]:
    published = split.published
    counts = (
        split.records,
        published and published.records,
        split.images,
        published and published.images,
        len(split.faults),
    )
    return split.split, *("-" if count is None else f"{count:,}" for count in counts)


def _listed(title: str, faults: list[str], shown: int | None) -> list[str]:
    """The faults; equal ones, such as of a folder that is missing, once."""
    if not faults:
        return []
    some = list(Counter(faults).items())[:shown]
    rest = len(faults) - sum(count for _, count in some)
    return [
        "",
        f"{title}: {len(faults):,} fault{'s' * (len(faults) > 1)}",
        *(f"  {one}" + f" ({count:,} times)" * (count > 1) for one, count in some),
        *([f"  and {rest:,} more"] if rest else []),
    ]
