"""Another process that holds something until the block ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def holding(code: str, place: Path, says: str) -> Iterator[subprocess.Popen]:
    """The process, once it has said that it holds the place.

    Args:
        code: in Python; it gets the place as its argument.
        place: what it holds.
        says: the line that it prints then.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, place],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == f"{says}\n"
        yield process
    finally:
        process.kill()
        process.wait()
