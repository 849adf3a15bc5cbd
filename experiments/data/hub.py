"""Datasets in the parquet files of the Hugging Face hub.

Downloaded files are in the folder ``hub`` of the dataset's folder, with the names of the repository
(``hub/data/val-00000-of-00002.parquet``) or those of :func:`download` (``hub/val.parquet``). Only that
function downloads, with the library ``datasets`` (extra ``hub``). These files also contain the images: each
is written once to an image file in the cache folder, named by its content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attngraph.errors import UserError
from attngraph.experiments.base.files import whole, write_bytes
from attngraph.experiments.base.messages import check_known, first_line
from attngraph.experiments.base.reading import Record, shown
from attngraph.experiments.data.dataset import Counts, DataSet, Fields, Reader, Reading
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.tables import cache_folder
from attngraph.extras import require

FOLDER, IMAGE = "hub", "image"
ROWS = 64  # with their pictures in memory at a time
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}
_SHARD = re.compile(r"-of-(\d+)\.parquet$")
_REMEDY = "download it again"


class Hub(Reader):
    """A dataset in the columns of a repository.

    Args:
        sources: split -> (repository, its name of the split).
        fields: names of the columns; a class label is read by its name.
        unanswered: splits whose references are ignored.
        published: published sizes of the splits.
    """

    name = "hub"

    def __init__(
        self,
        sources: Mapping[str, tuple[str, str]],
        fields: Fields,
        unanswered: tuple[str, ...] = (),
        published: Mapping[str, Counts] = {},
    ):
        self.sources, self.fields = sources, fields
        self.splits, self.unanswered, self.published = tuple(sources), unanswered, published
        repositories = dict.fromkeys(repository for repository, _ in sources.values())
        self.title = f"the Hugging Face hub's {', '.join(repositories)}, below {FOLDER}/"

    def files(self, root: Path, split: str) -> list[Path]:
        folder, name = root / FOLDER, self.sources[split][1]
        return (
            sorted(folder.rglob(f"{name}-*.parquet"))
            or [*folder.rglob(f"{name}.parquet")]
            or [folder / f"{name}.parquet"]
        )

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        files = self.files(reading.root, split)
        shards = _SHARD.search(files[0].name)
        if shards and len(files) != int(shards[1]):
            raise UserError(
                f"{files[0]}: only {len(files)} of {int(shards[1])} files of its split; download the others"
            )

        def example(row: Record) -> Example:
            annotation = None if split in self.unanswered else self.fields.annotation(row)
            return self.fields.example(row, _picture(row), annotation)

        yield from reading.each(files[0], _rows(files), example, self.fields.id)


def download(data_set: DataSet, root: Path, splits: Sequence[str] = ()) -> Iterator[Path]:
    """Download splits (by default all) from the hub into ``hub/`` in the dataset's folder, each completely or
    not at all. This is the only function here that uses the network. Yields each split's first file.

    Raises:
        UserError: no repository of a split is known, or it cannot be downloaded.
    """
    hub = next((reader for reader in data_set.readers if isinstance(reader, Hub)), None)
    if hub is None:
        raise UserError(f"{data_set.title}: no repository of the hub is known; see `attngraph data layout`")
    splits = splits or hub.splits
    check_known(splits, list(hub.splits), f"split of {data_set.title} on the hub")
    for split in splits:
        if not hub.found(root, split):
            repository, name = hub.sources[split]
            _download(repository, name, root / FOLDER / f"{name}.parquet")
        yield hub.files(root, split)[0]


def _download(repository: str, name: str, file: Path) -> None:
    require("datasets")
    import datasets

    try:
        rows = datasets.load_dataset(repository, split=name)
        with whole(file) as part:
            rows.to_parquet(part)
    except Exception as error:  # the library's own, those of the network, and those of the disk
        raise UserError(
            f"{repository}, split {name}: cannot be downloaded to {file} ({first_line(error)}); check the "
            "network and the disk, or copy the repository's files there"
        ) from error


def _rows(files: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its position; class labels by their names, images as bytes."""
    number = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as table:
                labels = _labels(table.schema_arrow)
                for batch in table.iter_batches(ROWS):
                    for row in batch.to_pylist():
                        for name, names in labels.items():
                            known = type(row[name]) is int and 0 <= row[name] < len(names)
                            row[name] = names[row[name]] if known else row[name]
                        yield f"row {number}", row
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: cannot be read ({first_line(error)}); {_REMEDY}") from error


def _labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes of each categorical column, in the metadata of the library ``datasets``."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _picture(row: Record) -> Path:
    """The file of a row's image."""
    value = row.field(IMAGE, dict)
    content = value.get("bytes")
    if not content:
        raise row.fault(f"field '{IMAGE}' of {row.where} is not an image ({shown(value)})", _REMEDY)
    return picture_file(content)


def picture_file(content: bytes) -> Path:
    """The file of an image in the cache folder, written unless a file with this content exists."""
    digest = hashlib.sha256(content).hexdigest()
    picture = cache_folder() / "pictures" / digest[:2] / f"{digest}{_SUFFIXES.get(content[:2], '.img')}"
    if not picture.is_file() or picture.stat().st_size != len(content):
        write_bytes(picture, content)
    return picture
