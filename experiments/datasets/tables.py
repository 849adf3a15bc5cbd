"""Examples in Arrow tables: read from the annotation files once, then mapped into memory.

A table is a file in the cache folder (:func:`cache_folder`). Its name follows from the data set's folder, the
split and the format; inside stand the sizes and times of the annotation files and image folders that it was
made from, and it is made anew when one of them has changed. All processes share its pages.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import pyarrow as pa

from attngraph.errors import UserError
from experiments.datasets.dataset import DataSet, Reader
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.files import whole, write_json
from experiments.progress import Progress

VERSION = 2  # raise it whenever a reader gives other examples for the same files
ROWS = 10_000  # written, and read while iterating, at a time
_WHOLE: set[tuple[str, int, int, int]] = set()  # files that this process has read whole
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


class Examples(Sequence[Example]):
    """The examples of a table, made when they are asked for.

    Args:
        table: with the columns of :data:`SCHEMA`.
        root: the data set's folder.
        digest: of what the whole table holds, see :func:`_content`; it is the same wherever the same files
            were read.
    """

    def __init__(self, table: pa.Table, root: Path, digest: str = ""):
        self.table, self.root, self.digest = table, root, digest

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> Examples: ...

    def __getitem__(self, place: int | slice) -> Example | Examples:
        if isinstance(place, slice):
            return self.take(range(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self._example(self.table.slice(place % len(self), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), ROWS):
            for row in self.table.slice(start, ROWS).to_pylist():
                yield self._example(row)

    def take(self, places: Sequence[int]) -> Examples:
        """The examples at these places, in this order."""
        return Examples(self.table.take(pa.array(places, pa.int64())), self.root)

    def images(self) -> list[Path]:
        """Each picture once, in the order of the examples."""
        names = self.table.column("image").unique().to_pylist()
        return [self.root / name for name in names]

    def _example(self, row: dict) -> Example:
        return Example(
            row["id"],
            self.root / row["image"],
            row["prompt"],
            tuple(row["references"]),
            row["kind"],
            groups=dict(row["groups"]),
        )


def table(
    data_set: DataSet, root: Path, split: str, faults: Faults | None = None, form: str | None = None
) -> Examples:
    """The examples of a split, from the table that an earlier call made or from the annotation files.

    Args:
        data_set: which.
        root: its folder.
        split: the split's official name.
        faults: decides about damaged records, and gets what was left out; by default none may be.
        form: the format's name; None for the first one whose files are there.

    Raises:
        UserError: see :meth:`experiments.datasets.dataset.Reader.examples`; also if there is no example or
            the cache cannot be written.
    """
    root, faults = Path(root), Faults() if faults is None else faults
    reader = data_set.reader(root, split, form)
    state = _state(reader, root, split)
    file = cache_folder() / "tables" / f"{_name(data_set, reader, root, split)}.arrow"
    found = _open(file, state)
    if found is None:
        _write(file, state, data_set, reader, root, split, faults)
        found = _open(file, state)
        if found is None:
            raise UserError(f"{file} cannot be read back after it was written: check the disk")
    rows, left_out, digest = found
    for message in left_out:
        faults.add(message)
    return Examples(rows, root, digest)


def cache_folder() -> Path:
    """Where tables are kept: ``$ATTNGRAPH_CACHE``, or ``attngraph`` in the user's cache folder."""
    given = os.environ.get("ATTNGRAPH_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attngraph"


def _name(data_set: DataSet, reader: Reader, root: Path, split: str) -> str:
    about = json.dumps([data_set.name, reader.name, str(root.absolute()), split])
    return f"{data_set.name}-{split}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"


def _state(reader: Reader, root: Path, split: str) -> list:
    """What a table was made from: another state makes another table."""
    state: list = [VERSION, f"{type(reader).__module__}.{type(reader).__qualname__}"]
    state.append(str(cache_folder().absolute()))  # where pictures of the hub's tables lie
    for path in [*reader.files(root, split), *reader.image_folders(root, split)]:
        name = path.relative_to(root).as_posix()  # the same however the root is spelled
        if path.exists():
            stat = path.stat()
            state.append([name, stat.st_size, stat.st_mtime_ns])
        else:
            state.append([name, None, None])
    return state


def _open(file: Path, state: list) -> tuple[pa.Table, list[str], str] | None:
    """A table, mapped into memory, what was left out of it, and its digest; None if there is none, it is
    damaged, or it was made from other files.
    """
    try:
        about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        if about["state"] != state or not _is_whole(file, about["checksum"]):
            return None
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all(), about["left out"], about["digest"]
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowInvalid):
        return None


def _is_whole(file: Path, checksum: int) -> bool:
    """Whether a file has a checksum; it is read once in a process."""
    stat = file.stat()
    known = (str(file), stat.st_size, stat.st_mtime_ns, checksum)
    if known not in _WHOLE and _checksum(file) == checksum:
        _WHOLE.add(known)
    return known in _WHOLE


def _checksum(file: Path) -> int:
    value = 0
    with open(file, "rb") as stream:
        while part := stream.read(1 << 22):
            value = zlib.crc32(part, value)
    return value


def _write(
    file: Path, state: list, data_set: DataSet, reader: Reader, root: Path, split: str, faults: Faults
) -> None:
    """Read the annotation files into a table: the rows first, then what they were made from."""
    found = Faults(faults.limit)
    bar = Progress(desc=f"reading {data_set.name} {split}", unit=f" {data_set.unit}", leave=False, delay=1)
    try:
        with whole(file) as part, bar:
            rows, digest = 0, hashlib.sha256()
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
                for columns in _batches(reader.examples(root, split, found), root):
                    batch = pa.record_batch(columns, schema=SCHEMA)
                    writer.write_batch(batch)
                    digest.update(_content(columns))
                    rows += batch.num_rows
                    bar.update(batch.num_rows)
            if not rows:
                raise UserError(
                    f"{reader.files(root, split)[0]}: split {split!r} has no {data_set.unit}"
                    + (f" that can be used ({found.messages[0]})" if found else "; give the official file")
                )
            checksum = _checksum(part)
        about = {
            "state": state,
            "checksum": checksum,
            "digest": digest.hexdigest(),
            "left out": found.messages,
        }
        write_json(file.with_suffix(".json"), about)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror or error}): make room on the disk, or name another "
            "folder in the environment variable ATTNGRAPH_CACHE"
        ) from error


def _batches(examples: Iterator[Example], root: Path) -> Iterator[list[list]]:
    """The examples as columns."""
    while some := list(islice(examples, ROWS)):
        yield [
            [example.id for example in some],
            [_place(example.image, root) for example in some],
            [example.prompt for example in some],
            [list(example.references) for example in some],
            [example.kind for example in some],
            [list(example.groups.items()) for example in some],
        ]


def _place(image: Path, root: Path) -> str:
    """An image's place in the data set's folder; the whole path of one that is elsewhere, since a way up out
    of a folder that is a link leads to another place.
    """
    path, folder = str(image), "" if str(root) == "." else f"{root}{os.sep}"
    return path[len(folder) :] if path.startswith(folder) else os.path.abspath(path)


def _content(columns: list[list]) -> bytes:
    """What a digest takes in of some rows: their columns as JSON, which no library's version changes. Of a
    picture outside of the data set's folder it takes the name alone, since it lies elsewhere on each machine.
    """
    ids, places, *others = columns
    names = [os.path.basename(place) if os.path.isabs(place) else place for place in places]
    return json.dumps([ids, names, *others], separators=(",", ":")).encode()
