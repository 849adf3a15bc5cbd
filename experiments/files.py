"""Results appear in their folder all at once, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attngraph.errors import UserError


def check_out(out: Path) -> None:
    """Raises UserError where ``--out`` cannot become a folder with results: before hours of work, not after."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--out {out}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"--out {out}: {there} cannot be written to; name another folder, or change its permissions"
        )


@contextmanager
def published(out: Path, own: Sequence[str]) -> Iterator[Path]:
    """An empty folder to write into, whose files move to ``out`` when all are written.

    Args:
        out: made if it is not there. Its other files stay.
        own: patterns of the files that the command writes: those of earlier runs go.
    """
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=out))
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if made and not any(out.iterdir()):
            out.rmdir()
        raise
    written = {file.name for file in part.iterdir()}
    for name in written:
        os.replace(part / name, out / name)
    part.rmdir()
    for file in {file for pattern in own for file in out.glob(pattern)}:
        if file.name not in written:
            file.unlink()
