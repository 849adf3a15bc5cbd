"""Checks a data set: which files are there, what they hold beside the published counts, and every fault."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from attngraph.errors import UserError
from experiments.base.progress import Progress
from experiments.base.reading import Damaged, uncollected
from experiments.data.damaged import LIST, Reading
from experiments.data.dataset import Counts, DataSet, Reader
from experiments.data.scene_files import SCENES

SOON = 1.0  # seconds before a progress bar shows
SHOWN = 10  # faults of a split, and damaged pictures, that are printed


@dataclass
class SplitCheck:
    """What a split holds.

    Args:
        form: the format that it is read in.
        split: its name.
        published: what it should hold; None where nobody says.
        records: questions, pairs or captions; examples in a split without annotations.
        images: different pictures.
        left_out: records and examples that the list of damaged ones names.
        unscored: what the official rules leave out.
        faults: missing files, damaged records, missing pictures, duplicates.
    """

    form: str
    split: str
    published: Counts | None = None
    records: int = 0
    images: int = 0
    left_out: int = 0
    unscored: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether a count is not the published one."""
        if self.published is None:
            return False
        return self.images != self.published.images or self.published.records not in (None, self.records)


@dataclass
class Report:
    """What was found of a data set.

    Args:
        data_set: its name.
        root: its folder.
        drawn: whether it holds drawn scenes, which no published counts are about.
        splits: of each format whose files are there.
        damaged: records and pictures that can be left out -> what is wrong with them.
        pictures: what is wrong with those that were decoded.
        decoded: how many pictures were decoded; None without asking.
    """

    data_set: str
    root: str
    drawn: bool
    splits: list[SplitCheck] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    decoded: int | None = None

    @property
    def faults(self) -> int:
        """How many there are, damaged pictures included."""
        return sum(len(split.faults) for split in self.splits) + len(self.pictures)

    @property
    def differs(self) -> bool:
        """Whether a count is not the published one."""
        return any(split.differs for split in self.splits)

    def verdict(self) -> str:
        """Whether the data set is whole, in a line."""
        if self.faults:
            return f"not whole: {self.faults:,} fault{'s' * (self.faults > 1)}"
        if self.differs:
            splits = [f"{split.split} ({split.form})" for split in self.splits if split.differs]
            return f"no faults, but other counts than the published ones: {', '.join(splits)}"
        if self.drawn:
            return "whole: no faults; these are drawn scenes, with counts of their own"
        return "whole: no faults, and no counts but the published ones"

    def json(self) -> dict[str, Any]:
        """The report for programs; every fault is named."""
        return {**asdict(self), "verdict": self.verdict(), "faults": self.faults}

    def text(self, data_set: DataSet, shown: int | None = SHOWN) -> str:
        """The report for people.

        Args:
            data_set: which.
            shown: how many faults of each split are named; None for all.
        """
        lines = [f"{data_set.title} ({data_set.name}) in {self.root}"]
        for reader in data_set.readers:
            if splits := [split for split in self.splits if split.form == reader.name]:
                lines += ["", f"format {reader.name}: {reader.title}", *_rows(splits, data_set.unit)]
        if len({split.form for split in self.splits}) > 1:
            lines += [
                "",
                "tasks read the first format that has all splits, those with an annotated test split first",
            ]
        for split in self.splits:
            lines += _listed(f"{split.form}, {split.split}", split.faults, shown)
        if self.decoded is not None:
            lines += ["", f"{self.decoded:,} pictures decoded"]
        lines += _listed("pictures", self.pictures, shown)
        return "\n".join([*lines, "", self.verdict(), ""])


def _rows(splits: Sequence[SplitCheck], unit: str) -> list[str]:
    rows = [("split", unit, "published", "images", "published", "faults")]
    for split in splits:
        published = split.published or Counts(0)
        counts = split.records, published.records, split.images, published.images or None, len(split.faults)
        rows.append((split.split, *("-" if count is None else f"{count:,}" for count in counts)))
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    lines = [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    for split in splits:
        if split.unscored:
            lines.append(f"  {split.split}: {split.unscored:,} more are left out, as the official rules say")
        if split.left_out:
            lines.append(f"  {split.split}: {split.left_out:,} more are left out, as {LIST} says")
    return [line.rstrip() for line in lines]


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


def check(
    data_set: DataSet,
    root: Path,
    splits: Sequence[str] = (),
    form: str | None = None,
    deep: bool = False,
    jobs: int = 1,
    anew: bool = False,
) -> Report:
    """Reads every record of a data set.

    Args:
        data_set: which.
        root: its folder.
        splits: official names; by default all splits of each format that has files there, but those without
            annotations and files.
        form: the format's name; by default every format that has files there.
        deep: whether to decode all pictures.
        jobs: threads that decode.
        anew: whether to look at what the list of damaged records names, too.

    Raises:
        UserError: the folder, format or split does not exist, or the folder holds no file of the data set.
    """
    root = Path(root)
    report = Report(data_set.name, str(root), (root / SCENES).is_file())
    pictures: dict[Path, None] = {}
    for reader, split in _chosen(data_set, root, splits, form):
        reading = Reading(data_set.name, root, collects=True, listed={} if anew else None)
        found = SplitCheck(reader.name, split, None if report.drawn else reader.published.get(split))
        report.splits.append(found)
        if not _are_there(reader, root, split, found):
            continue
        images = _read(data_set, reader, root, split, reading, found)
        for image in images:
            if fault := _fault_of(image):
                reading.picture_fault(image, Damaged(f"{image}: {fault}; get it again"))
        report.damaged |= reading.faults
        found.images, found.left_out, found.unscored = len(images), reading.left_out, len(reading.unscored)
        found.faults = [*reading.faults.values(), *found.faults]
        pictures |= {image: None for image in images if not _fault_of(image)}
    if deep:
        files = sorted(pictures)
        report.decoded = len(files)
        reading = Reading(data_set.name, root, collects=True, listed={})
        bar = Progress(total=len(files), desc="decoding", unit=" pictures", leave=False, delay=SOON)
        with ThreadPoolExecutor(jobs) as pool, bar:  # decoders do not hold the interpreter's lock
            for file, wrong in zip(files, pool.map(damage, files)):
                bar.update()
                if wrong is not None:
                    reading.picture_fault(file, Damaged(f"{file}: {wrong}"))
        report.pictures = list(reading.faults.values())
        report.damaged |= reading.faults
    return report


def damage(file: Path) -> str | None:
    """What is wrong with a picture; None if it can be decoded as a whole."""
    try:
        with Image.open(file) as picture:
            picture.convert("RGB")
    except Exception as error:  # decoders raise what they like, of damaged files
        return f"cannot be decoded ({str(error) or type(error).__name__})"
    return None


def _read(
    data_set: DataSet, reader: Reader, root: Path, split: str, reading: Reading, found: SplitCheck
) -> dict[Path, None]:
    """Count what a split holds; returns its pictures."""
    images: dict[Path, None] = {}
    bar = Progress(desc=f"reading {split}", unit=f" {data_set.unit}", leave=False, delay=SOON)
    try:
        with bar, uncollected():
            for example in reading.kept(reader.examples(root, split, reading)):
                found.records += (len(example.references) or 1) if data_set.unit == "captions" else 1
                images[example.image] = None
                bar.update()
    except UserError as error:  # the file as a whole
        found.faults.append(str(error))
    if not found.records and not found.faults and not reading.faults:
        file = reader.files(root, split)[0]
        found.faults.append(f"{file}: split {split!r} has no {data_set.unit}; give the official file")
    return images


def _are_there(reader: Reader, root: Path, split: str, found: SplitCheck) -> bool:
    """Whether a split's files and folders are."""
    for file in reader.files(root, split):
        if not file.is_file():
            found.faults.append(f"{file}: {_fault_of(file)}; get it, or name the other splits in --split")
    folders = reader.image_folders(root, split)
    if not found.faults and folders and not any(folder.is_dir() for folder in folders):
        for folder in folders:
            below = next((place for place in sorted(root.glob(f"*/{folder.name}")) if place.is_dir()), None)
            remedy = "unpack the images there" if below is None else f"move {below} there"
            found.faults.append(f"{folder}: no such image folder; {remedy}")
    return not found.faults


def _fault_of(file: Path) -> str | None:
    """Why something is no file with content, as far as can be seen from outside; None if it is one."""
    try:
        if file.is_file():
            return None if file.stat().st_size else "is empty"
        if file.exists():
            return "is no file"
        return "is a link that leads nowhere" if file.is_symlink() else "no such file"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"


def _chosen(
    data_set: DataSet, root: Path, splits: Sequence[str], form: str | None
) -> list[tuple[Reader, str]]:
    """The formats and splits to look at."""
    if not os.access(root, os.R_OK) or not root.is_dir():
        raise UserError(f"--root {root}: no folder that can be read; give the folder of {data_set.title}")
    readers = [reader for reader in data_set.readers if form in (None, reader.name)]
    if not readers:
        data_set.reader(root, "", form)  # says which formats there are
    if not any(_has_files(reader, root) for reader in readers):
        raise _nothing_found(data_set, root, readers)
    for split in splits:
        data_set.reader(root, split, form)  # says what is missing
    return [
        (reader, split)
        for reader in readers
        for split in (splits or reader.splits)
        if split in reader.splits
        and (
            reader.found(root, split)
            or (not splits and split not in reader.unanswered and _has_files(reader, root))
        )
    ]


def _has_files(reader: Reader, root: Path) -> bool:
    return any(reader.found(root, split) for split in reader.splits)


def _nothing_found(data_set: DataSet, root: Path, readers: Sequence[Reader]) -> UserError:
    """Says where the files are instead."""
    below = sorted(path for path in root.iterdir() if path.is_dir())
    for place in (root / data_set.name, root.absolute().parent, *below):
        if any(_has_files(reader, place) for reader in readers):
            where = "below" if place in below else "above"
            return UserError(
                f"--root {root}: the files of {data_set.title} are one folder {where}; give --root {place}"
            )
    wanted = readers[0].files(root, readers[0].splits[0])[0].name
    return UserError(
        f"--root {root}: no file of {data_set.title}, such as {wanted}: `attngraph data layout "
        f"{data_set.name}` says what should be there and where to get it"
    )
