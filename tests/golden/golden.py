"""Golden transcripts: what commands print and write, to the last bit, before and after a change of the code.

    python -m tests.golden.golden                  # run everything again and compare (about 20 minutes)
    python -m tests.golden.golden --only smoke     # one of the parts, in seconds
    python -m tests.golden.golden --write          # a change is meant: put the new transcripts in their place

A transcript is a text file in ``transcripts``. It holds what a command printed and the result files that it
wrote, without times, sizes of memory, versions and paths. Pictures are left out; arrays, predictions and
weights stand as digests. Scores of trained rows are equal to the bit on machines of the same kind only, with
one thread (the kind is written on top of each transcript); elsewhere expect the last digits to differ.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TRANSCRIPTS = Path(__file__).parent / "transcripts"
KEPT = ("row", "task", "seed", "split", "scores", "kinds", "examples", "trained_on", "parameters")
KEPT += ("parameter_shares", "loss", "learned", "effects", "best_step", "validations")
STEPS = 60  # of which every loss is shown; the digest is of all
MEASURED = ("seconds", "peak_mb", "train_seconds", "eval_seconds")  # columns that are new every time
TIMES = re.compile(r"\d+(?:\.\d+)? (?:s|min|h)\b|\d+:\d\d(?::\d\d)?|[\d,]+(?:\.\d+)? [MG]B\b")


def digest(*parts: bytes) -> str:
    """Of all parts, in short."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def of_arrays(arrays: dict[str, np.ndarray]) -> list[str]:
    """A line per array: name, type, shape, digest."""
    return [
        f"{name} {array.dtype} {list(array.shape)} {digest(np.ascontiguousarray(array).tobytes())}"
        for name, array in sorted(arrays.items())
    ]


def _scores(file: Path) -> list[str]:
    content = json.loads(file.read_text())
    return [f"{name}: {json.dumps(content[name])}" for name in KEPT if name in content]


def _losses(file: Path) -> list[str]:
    lines = [",".join(line.split(",")[:3]) for line in file.read_text().splitlines()]
    return [*lines[: STEPS + 1], f"{len(lines) - 1} steps, {digest(*map(str.encode, lines))}"]


def _json(file: Path) -> list[str]:
    content = json.loads(file.read_text())
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return (
        [text]
        if len(text) < 2000
        else [f"{text[:500]} ...", f"{len(content)} entries, {digest(text.encode())}"]
    )


def _arrays(file: Path) -> list[str]:
    with np.load(file) as arrays:
        return of_arrays(dict(arrays))


def _tensors(file: Path) -> list[str]:
    return of_arrays({name: tensor.float().numpy() for name, tensor in load_file(file).items()})


def _table(file: Path) -> list[str]:
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    text = table.drop(columns=[name for name in MEASURED if name in table]).to_csv(index=False)
    lines = text.splitlines()
    return lines if len(lines) < 100 else [*lines[:40], f"{len(lines) - 1} rows, {digest(text.encode())}"]


#: Pattern of a file's name -> how it is shown; the first that fits.
SHOWN: dict[str, Callable[[Path], list[str]]] = {
    "scores.json": _scores,
    "metrics.csv": _losses,
    "*.json": _json,
    "*.npz": _arrays,
    "*.safetensors": _tensors,
    "*.csv": _table,
}


class Room:
    """A folder in which the commands of a part run.

    Args:
        folder: new and empty.
    """

    def __init__(self, folder: Path):
        self.folder, self.lines = folder, [f"# {platform.machine()}, torch {torch.__version__}"]

    def run(self, *words: str) -> None:
        """Runs ``attngraph WORDS`` and notes what it prints on standard output."""
        self.lines += ["", f"$ attngraph {' '.join(words)}".replace(f"{ROOT}/", "")]
        place = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        command = [sys.executable, "-m", "attngraph", *words, "--quiet"]
        done = subprocess.run(command, cwd=self.folder, env=place, capture_output=True, text=True)
        printed = done.stdout.replace(f"{self.folder}/", "").replace(f"{ROOT}/", "")
        printed = re.sub(r"Method +Peak MB\n.*?(?=Scores ×)", "", printed, flags=re.DOTALL)
        has_memory = False  # in the last column of the lines that follow
        for line in printed.splitlines():
            has_memory = line.endswith("Peak MB") or (has_memory and not line.startswith("Scores"))
            shown = re.sub(r"  +", "  ", TIMES.sub("T", line)).rstrip()
            if shown.strip("─"):
                self.lines.append(re.sub(r"[\d,]+$", "M", shown) if has_memory else shown)
        if done.returncode:
            raise SystemExit(
                f"attngraph {' '.join(words)} ended with {done.returncode}: {done.stderr[-3000:]}"
            )

    def show(self, *patterns: str) -> None:
        """Notes the contents of files, by patterns from the folder on."""
        for pattern in patterns:
            files = sorted(self.folder.glob(pattern))
            if not files:
                raise SystemExit(f"no {pattern} in {self.folder}")
            for file in files:
                show = next(show for name, show in SHOWN.items() if file.match(name))
                self.lines += ["", f"== {file.relative_to(self.folder)}", *show(file)]


CELL = ("scores.json", "metrics.csv", "predictions.json", "statistics.npz")


def cells(out: str) -> list[str]:
    """The patterns of all runs' files."""
    return [f"{out}/cells/*/*/*/{name}" for name in CELL]


def smoke(room: Room) -> None:
    room.run("ablation", "--preset", "smoke", "--out", "out")
    room.show(*cells("out"), "out/ablation.csv")


def quick(room: Room) -> None:
    room.run("ablation", "--out", "out")
    room.show(*cells("out"), "out/significance.json")


def table(room: Room) -> None:
    room.run("table", "main", "--rows", "lora", "--tasks", "snli_ve,textcaps", "--seeds", "1", "--out", "out")
    room.show(*cells("out"))


def train(room: Room) -> None:
    room.run("train", "scenes-pgnn", "--out", "out", "--track", "none")
    room.show(*cells("out"), "out/cells/*/*/*/*.safetensors")


def planted(room: Room) -> None:
    room.run("planted", "--preset", "quick", "--out", "out")
    room.show("out/*.csv")


def heterophily(room: Room) -> None:
    room.run("heterophily", "--examples", "16", "--spectra", "--clusters", "3", "--out", "out")
    room.show("out/*.csv")


def tsne(room: Room) -> None:
    room.run("tsne", "--examples", "16", "--points", "300", "--method", "pca", "--out", "out")
    room.show("out/*.csv")


def attention(room: Room) -> None:
    room.run("attention", "--examples", "16", "--pictures", "2", "--out", "out")
    room.show("out/*.csv")


def convert(room: Room) -> None:
    from tests.experiments.models.original import authors_blip, authors_mplug

    authors_blip.save_checkpoint(room.folder / "blip", "pretraining")
    room.run("convert", "blip", "blip/blip.pth", "--out", "captioner")
    room.run("convert", "blip", "blip/blip.pth", "--as", "vqa", "--out", "vqa")
    room.run("convert", "blip", "blip/blip.pth", "--side", "16", "--out", "larger")
    authors_mplug.save_checkpoint(room.folder / "mplug", authors_mplug.weights())
    room.run("convert", "mplug", "mplug/mplug.pth", "--out", "mplug-vqa")
    room.show(*(f"{name}/model.safetensors" for name in ("captioner", "vqa", "larger", "mplug-vqa")))
    room.show(*(f"{name}/config.json" for name in ("captioner", "vqa", "mplug-vqa")))


def predict(room: Room) -> None:
    room.run("data", "make", "scenes", "--size", "60", "--out", "six")
    (room.folder / "run.yaml").write_text("{method: pgnn, task: vqa2, data: six, recipe: {steps: 3}}")
    for task, split in (("vqa2", "test"), ("snli_ve", "test"), ("textcaps", "val"), ("vizwiz_vqa", "val")):
        room.run("train", "run.yaml", "--set", f"task={task}", "--track", "none", "--out", "out")
        run = f"out/cells/pgnn/{task}/seed0"
        room.run("predict", run, "--data", "six", "--split", split, "--out", f"answers/{task}")
        room.run(
            "score", f"{run}/predictions.json", "--task", task, "--data", "six", "--out", f"score/{task}"
        )
    room.show("answers/*/results.json", "score/*/scores.csv")


def significance(room: Room) -> None:
    room.run("significance", str(ROOT / "experiments" / "results" / "full"), "--out", "out")
    room.show("out/**/*.csv")


PARTS = (
    smoke, train, table, convert, predict, planted, heterophily, tsne, attention, significance, quick
)  # fmt: skip


def made(part: Callable[[Room], None]) -> Iterator[str]:
    """The lines of a part's transcript, run now."""
    folder = Path(tempfile.mkdtemp(prefix=f"golden-{part.__name__}-"))
    try:
        room = Room(folder)
        part(room)
        yield from (f"{line}\n" for line in room.lines)
    finally:
        shutil.rmtree(folder)


def main(words: list[str] | None = None) -> Any:
    """Compares parts with their transcripts, or writes these; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(words)
    different = 0
    for part in PARTS:
        if args.only and part.__name__ not in args.only:
            continue
        now, file = list(made(part)), TRANSCRIPTS / f"{part.__name__}.txt"
        if args.write:
            file.write_text("".join(now))
        before = file.read_text().splitlines(keepends=True)
        lines = list(difflib.unified_diff(before, now, "before", "now", n=0))
        print(f"{part.__name__}: {len(lines)} lines of difference" if lines else f"{part.__name__}: equal")
        sys.stdout.writelines(lines[:60])
        different += bool(lines)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
