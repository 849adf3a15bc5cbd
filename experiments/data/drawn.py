"""Writes drawn scenes into a folder: a data set of each task, or six benchmarks in their official layouts.

:func:`write_scenes` fills a folder in the formats of VQA v2, SNLI-VE and Karpathy's captions::

    manifest.json                            seed, sizes, version
    vqa_v2/v2_OpenEnded_mscoco_{train2014,val2014,test2014}_questions.json
    vqa_v2/v2_mscoco_{train2014,val2014,test2014}_annotations.json
    vqa_v2/{train2014,val2014,test2014}/COCO_train2014_000000000001.png ...
    snli_ve/snli_ve_{train,dev,test}.jsonl, snli_ve/flickr30k_images/1000000001.png ...
    karpathy/dataset_coco.json, karpathy/{train2014,val2014}/COCO_train2014_000000000001.png ...
    {vqa_v2,snli_ve,karpathy}/scenes.json    image name -> what the image shows

and :func:`make_scenes` as the archives of six benchmarks unpack (:mod:`attngraph.experiments.data.layouts`)::

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
from attngraph.experiments.base.files import published, write_json
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.base.reading import read_json, shown
from attngraph.experiments.data.layouts import LAYOUTS, SCENES, TASKS, Amounts, Folder, Layout
from attngraph.experiments.scenes.scene import Scene

LEAST, MOST = 10, 1_000_000  # of `make_scenes`
SIZE = 3000  # examples for training in each of the six data sets
VERSION = 1  # raise it whenever the same seed gives other scenes, pictures or texts
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Sizes:
    """How much to write for (train, validation, test): questions, hypotheses, and images with captions."""

    questions: tuple[int, int, int] = (4000, 800, 1600)
    hypotheses: tuple[int, int, int] = (3600, 600, 1200)
    captions: tuple[int, int, int] = (1200, 400, 600)


def write_scenes(folder: Path, seed: int = 0, sizes: Sizes = Sizes()) -> Path:
    """Writes a data set of each task into a folder, or reuses it if finished with the same settings; returns
    the folder. A :class:`~attngraph.UserError` if it holds something else.
    """
    amounts = asdict(sizes)
    parts = {name: (layout, Amounts(*amounts[drawn])) for name, (layout, drawn) in TASKS.items()}
    about = {name: list(counts) for name, counts in amounts.items()}
    return _drawn_once(Path(folder), {"version": VERSION, "seed": seed, "sizes": about}, parts)


def make_scenes(folder: Path, seed: int = 0, size: int = SIZE) -> Path:
    """Writes the six data sets into a folder, or reuses it if finished with the same settings; returns the
    folder. A :class:`~attngraph.UserError` if it holds something else.

    Args:
        folder, seed: missing, empty, or finished; any non-negative integer.
        size: questions, pairs or images with captions for training in each data set; there are a fifth as
            many for validation, and a third as many for test.
    """
    parts = {name: (layout, Amounts.of(size)) for name, layout in LAYOUTS.items()}
    return _drawn_once(Path(folder), {"version": VERSION, "seed": seed, "size": size}, parts)


def _drawn_once(folder: Path, manifest: dict, parts: Mapping[str, tuple[Layout, Amounts]]) -> Path:
    """Writes the parts, each into a folder of its name, unless that is done."""
    if _is_finished(folder, manifest):
        return folder
    try:
        with published(folder) as work:
            for name in Progress(parts, desc="drawing scenes", unit="data set", leave=False, delay=1):
                layout, amounts = parts[name]
                data_set = Folder(work / name)
                layout(data_set, amounts, manifest["seed"])
                data_set.finish()
            write_json(work / MANIFEST, manifest, indent=None)
    except OSError:
        if not _is_finished(folder, manifest):  # another process may just have written the same
            raise
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
    """The scene that an image file of a data set of drawn scenes shows (``scenes.json`` is in the folder
    above that of the images); None for any other image.

    Raises:
        UserError: the file is there, but does not say what the image shows.
    """
    file = image.parent.parent / SCENES
    if not file.exists():
        return None
    try:
        described = _described(file)
        return Scene.from_dict(described[image.name]) if image.name in described else None
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{file} does not say what {image.name} shows ({error}): draw the data again (attngraph scenes)"
        ) from None


@cache
def _described(file: Path) -> dict[str, dict]:
    return {**read_json(file)}
