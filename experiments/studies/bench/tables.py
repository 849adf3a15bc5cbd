"""Tables of examples from a made VQA v2: the first start, a warm one, and all examples."""

from __future__ import annotations

import os
import shutil
import tempfile
from atexit import register
from pathlib import Path

from experiments.base.reading import records
from experiments.data.questions import VQA2
from experiments.data.tables import Examples, table
from experiments.studies.bench.measure import Run
from experiments.studies.bench.vqa2_files import write_vqa2

BASELINE = "parsing the files, once"
FIRST = "first start: train, val and test tables made"
WARM = "warm start: the three tables opened"
EVERY = "warm start, and every example made"
SPLITS = ("train", "val", "test")
_CACHE = "ATTNGRAPH_CACHE"
_PLACE = "ATTNGRAPH_BENCH_VQA2"  # tells the processes that measure memory where the files are


def runs(options: dict) -> dict[str, Run]:
    """The runs, on files in a temporary folder that this process or the one that started it has written.

    Args:
        options: ``share`` of VQA v2's size, ``seed``.
    """
    share = options["share"]
    place = _place() / f"{share}-{options['seed']}"
    root = place / "vqa2"
    if not root.exists():
        write_vqa2(root, share, options["seed"])
        start(root)
    return {
        BASELINE: lambda: parse(root),
        FIRST: lambda: first_start(root),
        WARM: lambda: start(root),
        EVERY: lambda: sum(1 for examples in start(root) for _ in examples),
    }


def parse(root: Path) -> None:
    """Parse the question and annotation files and do nothing with them."""
    for file in VQA2.reader(root, "train").files(root, "train"):
        name = next((name for name in ("questions", "annotations") if name in file.name), "images")
        for _ in records(file, name):
            pass


def first_start(root: Path) -> list[Examples]:
    """Make the tables."""
    shutil.rmtree(root.parent / "cache", ignore_errors=True)
    return start(root)


def start(root: Path) -> list[Examples]:
    """Open the tables; make those that are not there."""
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(root.parent / "cache")
    try:
        return [table(VQA2, root, split) for split in SPLITS]
    finally:
        os.environ.pop(_CACHE)
        if before is not None:
            os.environ[_CACHE] = before


def _place() -> Path:
    """The temporary folder, which goes when the process ends that made it."""
    if _PLACE not in os.environ:
        os.environ[_PLACE] = tempfile.mkdtemp(prefix="attngraph-bench-")
        register(shutil.rmtree, os.environ[_PLACE], ignore_errors=True)
    return Path(os.environ[_PLACE])
