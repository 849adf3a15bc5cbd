"""Writes drawn scenes into a folder: a data set of each task, or six benchmarks in their official layouts.

:func:`write_scenes` fills a folder in the formats of VQA v2, SNLI-VE and Karpathy's captions::

    manifest.json                            seed, sizes, version
    vqa_v2/v2_OpenEnded_mscoco_{train2014,val2014,test2014}_questions.json
    vqa_v2/v2_mscoco_{train2014,val2014,test2014}_annotations.json
    vqa_v2/{train2014,val2014,test2014}/COCO_train2014_000000000001.png ...
    snli_ve/snli_ve_{train,dev,test}.jsonl, snli_ve/flickr30k_images/1000000001.png ...
    karpathy/dataset_coco.json, karpathy/{train2014,val2014}/COCO_train2014_000000000001.png ...
    {vqa_v2,snli_ve,karpathy}/scenes.json    image name -> what the image shows

and :func:`make_scenes` as the archives of six benchmarks unpack (:mod:`experiments.data.layouts`)::

    manifest.json                     seed, size, version
    vqa2, vizwiz_vqa, snli_ve, coco, textcaps, vizwiz_caps
    */scenes.json                     image name -> what the image shows
    */quality.json                    VizWiz: image name -> what was done to the image

A folder is whole or absent, and reused where its manifest says the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.files import published, write_json
from experiments.base.progress import Progress
from experiments.base.reading import read_json, shown
from experiments.data.layouts import LAYOUTS, SCENES, TASKS, Amounts, Layout
from experiments.scenes.scene import Scene

SOON = 1.0  # seconds before the progress bar shows
LEAST, MOST = 10, 1_000_000  # of `make_scenes`; of each kind and split
SIZE = 3000  # examples for training in each of the six data sets
VERSION = 1  # raise it whenever the same seed gives other scenes, pictures or texts
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Sizes:
    """How much to write for (train, validation, test): questions, hypotheses, and images with captions."""

    questions: tuple[int, int, int] = (4000, 800, 1600)
    hypotheses: tuple[int, int, int] = (3600, 600, 1200)
    captions: tuple[int, int, int] = (1200, 400, 600)

    def __post_init__(self):
        for name, counts in asdict(self).items():
            if len(counts) != 3 or any(not isinstance(n, int) or not 1 <= n <= MOST for n in counts):
                raise UserError(
                    f"sizes: '{name}' is {counts}; give three whole numbers from 1 to {MOST} (train, "
                    "validation, test)"
                )


def write_scenes(folder: Path, seed: int = 0, sizes: Sizes = Sizes()) -> Path:
    """Writes a data set of each task into a folder, or reuses it if finished with the same settings.

    Returns:
        The folder.

    Raises:
        UserError: it holds something else, or it cannot be written.
    """
    amounts = {name: Amounts(*counts) for name, counts in asdict(sizes).items()}
    about = {name: list(counts) for name, counts in amounts.items()}
    parts = {name: (layout, amounts[drawn]) for name, (layout, drawn) in TASKS.items()}
    return _drawn_once(folder, {"version": VERSION, "seed": seed, "sizes": about}, parts, seed)


def make_scenes(folder: Path, seed: int = 0, size: int = SIZE) -> Path:
    """Writes the six data sets into a folder, or reuses it if finished with the same settings.

    Args:
        folder: missing, empty, or finished.
        seed: any non-negative integer.
        size: questions, pairs or images with captions for training in each data set; there are a fifth as
            many for validation, and a third as many for test.

    Returns:
        The folder.

    Raises:
        UserError: it holds something else, or it cannot be written.
    """
    parts = {name: (layout, Amounts.of(size)) for name, layout in LAYOUTS.items()}
    return _drawn_once(folder, {"version": VERSION, "seed": seed, "size": size}, parts, seed)


def _drawn_once(folder: Path, manifest: dict, parts: Mapping[str, tuple[Layout, Amounts]], seed: int) -> Path:
    """Writes the parts, each into a folder of its name, unless that is done."""
    folder = Path(folder)
    if _is_finished(folder, manifest):
        return folder
    try:
        with published(folder) as work:
            with Progress(
                total=len(parts), desc="drawing scenes", unit="data set", leave=False, delay=SOON
            ) as bar:
                for name, (layout, amounts) in parts.items():
                    layout(work / name, amounts, seed)
                    bar.update()
            write_json(work / MANIFEST, manifest, indent=None)
    except OSError as error:
        if not _is_finished(folder, manifest):  # another process may just have written the same
            raise UserError(
                f"{folder}: the scenes cannot be written there ({error.strerror or error}); make room on the "
                "disk, or choose another folder"
            ) from error
    return folder


def _is_finished(folder: Path, manifest: dict) -> bool:
    """Whether the folder already holds these data; a :class:`UserError` if it holds others."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        held = read_json(folder / MANIFEST)
    except UserError:
        raise UserError(
            f"{folder}: exists but is no folder of drawn scenes (no readable {MANIFEST}); "
            "choose another folder or move it away"
        ) from None
    if held != manifest:
        raise UserError(
            f"{folder}: holds scenes of other settings, {MANIFEST} says {shown(held)}, not "
            f"{shown(manifest)}; choose another folder or move it away"
        )
    return True


def scene_of(image: Path) -> Scene | None:
    """The scene that an image of a data set of drawn scenes shows; None for any other image.

    Args:
        image: its file; ``scenes.json`` is in the folder above that of the images.

    Raises:
        UserError: the file is there, but does not say what the image shows.
    """
    file = image.parent.parent / SCENES
    described = _described(file) if file.exists() else {}
    if image.name not in described:
        return None
    try:
        return Scene.from_dict(described[image.name])
    except ValueError as error:
        raise UserError(
            f"{file} does not say what {image.name} shows ({error}): draw the data again (attngraph scenes)"
        ) from None


@cache
def _described(file: Path) -> dict[str, dict]:
    described = read_json(file)
    if not isinstance(described, dict):
        raise UserError(f"{file} describes no scenes: draw the data again (attngraph scenes)")
    return described
