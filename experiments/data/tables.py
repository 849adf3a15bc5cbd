"""Examples in Arrow tables: read from the annotation files once, then memory-mapped.

A table is a file in the cache folder (:func:`cache_folder`), named after the dataset's folder, the split and
the format. A second file has the sizes and modification times of the annotation files and folders: the table
is written again when one of them has changed. All processes share its memory pages.

This uses pyarrow, not the library ``datasets``, whose import takes one second in each worker.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from attngraph.experiments.base.files import whole, write_json
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.data.dataset import LIST, DataSet, Reader, Reading
from attngraph.experiments.data.example import Example

VERSION = 3  # raise it whenever a reader gives other examples for the same files
ROWS = 10_000  # written, and read while iterating, at a time
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),  # relative to the data set's folder, where it is in there
        ("prompt", pa.string()),
        ("references", pa.list_(pa.string())),
        ("kind", pa.string()),
        ("groups", pa.map_(pa.string(), pa.string())),
    ]
)


@dataclass(frozen=True)
class About:
    """Description of a table.

    Args:
        state: state of the files that it was read from.
        digest: digest of its content, see :func:`_content`; independent of the machine.
        left_out: number of skipped damaged records and examples.
        unscored: ids of these, and of records excluded by the official rules.
    """

    state: list[Any]
    digest: str
    left_out: int
    unscored: list[str]


class Examples(Sequence[Example]):
    """Examples of a table, constructed on access: some or all rows with the columns of :data:`SCHEMA`, and
    the description of the table.
    """

    def __init__(self, rows: pa.Table, root: Path, about: About):
        self.rows, self.root, self.about = rows, root, about

    def __len__(self) -> int:
        return self.rows.num_rows

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Examples: ...
    def __getitem__(self, place: int | slice) -> Example | Examples:
        if isinstance(place, slice):
            return self.take(range(len(self))[place])
        return self._example(self.rows.slice(range(len(self))[place], 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        for batch in self.rows.to_batches(ROWS):
            yield from map(self._example, batch.to_pylist())

    def take(self, places: Sequence[int] | np.ndarray) -> Examples:
        """The examples at these positions, in this order."""
        return Examples(self.rows.take(np.asarray(places, np.int64)), self.root, self.about)

    def images(self) -> list[Path]:
        """Each image once, in the order of the examples."""
        return [self.root / name for name in self.rows["image"].unique().to_pylist()]

    def image_numbers(self) -> np.ndarray:
        """Index of each example's image in :meth:`images`, int64 ``(examples,)``."""
        return self.rows["image"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)

    def _example(self, row: dict) -> Example:
        groups, references = dict(row["groups"]), tuple(row["references"])
        return Example(
            row["id"], self.root / row["image"], row["prompt"], references, row["kind"], groups=groups
        )


def table(data_set: DataSet, root: Path, split: str, form: str | None = None) -> Examples:
    """The examples of a split (official name) in a format, by default the first one whose files exist. They
    are read from the table written by an earlier call, or from the annotation files.

    Raises:
        UserError: see :meth:`attngraph.experiments.data.dataset.Reader.examples`; also if there is no
            example.
    """
    reader = data_set.reader(root, split, form)
    state = _state(reader, root, split)
    named = json.dumps([data_set.name, reader.name, str(root.absolute()), split])
    name = f"{data_set.name}-{split}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    file = cache_folder() / "tables" / f"{name}.arrow"
    try:
        found = _open(file, root)
        if found.about.state == state:
            return found
    except (OSError, ValueError, TypeError, pa.ArrowInvalid):
        pass  # there is none, or it is cut off
    _write(file, state, Reading(data_set, root), reader, split)
    return _open(file, root)


def cache_folder() -> Path:
    """Folder of the tables: ``$ATTNGRAPH_CACHE``, or ``attngraph`` in the user's cache folder."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ATTNGRAPH_CACHE") or users / "attngraph")


def _state(reader: Reader, root: Path, split: str) -> list:
    """State of the files of a table, which is written again if the state changes."""
    state: list = [VERSION, f"{type(reader).__module__}.{type(reader).__qualname__}"]
    state.append(str(cache_folder().absolute()))  # where pictures of the hub's tables are
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    for path in [root / LIST, *reader.files(root, split), *folders]:
        stat = path.stat() if path.exists() else None
        state.append([path.relative_to(root).as_posix(), stat and stat.st_size, stat and stat.st_mtime_ns])
    return state


def _open(file: Path, root: Path) -> Examples:
    """A memory-mapped table."""
    about = About(**json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))
    with pa.memory_map(str(file)) as source:
        return Examples(pa.ipc.open_file(source).read_all(), root, about)


def _write(file: Path, state: list, reading: Reading, reader: Reader, split: str) -> None:
    """Read the annotation files and write a table: first the rows, then the state of the files."""
    data_set, digest = reading.data_set, hashlib.sha256()
    examples = reading.examples(reader, split)
    bar = Progress(desc=f"reading {data_set.name} {split}", unit=f" {data_set.unit}", leave=False, delay=1)
    with whole(file) as part, bar:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            while some := list(islice(examples, ROWS)):
                columns = [
                    [example.id for example in some],
                    [_place(example.image, reading.root) for example in some],
                    [example.prompt for example in some],
                    [list(example.references) for example in some],
                    [example.kind for example in some],
                    [list(example.groups.items()) for example in some],
                ]
                writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
                digest.update(_content(columns))
                bar.update(len(some))
    about = About(state, digest.hexdigest(), reading.left_out, sorted(reading.unscored | reading.lost))
    write_json(file.with_suffix(".json"), asdict(about))


def _place(image: Path, root: Path) -> str:
    """An image's path in the dataset's folder; the absolute path of an image elsewhere, since ``..`` in a
    folder that is a symlink leads to another place.
    """
    if image.is_relative_to(root):
        return image.relative_to(root).as_posix()
    return os.path.abspath(image)


def _content(columns: list[list]) -> bytes:
    """The content of rows for a digest: their columns as JSON, which does not depend on library versions. Of
    an image outside the dataset's folder only the name is used, since its path differs between machines.
    """
    ids, places, *others = columns
    names = [os.path.basename(place) if os.path.isabs(place) else place for place in places]
    return json.dumps([ids, names, *others], separators=(",", ":")).encode()
