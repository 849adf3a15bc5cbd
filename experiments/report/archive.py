"""A table's raw results in few small files: one compressed archive for each seed.

``seed-00.tar.xz`` holds what every finished cell of seed 0 left (:mod:`experiments.training.saved`), under
the names of the run folder: ``cells/ROW/TASK/seed0/scores.json`` and so on. The same cells give the same
bytes, on every machine and whenever they are packed. Texts stay as they are. Statistics are integers or
float32 where that changes no number by more than :data:`EXACT`, else float64, and not compressed by
themselves, so that xz finds what the rows have in common.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.files import published, whole
from experiments.tasks import TASKS
from experiments.training.saved import (
    AT_RATE,
    CONFIG,
    PREDICTIONS,
    SCORES,
    STATISTICS,
    read_config,
    read_result,
)

FILES = (CONFIG, SCORES, STATISTICS, PREDICTIONS)
PATTERN = "seed-*.tar.xz"
EXACT = 1e-6
MOST_FILES, MOST_BYTES = 100_000, 2**31  # of an archive, unpacked
_NAME = re.compile(r"cells/([A-Za-z0-9_][\w.-]*)/([A-Za-z0-9_][\w.-]*)/seed(\d{1,10})/([a-z.]+)", re.ASCII)


def pack(run: Path, out: Path) -> list[Path]:
    """Write the archives of a run folder's finished cells; returns their paths.

    Args:
        run: folder with ``cells``.
        out: folder of the archives. One that is there is replaced where the new one holds the same and more.

    Raises:
        UserError: no cell is finished, one is damaged, or an archive holds what the new one does not.
    """
    by_seed: dict[int, dict[str, bytes]] = {}
    for folder in finished_cells(run):
        by_seed.setdefault(_seed(folder), {}).update(_packed(folder))
    if not by_seed:
        raise UserError(f"{run} holds no finished cells (cells/ROW/TASK/seedN): give the folder of a table")
    paths = {out / f"seed-{seed:02}.tar.xz": members for seed, members in sorted(by_seed.items())}
    for path, members in paths.items():
        if os.path.lexists(path):
            held = read_archive(path)
            if lost := [name for name in held if members.get(name) != held[name]]:
                raise UserError(
                    f"{path} holds {lost[0]}, which {run} lacks or has otherwise: move the archive away, or "
                    "give another --out"
                )
    for path, members in paths.items():
        _write_archive(path, members)
    return list(paths)


def restore(archives: Sequence[Path], out: Path) -> int:
    """Put the cells of archives into a run folder, from which ``attngraph ablation`` goes on; returns how
    many are new. Nothing is written unless all archives are whole.

    Args:
        archives: files.
        out: run folder; a cell that is there already must be the same.

    Raises:
        UserError: an archive is damaged, or a cell in ``out`` is another.
    """
    with published(out) as part:
        for number, archive in enumerate(archives):
            unpack(archive, part / str(number))
        moves: dict[Path, Path] = {}  # where a cell goes -> where it is
        for number, archive in enumerate(archives):
            for cell in finished_cells(part / str(number)):
                target = out / cell.relative_to(part / str(number))
                if target in moves:
                    if _contents(moves[target]) != _contents(cell):
                        raise UserError(
                            f"{archive} and another archive hold different runs for {target}: keep one"
                        )
                elif _is_free(target):
                    moves[target] = cell
                elif not (target / SCORES).exists() or _packed(target) != _packed(cell):
                    raise UserError(
                        f"{target} is there already, and is not the run in {archive}: give another --out, or "
                        "move it away"
                    )
        for target, cell in moves.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(cell, target)
        for number in range(len(archives)):
            shutil.rmtree(part / str(number))
    return len(moves)


def unpack(archive: Path, folder: Path) -> None:
    """Write an archive's cells into a folder without them, each checked as a finished cell is.

    Raises:
        UserError: the archive is damaged.
    """
    for name, content in read_archive(archive).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == STATISTICS:
            try:
                with np.load(io.BytesIO(content), allow_pickle=False) as arrays, open(path, "wb") as file:
                    np.savez_compressed(file, **{key: arrays[key].astype(np.float64) for key in arrays.files})
            except Exception as error:
                raise _damaged(archive, f"{name}: {type(error).__name__}: {first_line(error)}") from None
        else:
            path.write_bytes(content)
    for cell in finished_cells(folder):
        try:
            _check(cell)
        except UserError as error:
            reason = str(error).replace(f"{folder}{os.sep}", "").partition(": delete")[0]
            raise _damaged(archive, reason) from None


def read_archive(archive: Path) -> dict[str, bytes]:
    """Name -> content of an archive's files.

    Raises:
        UserError: it cannot be read, or holds something else than whole cells.
    """
    if not archive.is_file():
        raise UserError(f"{archive} is no file: give a folder of archives {PATTERN}")
    members: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(archive, "r|xz") as tar:
            for member in tar:
                match, size = _NAME.fullmatch(member.name), size + member.size
                if not member.isreg() or match is None or match[4] not in FILES or member.name in members:
                    raise _damaged(archive, f"{member.name!r} is no file of a cell, or is there twice")
                if size > MOST_BYTES or len(members) >= MOST_FILES:
                    raise _damaged(archive, f"more than {MOST_BYTES} bytes or {MOST_FILES} files")
                stream = tar.extractfile(member)
                members[member.name] = b"" if stream is None else stream.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError, MemoryError) as error:
        raise _damaged(archive, f"{type(error).__name__}: {first_line(error)}") from None
    cells = {name.rpartition("/")[0] for name in members}
    lacking = [f"{cell}/{file}" for cell in cells for file in FILES if f"{cell}/{file}" not in members]
    if lacking or not members:
        raise _damaged(archive, f"{min(lacking)} is missing" if lacking else "it holds no cells")
    return members


def finished_cells(run: Path) -> list[Path]:
    """The folders of a run folder's finished cells, by seed and then by name; those of ``attngraph sweep``
    are no table's, and are left out.

    Raises:
        UserError: a row or task has a name that no archive takes.
    """
    found = [file.parent for file in run.glob(f"cells/*/*/seed*/{SCORES}")]
    found = [folder for folder in found if _seed(folder) >= 0 and AT_RATE not in folder.parent.parent.name]
    for folder in found:
        if not _NAME.fullmatch(_name(folder, SCORES)):
            raise UserError(
                f"{folder}: names of rows and tasks may hold only letters, digits and _ . - in archives: "
                "rename the method or task"
            )
    return sorted(found, key=lambda folder: (_seed(folder), _name(folder, "")))


def cell_of(folder: Path) -> tuple[str, str, int]:
    """Row, task and seed of a cell's folder."""
    return folder.parent.parent.name, folder.parent.name, _seed(folder)


def _is_free(target: Path) -> bool:
    """Whether a cell can be put there: nothing is in the place, or an empty folder.

    Raises:
        UserError: a file stands where a folder above it has to be.
    """
    if blocking := [above for above in target.parents if above.exists() and not above.is_dir()]:
        raise UserError(
            f"{blocking[0]} is a file in the place of a folder: give another --out, or move it away"
        )
    return not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir()))


def _packed(folder: Path) -> dict[str, bytes]:
    """Name -> content in the archive, of a cell's files."""
    _check(folder)
    return {_name(folder, file): content for file, content in _contents(folder).items()}


def _contents(folder: Path) -> dict[str, bytes]:
    """File -> what stands for it in an archive."""
    contents = {file: (folder / file).read_bytes() for file in FILES if file != STATISTICS}
    with np.load(folder / STATISTICS) as arrays:
        small = {key: _smallest(arrays[key]) for key in sorted(arrays.files)}
    buffer = io.BytesIO()
    np.savez(buffer, **small)
    return {**contents, STATISTICS: buffer.getvalue()}


def _smallest(values: np.ndarray) -> np.ndarray:
    """The array in the smallest type that keeps its numbers."""
    values = np.asarray(values, dtype=np.float64)
    if np.array_equal(values, np.round(values)) and np.abs(values).max(initial=0) < 2**15:
        return values.astype(np.int16)
    short = values.astype(np.float32)
    return short if np.abs(short - values).max(initial=0) <= EXACT else values


def _check(folder: Path) -> None:
    """Raise UserError unless a cell is whole."""
    row, task, seed = cell_of(folder)
    if task not in TASKS:
        raise UserError(
            f"{folder} is of the task {task!r}, which is not known: load its file with --plugin FILE"
        )
    read_config(folder)
    read_result(folder, row, TASKS[task], seed)


def _write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """The files of one kind and task stand beside each other, since they have most in common."""
    order = sorted(members, key=lambda name: (name.split("/")[4], name.split("/")[2], name))
    with whole(path) as part, lzma.open(part, "wb", preset=9) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in order:
                about = tarfile.TarInfo(name)  # owner, time: 0; mode: 0o644
                about.size = len(members[name])
                tar.addfile(about, io.BytesIO(members[name]))


def _name(folder: Path, file: str) -> str:
    row, task, _ = cell_of(folder)
    return f"cells/{row}/{task}/{folder.name}/{file}"


def _seed(folder: Path) -> int:
    digits = folder.name.removeprefix("seed")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def _damaged(archive: Path, reason: str) -> UserError:
    return UserError(f"{archive} is damaged ({reason}): restore the file, or pack it again")
