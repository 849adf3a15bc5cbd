"""Checks a data set: which files are there, what they hold beside the published counts, and every fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.dataset import Counts, DataSet, Reader
from experiments.datasets.decoding import damages
from experiments.datasets.faults import Faults
from experiments.progress import Progress
from experiments.scenes.known import SCENES

SOON = 1.0  # seconds before a progress bar shows
NAMED = 8  # files and folders of a wrong root that an error names


@dataclass
class SplitCheck:
    """What a split holds.

    Args:
        split: its name.
        published: what it should hold; None where nobody says.
        records: questions, pairs or captions; examples in a split without annotations.
        images: different pictures.
        faults: missing files, damaged records, missing pictures, duplicates.
        notes: what is no fault.
    """

    split: str
    published: Counts | None = None
    records: int = 0
    images: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether a count is not the published one."""
        if self.published is None:
            return False
        return self.images != self.published.images or self.published.records not in (None, self.records)


@dataclass
class FormatCheck:
    """What was found in one format.

    Args:
        name, title: of the format.
        splits: those that were looked at.
    """

    name: str
    title: str
    splits: list[SplitCheck] = field(default_factory=list)


@dataclass
class Report:
    """What was found of a data set.

    Args:
        data_set: which.
        root: its folder.
        drawn: whether it holds drawn scenes, which no published counts are about.
        formats: one entry for each format whose files are there.
        damaged: pictures that cannot be decoded, and why; None if none was decoded.
        decoded: how many pictures were decoded.
    """

    data_set: DataSet
    root: Path
    drawn: bool
    formats: list[FormatCheck] = field(default_factory=list)
    damaged: dict[str, str] | None = None
    decoded: int = 0

    @property
    def splits(self) -> list[SplitCheck]:
        """Those of all formats."""
        return [split for form in self.formats for split in form.splits]

    @property
    def faults(self) -> int:
        """How many there are, damaged pictures included."""
        return sum(len(split.faults) for split in self.splits) + len(self.damaged or {})

    @property
    def differs(self) -> bool:
        """Whether a count is not the published one."""
        return any(split.differs for split in self.splits)


def check(
    data_set: DataSet,
    root: Path,
    splits: Sequence[str] = (),
    form: str | None = None,
    deep: bool = False,
    jobs: int = 1,
) -> Report:
    """Reads every record of a data set.

    Args:
        data_set: which.
        root: its folder.
        splits: official names; by default all splits of each format that has files there, but those that
            only join others and, where another format is complete, those without annotations and files.
        form: the format's name; by default every format that has files there.
        deep: whether to decode all pictures.
        jobs: processes that decode.

    Raises:
        UserError: the folder, format or split does not exist, or the folder holds no file of the data set.
    """
    root = Path(root)
    chosen = _chosen(data_set, root, splits, form)
    drawn = (root / SCENES).is_file()
    report = Report(data_set, root, drawn)
    pictures: dict[Path, None] = {}
    for reader, names in chosen:
        report.formats.append(FormatCheck(reader.name, reader.title))
        for name in names:
            found, images = _check_split(data_set, reader, root, name, drawn)
            report.formats[-1].splits.append(found)
            pictures.update(images)
    files = sorted(pictures)
    if deep:
        report.damaged, report.decoded = {}, len(files)
        bar = Progress(total=len(files), desc="decoding", unit=" pictures", leave=False, delay=SOON)
        with bar:
            for file, wrong in zip(files, damages(files, jobs)):
                bar.update()
                if wrong is not None:
                    report.damaged[str(file)] = wrong
    return report


def _chosen(
    data_set: DataSet, root: Path, splits: Sequence[str], form: str | None
) -> list[tuple[Reader, list[str]]]:
    """The formats to look at, and their splits."""
    if not root.is_dir():
        fault = "is no folder" if root.exists() else "no such folder"
        raise UserError(f"--root {root}: {fault}; give the folder of {data_set.title}")
    readers = [reader for reader in data_set.readers if form in (None, reader.name)]
    if not readers:
        data_set.reader(root, "", form)  # says which formats there are
    if not any(_has_files(reader, root) for reader in readers):
        raise _nothing_found(data_set, root, readers)
    if not splits:
        there = [reader for reader in readers if _has_files(reader, root)]
        whole = any(all(reader.found(root, split) for split in reader.splits) for reader in there)

        def due(reader: Reader, split: str) -> bool:
            """Not where another format does without a split that has no annotations, nor any file."""
            return not whole or split not in reader.unanswered or _begun(reader, root, split)

        return [(one, [split for split in _all_splits(one, root) if due(one, split)]) for one in there]
    for split in splits:
        data_set.reader(root, split, form)  # says what is missing
    chosen = [
        (reader, [split for split in splits if split in reader.splits and reader.found(root, split)])
        for reader in readers
    ]
    return [(reader, names) for reader, names in chosen if names]


def _has_files(reader: Reader, root: Path) -> bool:
    return any(reader.found(root, split) for split in reader.splits)


def _begun(reader: Reader, root: Path, split: str) -> bool:
    """Whether any of a split's files is there."""
    return any(file.is_file() for file in reader.files(root, split))


def _all_splits(reader: Reader, root: Path) -> list[str]:
    """A format's splits without those that only join others, such as VQA v2's ``trainval``."""
    files = {split: set(reader.files(root, split)) for split in reader.splits}

    def joins(split: str) -> bool:
        parts = [other for other in files.values() if other < files[split]]
        return len(parts) > 1 and set().union(*parts) == files[split]

    return [split for split in reader.splits if not joins(split)]


def _nothing_found(data_set: DataSet, root: Path, readers: Sequence[Reader]) -> UserError:
    """Says where the files are instead, or what is there."""
    try:
        below = sorted(path for path in root.iterdir() if path.is_dir())
    except OSError as error:
        return UserError(f"--root {root}: cannot be read ({error.strerror}); check your rights to it")
    for place in (root / data_set.name, root.absolute().parent, *below):
        if any(_has_files(reader, place) for reader in readers):
            where = "below" if place in below else "above"
            return UserError(
                f"--root {root}: the files of {data_set.title} are one folder {where}; give --root {place}"
            )
    names = sorted(path.name for path in root.iterdir())
    held = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    wanted = readers[0].files(root, readers[0].splits[0])[0].name
    return UserError(
        f"--root {root}: no file of {data_set.title}, such as {wanted}; it holds {held or 'nothing'}: "
        f"`attngraph data layout {data_set.name}` says what should be there and where to get it"
    )


def _check_split(
    data_set: DataSet, reader: Reader, root: Path, split: str, drawn: bool
) -> tuple[SplitCheck, dict[Path, None]]:
    """What a split holds, and its pictures that may be decoded."""
    found = SplitCheck(split, None if drawn else reader.published.get(split))
    missing = [file for file in reader.files(root, split) if not file.is_file()]
    if missing:
        found.faults = [
            f"{file}: {_fault_of(file)}; get it, or name the other splits in --split" for file in missing
        ]
        return found, {}
    folders = reader.image_folders(root, split)
    if folders and not any(folder.is_dir() for folder in folders):
        for folder in folders:
            below = next((place for place in sorted(root.glob(f"*/{folder.name}")) if place.is_dir()), None)
            remedy = "unpack the images there" if below is None else f"move {below} there"
            found.faults.append(f"{folder}: no such image folder; {remedy}")
        return found, {}
    faults, images = Faults(None), dict[Path, None]()
    with Progress(desc=f"reading {split}", unit=f" {data_set.unit}", leave=False, delay=SOON) as bar:
        for records, image in _read(reader, root, split, faults):
            found.records += records if data_set.unit == "captions" else 1
            images[image] = None
            bar.update()
    unusable = {image: fault for image in images if (fault := _fault_of(image))}
    found.images, found.faults = len(images), faults.messages
    found.faults += [f"{image}: {fault}; get it again" for image, fault in unusable.items()]
    if not found.records and not found.faults:
        file = reader.files(root, split)[0]
        found.faults.append(f"{file}: split {split!r} has no {data_set.unit}; give the official file")
    if not found.faults:
        found.notes = reader.notes(root, split)
    return found, {image: None for image in images if image not in unusable}


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


def _read(reader: Reader, root: Path, split: str, faults: Faults) -> Iterator[tuple[int, Path]]:
    """How many references each example has (1 where there are none), and its picture."""
    try:
        for example in reader.examples(root, split, faults):
            yield len(example.references) or 1, example.image
    except UserError as error:  # the file as a whole
        faults.add(str(error))
