"""Data sets in the files of the Hugging Face hub, read with the library ``datasets`` (extra ``hub``).

What was downloaded lies in the folder ``hub`` of the data set's folder: parquet files as the repository has
them (``hub/data/val-00000-of-00002.parquet``), or a split that ``save_to_disk`` wrote (``hub/val/``). Nothing
is downloaded but by :func:`download`. Such files hold the pictures too: each becomes a picture file in the
cache folder, once, named by its content.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as attribute
from pathlib import Path
from types import ModuleType
from typing import Any

from attngraph.errors import UserError
from experiments.datasets.dataset import Counts, DataSet, Reader
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.question_files import enough
from experiments.datasets.reading import Unique, field, shown, text_field
from experiments.datasets.tables import cache_folder
from experiments.errors import first_line
from experiments.files import whole_folder, write_bytes

FOLDER = "hub"
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}
_SHARD = re.compile(r"-of-(\d+)\.parquet$")
_REMEDY = "get it again"


def same(identity: str) -> str:
    """An id as it is."""
    return identity


@dataclass(frozen=True)
class Columns:
    """Which column of a repository holds what.

    Args:
        id: a number or text that no two rows share.
        references: a text, a list of texts, a list of objects with a text each, or a class label.
        item: the field that holds the text, where references are objects.
        annotators: how many references each row must have; their answers are left as they are, and may be
            empty. None for captions and labels.
        image: the picture.
        prompt: the question or hypothesis; None for captions.
        kind: of all examples.
        kinds: the column with the kind of each, where there is one.
        groups: name of a break-down -> its column.
        identity: from the id to the example's.
    """

    id: str
    references: str
    item: str | None = None
    annotators: int | None = None
    image: str = "image"
    prompt: str | None = None
    kind: str = "caption"
    kinds: str | None = None
    groups: Mapping[str, str] = attribute(default_factory=dict)
    identity: Callable[[str], str] = same

    @property
    def needed(self) -> set[str]:
        """The columns that must be there in each split."""
        return {self.id, self.image} | ({self.prompt} - {None})


class Hub(Reader):
    """A data set in the columns of a repository.

    Args:
        sources: split -> (repository, its name of the split).
        columns: of all of them.
        unanswered: splits whose references are not looked at.
        published: what the splits hold.
    """

    name = "hub"

    def __init__(
        self,
        sources: Mapping[str, tuple[str, str]],
        columns: Columns,
        unanswered: tuple[str, ...] = (),
        published: Mapping[str, Counts] = {},
    ):
        self.sources, self.columns = sources, columns
        self.splits, self.unanswered, self.published = tuple(sources), unanswered, published
        repositories = dict.fromkeys(repository for repository, _ in sources.values())
        self.title = f"the Hugging Face hub's {', '.join(repositories)}, below {FOLDER}/"

    def files(self, root: Path, split: str) -> list[Path]:
        folder, name = root / FOLDER, self.sources[split][1]
        saved = folder / name / "state.json"
        if saved.is_file():
            return [saved, *sorted(saved.parent.glob("*.arrow"))]
        parquet = sorted(folder.rglob(f"{name}-*.parquet")) or sorted(folder.rglob(f"{name}.parquet"))
        return parquet or [saved]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return []

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        files = self.files(root, split)
        file, ids = files[0], Unique(files[0], self.columns.id)
        answered = split not in self.unanswered
        rows = _rows(files, self.columns.image)
        features = next(rows)
        missing = self.columns.needed | ({self.columns.references} if answered else set())
        missing -= set(features)
        if missing:
            raise UserError(
                f"{file}: no column {', '.join(sorted(missing))}, only {', '.join(features)}; give the files "
                f"of {self.sources[split][0]}"
            )
        used = {self.columns.references, self.columns.kinds, *self.columns.groups.values()}
        labels = {name: features[name].names for name in used & set(features) if _is_label(features[name])}
        for number, row in enumerate(rows):
            where = f"row {number}"
            with _room(), faults.leave_out():
                identity = str(field(row, self.columns.id, (str, int), file, where))
                ids.add(identity, where)
                row |= {name: _label(row, name, labels[name], file, where) for name in labels}
                references = self._references(row, file, where, faults) if answered else ()
                if references or not answered:  # else it was told above
                    yield self._example(row, identity, references, file, where)

    def _example(
        self, row: dict, identity: str, references: tuple[str, ...], file: Path, where: str
    ) -> Example:
        columns = self.columns
        prompt = "" if columns.prompt is None else text_field(row, columns.prompt, file, where)
        picture = _picture(row, columns.image, file, where)
        kind = str(row.get(columns.kinds) or columns.kind)
        groups = {name: str(row[column]) for name, column in columns.groups.items() if row.get(column)}
        return Example(columns.identity(identity), picture, prompt, references, kind, groups=groups)

    def _references(self, row: dict, file: Path, where: str, faults: Faults) -> tuple[str, ...]:
        """The references that are whole."""
        name = self.columns.references
        found = field(row, name, (str, list), file, where)
        if isinstance(found, str):
            return (text_field(row, name, file, where).strip(),)
        if not found:
            raise UserError(f"{file}: field '{name}' of {where} is empty; leave {where} out")
        item, texts = self.columns.item, []
        records = found if item else [{name: value} for value in found]
        for number, record in enumerate(records):
            there = f"{name} {number} of {where}"
            if self.columns.annotators is not None:
                texts.append(str(field(record, item or name, str, file, there)))
                continue
            with faults.leave_out():
                texts.append(text_field(record, item or name, file, there).strip())
        return enough(tuple(texts), name, file, where, self.columns.annotators or 0)


def _is_label(feature: object) -> bool:
    return hasattr(feature, "names")  # the library's ClassLabel, which may not be installed


def _label(row: dict, name: str, names: list[str], file: Path, where: str) -> str:
    """The name of a row's class label, which is a number there."""
    number = field(row, name, int, file, where)
    if not 0 <= number < len(names):
        raise UserError(f"{file}: field '{name}' of {where} is {number}, no label; leave {where} out")
    return names[number]


def hub_splits(data_set: DataSet) -> tuple[str, ...]:
    """The splits of a data set for which a repository is known.

    Raises:
        UserError: there is none.
    """
    splits = [split for reader in data_set.readers if isinstance(reader, Hub) for split in reader.splits]
    if not splits:
        raise UserError(
            f"{data_set.title}: no repository of the hub is known: `attngraph data layout "
            f"{data_set.name}` says where the official files are"
        )
    return tuple(splits)


def hub_reader(data_set: DataSet, split: str) -> Hub:
    """The reader that knows where on the hub a split is.

    Raises:
        UserError: no repository is known for the split.
    """
    if split not in hub_splits(data_set):
        raise UserError(
            f"{data_set.title}: no repository of the hub is known for the split {split!r}: choose from "
            f"{', '.join(hub_splits(data_set))}, or see `attngraph data layout {data_set.name}`"
        )
    return next(reader for reader in data_set.readers if isinstance(reader, Hub) and split in reader.splits)


def download(data_set: DataSet, root: Path, split: str) -> Path:
    """Download a split from the hub into the data set's folder; the one thing here that uses the network.

    Args:
        data_set: which.
        root: its folder; the split goes to ``hub/`` there, whole or not at all.
        split: its official name.

    Returns:
        The split's folder.

    Raises:
        UserError: no mapping of columns is known for the split, or it cannot be downloaded.
    """
    reader = hub_reader(data_set, split)
    repository, name = reader.sources[split]
    target = Path(root) / FOLDER / name
    if reader.found(Path(root), split):
        return reader.files(Path(root), split)[0].parent
    datasets = _library()
    try:
        rows = datasets.load_dataset(repository, split=name)
        with whole_folder(target) as part:
            rows.save_to_disk(part)
    except Exception as error:  # the library's own, those of the network, and those of the disk
        raise UserError(
            f"{repository}, split {name}: cannot be downloaded to {target} ({first_line(error)}); look at "
            "the network and the disk, or get the repository's files some other way and put them there"
        ) from error
    return target


def _rows(files: list[Path], image: str) -> Iterator[Any]:
    """The features first, then each row; pictures as bytes."""
    datasets = _library()
    file = files[0]
    if not file.is_file():
        raise UserError(f"{file}: no such file; download the split")
    with _room():
        (cache := cache_folder() / "datasets").mkdir(parents=True, exist_ok=True)
    try:
        if file.name == "state.json":
            rows = datasets.Dataset.load_from_disk(str(file.parent))
        else:
            _check_shards(files)
            rows = datasets.load_dataset(
                "parquet",
                data_files={"all": [str(one) for one in files]},
                split="all",
                streaming=True,  # reads the files themselves, no copy
                cache_dir=str(cache),
            )
        features = rows.features
        yield features
        if image in features:
            rows = rows.cast_column(image, datasets.Image(decode=False))
        yield from rows
    except UserError:
        raise
    except Exception as error:  # the library has many
        raise UserError(f"{file}: cannot be read ({first_line(error)}); {_REMEDY}") from error


def _check_shards(files: list[Path]) -> None:
    match = _SHARD.search(files[0].name)
    if match and len(files) != int(match[1]):
        raise UserError(
            f"{files[0]}: {len(files)} of {int(match[1])} files of its split are there; get the others"
        )


def _picture(row: dict, name: str, file: Path, where: str) -> Path:
    """The file of a row's picture; made where there is none of its content yet."""
    value = row[name]
    content = value.get("bytes") if isinstance(value, dict) else None
    if content:
        digest = hashlib.sha256(content).hexdigest()
        suffix = _SUFFIXES.get(content[:2], ".img")
        picture = cache_folder() / "pictures" / digest[:2] / f"{digest}{suffix}"
        if not picture.is_file() or picture.stat().st_size != len(content):
            write_bytes(picture, content)
        return picture
    path = value.get("path") if isinstance(value, dict) else None
    if path and Path(path).is_file():
        return Path(path).absolute()
    raise UserError(f"{file}: field '{name}' of {where} holds no picture ({shown(value)}); {_REMEDY}")


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{cache_folder()}: cannot be written to ({error.strerror or error}): make room on "
            "the disk, or name another folder in the environment variable ATTNGRAPH_CACHE"
        ) from error


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "files of the Hugging Face hub need the package datasets: run `pip install 'attngraph[hub]'`"
        ) from None
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # faults are told here
    return datasets
