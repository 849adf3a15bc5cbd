"""Checks of a dataset: existing files, numbers of records compared with published ones, and all faults."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.data.dataset import Counts, DataSet, Reader, Reading
from attngraph.experiments.data.layouts import SCENES

SHOWN = 10  # faults of a split, and damaged pictures, that are printed


@dataclass
class SplitCheck:
    """Content of a split: records are questions, pairs or captions (examples in a split without annotations),
    ``unscored`` those excluded by the official rules, ``published`` is None if there are no published counts.
    """

    form: str
    split: str
    published: Counts | None
    records: int = 0
    images: int = 0
    unscored: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether a count differs from the published one."""
        if self.published is None:
            return False
        return self.images != self.published.images or self.published.records not in (None, self.records)


@dataclass
class Report:
    """Result of a check: each split, the images (number of decoded images; None if they were not decoded),
    and damaged records with their faults.
    """

    data_set: DataSet
    root: Path
    splits: list[SplitCheck] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    decoded: int | None = None

    @property
    def drawn(self) -> bool:
        """Whether the dataset consists of synthetic scenes, to which published counts do not apply."""
        return (self.root / SCENES).is_file()

    @property
    def faults(self) -> int:
        """Number of faults, damaged images included."""
        return sum(len(split.faults) for split in self.splits) + len(self.pictures)

    @property
    def differing(self) -> list[str]:
        """The splits with a count that differs from the published one."""
        return [f"{split.split} ({split.form})" for split in self.splits if split.differs]

    def verdict(self) -> str:
        """Whether the dataset is complete, on one line."""
        if self.faults:
            return f"not complete: {self.faults:,} fault{'s' * (self.faults > 1)}"
        if self.differing:
            return f"no faults, but counts differ from the published ones: {', '.join(self.differing)}"
        if self.drawn:
            return "complete: no faults; these are synthetic scenes, without published counts"
        if not any(split.published for split in self.splits):
            return "complete: no faults; there are no published counts to compare with"
        return "complete: no faults, and all counts equal the published ones"

    def text(self) -> str:
        """The report as text, with at most :data:`SHOWN` faults of each split."""
        lines = [f"{self.data_set.title} ({self.data_set.name}) in {self.root}"]
        for reader in self.data_set.readers:
            if splits := [split for split in self.splits if split.form == reader.name]:
                lines += ["", f"format {reader.name}: {reader.title}", *_rows(splits, self.data_set.unit)]
        for split in self.splits:
            lines += _listed(f"{split.form}, {split.split}", split.faults)
        if self.decoded is not None:
            lines += ["", f"{self.decoded:,} images decoded"]
        lines += _listed("pictures", self.pictures)
        return "\n".join([*lines, "", self.verdict(), ""])


def _rows(splits: Sequence[SplitCheck], unit: str) -> list[str]:
    rows = []
    for split in splits:
        published = split.published or Counts(0)
        counts = split.records, published.records, split.images, published.images or None, len(split.faults)
        rows.append([split.split, *("-" if count is None else f"{count:,}" for count in counts)])
    heads = ["split", unit, "published", "images", "published", "faults"]
    lines = pd.DataFrame(rows, columns=heads).to_string(index=False).splitlines()
    lines += [
        f"{split.split}: {split.unscored:,} more are excluded by the official rules"
        for split in splits
        if split.unscored
    ]
    return [f"  {line}" for line in lines]


def _listed(title: str, faults: list[str]) -> list[str]:
    """The first faults; identical ones, such as for a missing folder, are listed once."""
    if not faults:
        return []
    some = list(Counter(faults).items())[:SHOWN]
    rest = len(faults) - sum(count for _, count in some)
    return [
        "",
        f"{title}: {len(faults):,} fault{'s' * (len(faults) > 1)}",
        *(f"  {one}" + f" ({count:,} times)" * (count > 1) for one, count in some),
        *([f"  and {rest:,} more"] if rest else []),
    ]


def check(
    data_set: DataSet,
    root: Path,
    splits: Sequence[str] = (),
    form: str | None = None,
    deep: bool = False,
) -> Report:
    """Read every record of a dataset, including those in its list of damaged records.

    Args:
        data_set, root: the dataset and its folder.
        splits: official names; by default all splits of each format with files, except splits without
            annotations whose files are missing.
        form: the format's name; by default every format with files.
        deep: whether to decode all images.

    Raises:
        UserError: the folder, format or split does not exist, or the folder has no file of the dataset.
    """
    report, pictures = Report(data_set, root), set()
    for reader, split in _chosen(data_set, root, splits, form):
        found = SplitCheck(reader.name, split, None if report.drawn else reader.published.get(split))
        report.splits.append(found)
        missing = [file for file in reader.files(root, split) if not file.is_file()]
        found.faults = [
            f"{file}: no such file; download it, or name the other splits in --split" for file in missing
        ]
        if not missing:
            reading = Reading(data_set, root, collects=True)
            pictures |= _read(reader, found, reading)
            report.damaged |= reading.faults
    files, reading = sorted(pictures), Reading(data_set, root, collects=True)
    report.decoded = len(files) if deep else None
    with ThreadPoolExecutor() as pool:  # decoders do not hold the interpreter's lock
        wrong = pool.map(partial(damage, deep=deep), files)
        bar = Progress(wrong, total=len(files), desc="checking", unit=" images", leave=False, delay=1)
        for file, fault in zip(files, bar):
            if fault is not None:
                reading.picture_fault(file, fault)
    report.pictures = list(reading.faults.values())
    report.damaged |= reading.faults
    return report


def damage(file: Path, deep: bool) -> str | None:
    """The fault of an image: it is empty, or (if ``deep``) cannot be decoded; None if there is none."""
    if not file.is_file() or not file.stat().st_size:
        return "is empty or not a file; download it again"
    try:
        if deep:
            with Image.open(file) as picture:
                picture.convert("RGB")
    except Exception as error:  # decoders raise what they like, of damaged files
        return f"cannot be decoded ({str(error) or type(error).__name__})"
    return None


def _read(reader: Reader, found: SplitCheck, reading: Reading) -> set[Path]:
    """Count the content of a split; returns its images."""
    images, unit = set(), reading.data_set.unit
    try:
        with Progress(desc=f"reading {found.split}", unit=f" {unit}", leave=False, delay=1) as bar:
            for example in reading.examples(reader, found.split):
                found.records += (len(example.references) or 1) if unit == "captions" else 1
                images.add(example.image)
                bar.update()
    except UserError as error:  # the file as a whole
        found.faults.append(str(error))
    found.images, found.unscored = len(images), len(reading.unscored)
    found.faults = [*reading.faults.values(), *found.faults]
    return images


def _chosen(
    data_set: DataSet, root: Path, splits: Sequence[str], form: str | None
) -> list[tuple[Reader, str]]:
    """The formats and splits to check."""
    if not os.access(root, os.R_OK) or not root.is_dir():
        raise UserError(f"--root {root}: not a readable folder; use the folder of {data_set.title}")
    for split in splits:
        data_set.reader(root, split, form)  # says what is missing
    readers = [reader for reader in data_set.readers if form in (None, reader.name)]
    found = [reader for reader in readers if any(reader.found(root, split) for split in reader.splits)]
    if not found:
        first = (readers or data_set.readers)[0]
        data_set.reader(root, first.splits[0], form)  # says what is missing
    return [
        (reader, split)
        for reader in found
        for split in (splits or reader.splits)
        if split in reader.splits
        and (reader.found(root, split) or split not in (*splits, *reader.unanswered))
    ]
