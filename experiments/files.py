"""The one place that writes results: a file or folder appears whole under its name, or not at all.

====================== ===========================================================================
:func:`write_text`     a text
:func:`write_json`     JSON
:func:`write_bytes`    bytes
:func:`whole`          a file that some other function writes (``torch.save``, ``figure.savefig``)
:func:`whole_folder`   a new folder
:func:`published`      results that join, file by file, a folder that may hold others
====================== ===========================================================================
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attngraph.errors import UserError

FILE_MODE, FOLDER_MODE = 0o644, 0o755  # temporary files and folders are private at first


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary neighbour to write to, which takes the name ``path`` when the block ends.

    After an error or an interrupt the neighbour is removed, and an older file at ``path`` stays as it was.
    Several processes may write the same file: the last one wins::

        with whole(folder / "model.pt") as part:
            torch.save(state, part)

    Args:
        path: the file; missing folders above it are made.

    Yields:
        An empty file in the same folder with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(FILE_MODE)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text in UTF-8, whole or not at all; returns the path."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes bytes, whole or not at all; returns the path."""
    with whole(path) as part:
        part.write_bytes(content)
    return Path(path)


def write_json(path: str | Path, content: Any, indent: int | None = 1, **options: Any) -> Path:
    """Writes JSON, whole or not at all; returns the path.

    Args:
        path: the file.
        content: what :func:`json.dumps` takes.
        indent: spaces for each level, and a line break at the end; ``None`` writes one line without it.
        options: more arguments of :func:`json.dumps`, such as ``default=float`` for NumPy's numbers.
    """
    text = json.dumps(content, indent=indent, **options)
    return write_text(path, text if indent is None else text + "\n")


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A temporary neighbour to fill, which takes the name ``path`` when the block ends.

    After an error or an interrupt the neighbour is removed with all that it holds.

    Args:
        path: the folder: missing, or empty; missing folders above it are made.

    Raises:
        OSError: ``path`` is a file or a folder with files when the block ends.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield part
        part.chmod(FOLDER_MODE)
        os.rename(part, path)  # replaces an empty folder, never one that holds files
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """An empty folder to write into, whose files move to ``out`` when all are written.

    Args:
        out: made if it does not exist. Files of the same names are replaced, others stay
            (:mod:`experiments.outputs` says whose they are).
    """
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=out))
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if is_new and not any(out.iterdir()):
            out.rmdir()
        raise
    for file in sorted(part.iterdir()):
        os.replace(file, out / file.name)
    part.rmdir()


def check_out(out: Path) -> None:
    """Raises :class:`~attngraph.errors.UserError` where ``--out`` cannot become a folder with results.

    A command calls it first, so that the user learns of it before hours of work and not after.
    """
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--out {out}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"--out {out}: {nearest} cannot be written to; name another folder, or change its permissions"
        )
