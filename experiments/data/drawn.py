"""Writes synthetic scenes into a folder: a dataset of each task, or six benchmarks in their official layouts.

:func:`write_scenes` fills a folder in the formats of VQA v2, SNLI-VE and Karpathy's captions::

    manifest.json                            seed, sizes, version
    vqa_v2/v2_OpenEnded_mscoco_{train2014,val2014,test2014}_questions.json
    vqa_v2/v2_mscoco_{train2014,val2014,test2014}_annotations.json
    vqa_v2/{train2014,val2014,test2014}/COCO_train2014_000000000001.png ...
    snli_ve/snli_ve_{train,dev,test}.jsonl, snli_ve/flickr30k_images/1000000001.png ...
    karpathy/dataset_coco.json, karpathy/{train2014,val2014}/COCO_train2014_000000000001.png ...
    {vqa_v2,snli_ve,karpathy}/scenes.json    image name -> description of the scene

and :func:`make_scenes` in the layouts of the archives of six benchmarks
(:mod:`attngraph.experiments.data.layouts`)::

    manifest.json                     seed, size, version
    vqa2, vizwiz_vqa, snli_ve, coco, textcaps, vizwiz_caps
    */scenes.json                     image name -> description of the scene
    */quality.json                    VizWiz: image name -> degradations of the image

A folder is complete or absent, and reused if its manifest has the same settings.
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
    """Sizes of (train, validation, test): numbers of questions, hypotheses, and images with captions."""

    questions: tuple[int, int, int] = (4000, 800, 1600)
    hypotheses: tuple[int, int, int] = (3600, 600, 1200)
    captions: tuple[int, int, int] = (1200, 400, 600)


def write_scenes(folder: Path, seed: int = 0, sizes: Sizes = Sizes()) -> Path:
    """Write a dataset of each task into a folder, or reuse it if finished with the same settings; returns the
    folder. A :class:`~attngraph.UserError` if it contains something else.
    """
    amounts = asdict(sizes)
    parts = {name: (layout, Amounts(*amounts[drawn])) for name, (layout, drawn) in TASKS.items()}
    about = {name: list(counts) for name, counts in amounts.items()}
    return _drawn_once(Path(folder), {"version": VERSION, "seed": seed, "sizes": about}, parts)


def make_scenes(folder: Path, seed: int = 0, size: int = SIZE) -> Path:
    """Write the six datasets into a folder, or reuse it if finished with the same settings; returns the
    folder. A :class:`~attngraph.UserError` if it contains something else.

    Args:
        folder, seed: a missing, empty, or finished folder; any non-negative integer.
        size: number of questions, pairs or images with captions for training in each dataset; there are a
            fifth as many for validation, and a third as many for test.
    """
    parts = {name: (layout, Amounts.of(size)) for name, layout in LAYOUTS.items()}
    return _drawn_once(Path(folder), {"version": VERSION, "seed": seed, "size": size}, parts)


def _drawn_once(folder: Path, manifest: dict, parts: Mapping[str, tuple[Layout, Amounts]]) -> Path:
    """Write the parts, each into a folder of its name, unless it is finished."""
    if _is_finished(folder, manifest):
        return folder
    try:
        with published(folder) as work:
            for name in Progress(parts, desc="generating scenes", unit="dataset", leave=False, delay=1):
                layout, amounts = parts[name]
                data_set = Folder(work / name)
                layout(data_set, amounts, manifest["seed"])
                data_set.finish()
            write_json(work / MANIFEST, manifest, indent=None)
    except OSError:
        if not _is_finished(folder, manifest):  # another process may just have written the same
            raise
    return folder


def holds_scenes(folder: Path) -> bool:
    """Whether a folder was written by ``attngraph scenes``."""
    return (folder / MANIFEST).is_file() and (folder / "vqa_v2").is_dir()


def _is_finished(folder: Path, manifest: dict) -> bool:
    """Whether the folder already contains these data; a :class:`UserError` if it contains others."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        held = read_json(folder / MANIFEST)
    except UserError:
        raise UserError(
            f"{folder}: exists but is not a folder of synthetic scenes (no readable {MANIFEST}); "
            "choose another folder or move it away"
        ) from None
    if held != manifest:
        raise UserError(
            f"{folder}: contains scenes with other settings, {MANIFEST} has {shown(held)}, not "
            f"{shown(manifest)}; choose another folder or move it away"
        )
    return True


def scene_of(image: Path) -> Scene | None:
    """The scene of an image file of a synthetic dataset (``scenes.json`` is in the parent of the images'
    folder); None for any other image.

    Raises:
        UserError: the file exists, but does not describe the image.
    """
    file = image.parent.parent / SCENES
    if not file.exists():
        return None
    try:
        described = _described(file, file.stat().st_mtime_ns)
        return Scene.from_dict(described[image.name]) if image.name in described else None
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{file} does not describe {image.name} ({error}): generate the data again (attngraph scenes)"
        ) from None


@cache
def _described(file: Path, written: int) -> dict[str, dict]:
    """The content of a file that was last written at a time."""
    return {**read_json(file)}
