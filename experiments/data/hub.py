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
from dataclasses import dataclass
from dataclasses import field as attribute
from pathlib import Path
from types import ModuleType
from typing import Any

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.base.files import whole_folder, write_bytes
from experiments.base.reading import Record, shown
from experiments.data.damaged import Reading
from experiments.data.dataset import Counts, DataSet, Reader
from experiments.data.example import Example
from experiments.data.tables import cache_folder, no_room

FOLDER, IMAGE = "hub", "image"
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}
_SHARD = re.compile(r"-of-(\d+)\.parquet$")
_REMEDY = "get it again"


@dataclass(frozen=True)
class Columns:
    """Which column of a repository holds what.

    Args:
        id: a number or text that no two rows share.
        references: a text, a list of texts, a list of objects with a text each, or a class label.
        item: the field that holds the text, where references are objects.
        annotators: how many references each row must have; their answers are left as they are, and may be
            empty. None for captions and labels.
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
    prompt: str | None = None
    kind: str = "caption"
    kinds: str | None = None
    groups: Mapping[str, str] = attribute(default_factory=dict)
    identity: Callable[[str], str] = str


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

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        files, columns = self.files(root, split), self.columns
        answered = split not in self.unanswered
        rows = _rows(files)
        features = next(rows)
        needed = {columns.id, IMAGE, columns.prompt, columns.references if answered else None}
        if missing := needed - {None} - set(features):
            raise UserError(
                f"{files[0]}: no column {', '.join(sorted(missing))}, only {', '.join(features)}; give the "
                f"files of {self.sources[split][0]}"
            )
        used = {columns.references, columns.kinds, *columns.groups.values()} & set(features)
        labels = {
            name: features[name].names for name in used if hasattr(features[name], "names")
        }  # ClassLabel

        def example(row: Record) -> Example:
            identity = str(row.field(columns.id, str, int))
            for name, names in labels.items():
                number = row.field(name, int)
                if not 0 <= number < len(names):
                    raise row.fault(f"field '{name}' of {row.where} is {number}, no label", _REMEDY)
                row.content[name] = names[number]
            references = self._references(row) if answered else ()
            prompt = "" if columns.prompt is None else row.text(columns.prompt)
            kind = str(row.content.get(columns.kinds) or columns.kind)
            groups = {
                name: str(row.content[at]) for name, at in columns.groups.items() if row.content.get(at)
            }
            picture = _picture(row)
            return Example(columns.identity(identity), picture, prompt, references, kind, groups=groups)

        found = ((f"row {number}", row) for number, row in enumerate(rows))
        yield from reading.each(files[0], found, example, columns.id)

    def _references(self, row: Record) -> tuple[str, ...]:
        columns = self.columns
        if isinstance(row.field(columns.references, str, list), str):
            return (row.text(columns.references).strip(),)
        if columns.annotators is None:
            return row.captions(columns.references, columns.item)
        return row.texts(columns.references, columns.item, columns.annotators)


def hub_reader(data_set: DataSet, split: str | None) -> Hub:
    """The reader that knows where on the hub a data set is.

    Args:
        data_set: which.
        split: that must be there.

    Raises:
        UserError: no repository is known.
    """
    hub = next((reader for reader in data_set.readers if isinstance(reader, Hub)), None)
    if hub is None or (split is not None and split not in hub.splits):
        wanted = "" if split is None else f" for the split {split!r}"
        known = "" if hub is None else f"choose from {', '.join(hub.splits)}, or "
        raise UserError(
            f"{data_set.title}: no repository of the hub is known{wanted}: {known}see `attngraph data layout "
            f"{data_set.name}`"
        )
    return hub


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


def _rows(files: list[Path]) -> Iterator[Any]:
    """The features first, then each row; pictures as bytes."""
    datasets, file = _library(), files[0]
    shards = _SHARD.search(file.name)
    if shards and len(files) != int(shards[1]):
        raise UserError(
            f"{file}: {len(files)} of {int(shards[1])} files of its split are there; get the others"
        )
    cache = cache_folder() / "datasets"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_room(cache, error) from error
    try:
        if file.name == "state.json":
            rows = datasets.Dataset.load_from_disk(str(file.parent))
        else:
            rows = datasets.load_dataset(
                "parquet",
                data_files={"all": [str(one) for one in files]},
                split="all",
                streaming=True,  # reads the files themselves, no copy
                cache_dir=str(cache),
            )
        yield rows.features
        if IMAGE in rows.features:
            rows = rows.cast_column(IMAGE, datasets.Image(decode=False))
        yield from rows
    except Exception as error:  # the library has many
        raise UserError(f"{file}: cannot be read ({first_line(error)}); {_REMEDY}") from error


def _picture(row: Record) -> Path:
    """The file of a row's picture; made where there is none of its content yet."""
    value = row.content[IMAGE]
    content = value.get("bytes") if isinstance(value, dict) else None
    if content:
        digest = hashlib.sha256(content).hexdigest()
        suffix = _SUFFIXES.get(content[:2], ".img")
        picture = cache_folder() / "pictures" / digest[:2] / f"{digest}{suffix}"
        try:
            if not picture.is_file() or picture.stat().st_size != len(content):
                write_bytes(picture, content)
        except OSError as error:
            raise no_room(picture, error) from error
        return picture
    path = value.get("path") if isinstance(value, dict) else None
    if path and Path(path).is_file():
        return Path(path).absolute()
    raise row.fault(f"field '{IMAGE}' of {row.where} holds no picture ({shown(value)})", _REMEDY)


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "files of the Hugging Face hub need the package datasets: run `pip install 'attngraph[hub]'`"
        ) from None
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # faults are told here
    return datasets
