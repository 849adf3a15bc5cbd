"""The one place that writes results: a file or folder appears whole under its name, or not at all.

====================== ===========================================================================
:func:`write_text`     a text
:func:`write_json`     JSON
:func:`write_bytes`    bytes
:func:`whole`          a file that some other function writes (``torch.save``, ``figure.savefig``)
:func:`whole_folder`   a new folder
:func:`published`      results that join, file by file, a folder that may hold others
:func:`remove_parts`   removes what killed processes left of all these
:func:`check_out`      whether a folder can be written to
:func:`check_files`    whether files can take the place of what is there
====================== ===========================================================================

Until then it has a temporary name in the same folder, which begins with ``.attngraph-`` and tells the process
that writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attngraph.errors import UserError

FILE_MODE, FOLDER_MODE = 0o644, 0o755  # temporary files and folders are private at first
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
LONGEST = 80  # letters of a name that its temporary name repeats
PUBLISHED = "results"  # names the temporary folder of `published`
PART = ".attngraph-"  # begins the names of temporary files and folders; host and process follow


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

    Raises:
        OSError: as the block raises it; with the file's name where it has none, such as on a full disk.
    """
    path, part = Path(path), None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_part_name(path.stem), suffix=path.suffix)
        os.close(handle)
        part = Path(name)
        yield part
        part.chmod(FILE_MODE)
        part.replace(path)
    except OSError as error:
        raise _naming(path, error) from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _naming(path: Path, error: OSError) -> OSError:
    """An error with the file's name, where it has none or that of a temporary neighbour."""
    if error.errno is None or (error.filename is not None and PART not in str(error.filename)):
        return error
    return OSError(error.errno, error.strerror, str(path))


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
    remove_parts(path.parent, path.name)
    part = Path(tempfile.mkdtemp(prefix=_part_name(path.name), dir=path.parent))
    try:
        yield part
        _open_to_readers(part)
        part.chmod(FOLDER_MODE)
        os.rename(part, path)  # replaces an empty folder, never one that holds files
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """An empty folder to write into, whose files move to ``out`` when all are written.

    Args:
        out: made if it does not exist. Files of the same names are replaced, others stay
            (:mod:`experiments.base.outputs` says whose they are). After an error in the block nothing has
            changed; nor is anything left over if files cannot move.

    Raises:
        OSError: as the block raises it; with the folder's name where it names no file.
    """
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    remove_parts(out, PUBLISHED)
    part = Path(tempfile.mkdtemp(prefix=_part_name(PUBLISHED), dir=out))
    try:
        yield part
        _open_to_readers(part)
        for file in sorted(part.iterdir()):
            os.replace(file, out / file.name)
    except OSError as error:
        named = Path(str(error.filename))
        raise _naming(out / named.name if part in named.parents else out, error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if is_new and not any(out.iterdir()):
            out.rmdir()


def _open_to_readers(folder: Path) -> None:
    """Lets others read what lies in a folder: safetensors writes files that are private."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)


def remove_parts(folder: Path, name: str | None = None) -> None:
    """Removes temporary files and folders that processes of this machine left when they were killed; nothing
    else, and nothing of a process that runs.

    Args:
        folder: where to look.
        name: only parts of this file or folder, directly in ``folder``; None for all parts, in all folders
            below too.
    """
    pattern = re.compile(
        rf"{re.escape(PART)}{HOST}-(\d+)-{'' if name is None else re.escape(name[:LONGEST]) + '-'}"
    )
    for place, folders, files in os.walk(folder):
        for found in (*folders, *files):
            match = pattern.match(found)
            if match is None or is_running(int(match[1])):
                continue
            path = Path(place, found)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        folders[:] = [] if name is not None else [one for one in folders if not one.startswith(PART)]


def is_running(process: int) -> bool:
    """Whether a process of this machine runs, by its number. One that has ended and that nobody has asked
    about (a zombie) does not.
    """
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's process, or no Linux
        return True


def _part_name(name: str) -> str:
    return f"{PART}{HOST}-{os.getpid()}-{name[:LONGEST]}-"


def check_out(out: Path) -> None:
    """Raises :class:`~attngraph.errors.UserError` where ``--out`` cannot become a folder with results.

    A command calls it first, so that the user learns of it before hours of work and not after. Rights alone
    do not tell: the superuser has them on ``/proc`` too.
    """
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        what = "a link that leads to no folder" if nearest.is_symlink() else "a file"
        raise UserError(f"--out {out}: {nearest} is {what}; name a folder")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=_part_name("try"), dir=nearest))
    except OSError as error:
        raise UserError(
            f"--out {out}: {nearest} cannot be written to ({error.strerror}); name another folder, or change "
            "its permissions"
        ) from None


def check_files(paths: Iterable[Path]) -> None:
    """Raises :class:`~attngraph.errors.UserError` where something under these names is no file."""
    for path in sorted(paths):
        if os.path.lexists(path) and not path.is_file():
            raise UserError(
                f"--out {path.parent}: {path.name} is no file: move it away, or give another --out"
            )
