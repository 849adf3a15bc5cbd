"""Writes drawn scenes in the official layouts of six benchmarks.

A folder holds::

    manifest.json                     seed, size, version
    vqa2, vizwiz_vqa, snli_ve, coco, textcaps, vizwiz_caps
                                      each as the official archives unpack
    */scenes.json                     image name -> what the image shows
    */quality.json                    VizWiz: image name -> what was done to the image

Splits without official annotations have none. Pictures are JPEG, as in the official archives.
"""

from __future__ import annotations

from pathlib import Path

from attngraph.errors import UserError
from experiments.progress import Progress
from experiments.scenes.folder import drawn_once
from experiments.scenes.layouts import coco, snli_ve, textcaps, vizwiz_caps, vizwiz_vqa, vqa2
from experiments.scenes.layouts.parts import Amounts

LAYOUTS = {
    "vqa2": vqa2.write,
    "vizwiz_vqa": vizwiz_vqa.write,
    "snli_ve": snli_ve.write,
    "coco": coco.write,
    "textcaps": textcaps.write,
    "vizwiz_caps": vizwiz_caps.write,
}
SIZE, LEAST, MOST = 3000, 10, 1_000_000  # examples for training in each data set
SOON = 1.0  # seconds before the progress bar shows
VERSION = 1  # raise it whenever the same seed gives other scenes, pictures or texts


def make_scenes(folder: Path, seed: int = 0, size: int = SIZE) -> Path:
    """Writes the six data sets into a folder, or reuses it if finished with the same settings; returns it.

    Args:
        folder: whole or absent (:func:`experiments.scenes.folder.drawn_once`).
        seed: any non-negative integer.
        size: questions, pairs or images with captions for training in each data set; there are a fifth as
            many for validation, and a third as many for test.

    Raises:
        UserError: the folder holds something else, it cannot be written, or a number is out of range.
    """
    if seed < 0:
        raise UserError(f"--seed must be at least 0, got {seed}")
    if not LEAST <= size <= MOST:
        raise UserError(f"--size must be at least {LEAST} and at most {MOST}, got {size}")
    amounts = Amounts.of(size)
    total = len(LAYOUTS) * sum(amounts) + amounts.test  # VQA v2 has its own test images besides Karpathy's

    def write(work: Path) -> None:
        with Progress(total=total, desc="drawing scenes", unit="example", leave=False, delay=SOON) as bar:
            for name, layout in LAYOUTS.items():
                layout(work / name, amounts, seed, bar.update)

    return drawn_once(folder, {"version": VERSION, "seed": seed, "size": size}, write)
