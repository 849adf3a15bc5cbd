"""Atomic writing of results: a file or folder appears complete under its name, or not at all.

Until then it has a temporary name in the same folder, which begins with ``.attngraph-`` and contains the
machine and the process that write it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attngraph.errors import UserError

FILE_MODE, FOLDER_MODE = 0o644, 0o755  # libraries write some files that nobody else may read
HOST = re.sub(r"\W", "", socket.gethostname())
PART = ".attngraph-"  # begins the names of temporary files and folders; host and process follow


def _part(folder: Path, suffix: str = "") -> Path:
    return folder / f"{PART}{HOST}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary file in the same folder, which is renamed to ``path`` when the block ends.

    After an error or an interrupt the temporary file is removed, and an older file at ``path`` is unchanged.
    Several processes may write the same file: the last one wins::

        with whole(folder / "model.pt") as part:
            torch.save(state, part)

    Args:
        path: the file; missing parent folders are created.

    Yields:
        A name in the same folder with the same suffix.

    Raises:
        OSError: as raised by the block; with the file's name if the error lacks it, such as for a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path.parent, path.suffix)
    try:
        yield part
        part.chmod(FILE_MODE)
        part.replace(path)
    except OSError as error:
        raise _naming(path, error) from None
    finally:
        part.unlink(missing_ok=True)


def _naming(path: Path, error: OSError) -> OSError:
    """An error with the file's name, if it has no name or that of a temporary file."""
    if error.errno is None or (error.filename is not None and PART not in str(error.filename)):
        return error
    return OSError(error.errno, error.strerror, str(path))


def write_text(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8, completely or not at all; returns the path."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write bytes, completely or not at all; returns the path."""
    with whole(path) as part:
        part.write_bytes(content)
    return Path(path)


def write_json(path: str | Path, content: Any, indent: int | None = 1, **options: Any) -> Path:
    """Write JSON, completely or not at all; returns the path.

    Args:
        path: the file.
        content: a value for :func:`json.dumps`.
        indent: spaces per level, with a final line break; ``None`` for a single line without a line break.
        options: further arguments of :func:`json.dumps`, such as ``default=float`` for NumPy numbers.
    """
    text = json.dumps(content, indent=indent, **options)
    return write_text(path, text if indent is None else text + "\n")


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """An empty folder to write into, whose content moves to ``out`` when the block ends.

    Args:
        out: created atomically if it does not exist, with missing parent folders. In an existing folder,
            files of the same names are replaced and others stay (see
            :mod:`attngraph.experiments.base.outputs`). After an error in the block nothing has changed.

    Raises:
        OSError: as raised by the block, or if something cannot be moved; with a file name.
    """
    is_new = not out.exists()
    if is_new:
        out.parent.mkdir(parents=True, exist_ok=True)
    part = _part(out.parent if is_new else out)
    try:
        if is_new:  # what a killed process has left of it; elsewhere a command's lock tells who removes it
            remove_parts(out.parent, below=False)
        part.mkdir(FOLDER_MODE)
        yield part
        for path in part.rglob("*"):
            if not path.is_symlink():
                path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
        if is_new:
            part.rename(out)
        else:
            for path in sorted(part.iterdir(), key=lambda path: (path.is_file(), path.name)):
                os.replace(path, out / path.name)
    except OSError as error:
        named = Path(str(error.filename))
        raise _naming(out / named.name if part in named.parents else out, error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_parts(folder: Path, below: bool = True) -> None:
    """Remove temporary files and folders that killed processes of this machine left in a folder, and
    ``below`` it. Files of running processes are not touched.
    """
    for place, folders, files in os.walk(folder) if below else itertools.islice(os.walk(folder), 1):
        for found in (*folders, *files):
            match = re.match(rf"{re.escape(PART + HOST)}-(\d+)-", found)
            if match is None or is_running(int(match[1])):
                continue
            path = Path(place, found)
            if found in folders and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether the process with this number runs on this machine. Zombies do not count as running."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's process, or no Linux
        return True


def check_out(out: Path) -> None:
    """Raise :class:`~attngraph.errors.UserError` if ``--out`` cannot become a folder of results.

    Commands call it first, so that the error comes before hours of work and not after. Permissions alone are
    not sufficient: the superuser also has them for ``/proc``.
    """
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise UserError(f"--out {out}: {nearest} is not a folder; use another path")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=PART, dir=nearest))
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot write to {nearest} ({error.strerror}); use another folder, or change the "
            "permissions"
        ) from None
