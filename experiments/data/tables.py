"""Examples in Arrow tables: read from the annotation files once, then mapped into memory.

A table is a file in the cache folder (:func:`cache_folder`), named after the data set's folder, the split and
the format. A second file has the sizes and times of the annotation files and image folders that it was made
from: the table is made again when one of them has changed. All processes share its pages.

It uses pyarrow, not the library ``datasets``, whose import takes each worker a second.
"""

from __future__ import annotations

import gc
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

from attngraph.errors import UserError
from experiments.base.files import whole, write_json
from experiments.base.progress import Progress
from experiments.data.dataset import LIST, DataSet, Reader, Reading, nothing_in
from experiments.data.example import Example

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
    """What is known of a table.

    Args:
        state: what it was made from.
        digest: of what it holds, see :func:`_content`; the same wherever the same files were read.
        left_out: how many damaged records and examples it lacks.
        unscored: ids of these, and of what the official rules leave out.
    """

    state: list[Any]
    digest: str
    left_out: int
    unscored: list[str]


class Examples(Sequence[Example]):
    """Examples of a table, made when they are asked for.

    Args:
        table: with the columns of :data:`SCHEMA`.
        root: the data set's folder.
        about: the whole table.
        places: the rows, in this order; None for all.
    """

    def __init__(self, table: pa.Table, root: Path, about: About, places: np.ndarray | None = None):
        self.whole, self.root, self.about = table, root, about
        self.places = np.arange(table.num_rows) if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> Examples: ...

    def __getitem__(self, place: int | slice) -> Example | Examples:
        if isinstance(place, slice):
            return self.take(range(len(self))[place])
        return self._example(self.whole.slice(int(self.places[place]), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), ROWS):
            for row in self.whole.take(self.places[start : start + ROWS]).to_pylist():
                yield self._example(row)

    def take(self, places: Sequence[int] | np.ndarray) -> Examples:
        """The examples at these places, in this order."""
        return Examples(self.whole, self.root, self.about, self.places[np.asarray(places, np.int64)])

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the table."""
        return self.whole.column(name).take(self.places)

    def images(self) -> list[Path]:
        """Each picture once, in the order of the examples."""
        return [self.root / name for name in self.column("image").unique().to_pylist()]

    def _example(self, row: dict) -> Example:
        return Example(
            row["id"],
            self.root / row["image"],
            row["prompt"],
            tuple(row["references"]),
            row["kind"],
            groups=dict(row["groups"]),
        )


def table(data_set: DataSet, root: Path, split: str, form: str | None = None) -> Examples:
    """The examples of a split, from the table that an earlier call made or from the annotation files.

    Args:
        data_set: which.
        root: its folder.
        split: the split's official name.
        form: the format's name; None for the first one whose files exist.

    Raises:
        UserError: see :meth:`experiments.data.dataset.Reader.examples`; also if there is no example or
            the cache cannot be written.
    """
    reader = data_set.reader(root, split, form)
    state = _state(reader, root, split)
    named = json.dumps([data_set.name, reader.name, str(root.absolute()), split])
    name = f"{data_set.name}-{split}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    file = cache_folder() / "tables" / f"{name}.arrow"
    found = _open(file, root, state)
    if found is None:
        gc.disable()  # of millions of records none is in a cycle: looking for them takes a third of the time
        try:
            _write(file, state, data_set, reader, root, split)
        except OSError as error:
            raise no_room(file, error) from error
        finally:
            gc.enable()
        found = _open(file, root, state)
    if found is None:
        raise UserError(f"{file} cannot be read back after it was written: check the disk")
    return found


def cache_folder() -> Path:
    """Where tables are kept: ``$ATTNGRAPH_CACHE``, or ``attngraph`` in the user's cache folder."""
    given = os.environ.get("ATTNGRAPH_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attngraph"


def no_room(file: Path, error: OSError) -> UserError:
    """The error where a file of the cache folder cannot be written."""
    return UserError(
        f"{file} cannot be written ({error.strerror or error}): make room on the disk, or name another "
        "folder in the environment variable ATTNGRAPH_CACHE"
    )


def _state(reader: Reader, root: Path, split: str) -> list:
    """What a table was made from: another state makes another table."""
    state: list = [VERSION, f"{type(reader).__module__}.{type(reader).__qualname__}"]
    state.append(str(cache_folder().absolute()))  # where pictures of the hub's tables are
    for path in [root / LIST, *reader.files(root, split), *reader.image_folders(root, split)]:
        name = path.relative_to(root).as_posix()  # the same however the root is spelled
        stat = path.stat() if path.exists() else None
        state.append([name, stat and stat.st_size, stat and stat.st_mtime_ns])
    return state


def _open(file: Path, root: Path, state: list) -> Examples | None:
    """A table, mapped into memory; None if there is none, it is cut off, or it was made from other files."""
    try:
        about = About(**json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))
        if about.state != state:
            return None
        with pa.memory_map(str(file)) as source:
            return Examples(pa.ipc.open_file(source).read_all(), root, about)
    except (OSError, ValueError, TypeError, pa.ArrowInvalid):
        return None


def _write(file: Path, state: list, data_set: DataSet, reader: Reader, root: Path, split: str) -> None:
    """Read the annotation files into a table: the rows first, then what they were made from."""
    reading, digest = Reading(data_set.name, root), hashlib.sha256()
    bar = Progress(desc=f"reading {data_set.name} {split}", unit=f" {data_set.unit}", leave=False, delay=1)
    examples = reading.kept(reader.examples(root, split, reading))
    rows = 0
    with whole(file) as part, bar:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            while some := list(islice(examples, ROWS)):
                columns = [
                    [example.id for example in some],
                    [_place(example.image, root) for example in some],
                    [example.prompt for example in some],
                    [list(example.references) for example in some],
                    [example.kind for example in some],
                    [list(example.groups.items()) for example in some],
                ]
                writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
                digest.update(_content(columns))
                rows += len(some)
                bar.update(len(some))
        if not rows:
            raise nothing_in(data_set, reader, root, split)
    about = About(state, digest.hexdigest(), reading.left_out, sorted(reading.unscored | reading.lost))
    write_json(file.with_suffix(".json"), asdict(about))


def _place(image: Path, root: Path) -> str:
    """An image's place in the data set's folder; the whole path of one that is elsewhere, since a way up out
    of a folder that is a link leads to another place.
    """
    if image.is_relative_to(root):
        return image.relative_to(root).as_posix()
    return os.path.abspath(image)


def _content(columns: list[list]) -> bytes:
    """What a digest takes in of some rows: their columns as JSON, which no library's version changes. Of a
    picture outside of the data set's folder it takes the name alone, since it is elsewhere on each machine.
    """
    ids, places, *others = columns
    names = [os.path.basename(place) if os.path.isabs(place) else place for place in places]
    return json.dumps([ids, names, *others], separators=(",", ":")).encode()
