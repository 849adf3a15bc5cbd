"""Samples to look at: images and texts of the user's own, or examples of a task."""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.reading import read_text
from experiments.models.batch import Sample
from experiments.models.images import open_image
from experiments.progress import Progress
from experiments.scenes.known import scene_of
from experiments.scenes.write import Sizes, write_scenes
from experiments.tasks import TASKS
from experiments.tasks.task import SPLITS

IMAGE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def own_samples(images: Sequence[Path] | None, texts: Path | None) -> list[Sample]:
    """Images and texts of the user's own.

    Args:
        images: files, or folders of them.
        texts: a file with a text per line, one for each image or one for all.

    Raises:
        UserError: a file is missing, or the numbers of images and texts do not go together.
    """
    files = [file for path in images or () for file in _image_files(path)]
    lines = [] if texts is None else _lines(texts)
    if images and not files:
        raise UserError(
            f"--images: no image files in {', '.join(map(str, images))}; give files, or folders with files "
            f"ending in {', '.join(sorted(IMAGE_FILES))}"
        )
    if files and lines and len(lines) not in (1, len(files)):
        raise UserError(
            f"{len(files)} images but {len(lines)} texts in {texts}: give one text for each image, or one "
            "for all"
        )
    if not files:
        return [Sample(f"text {k + 1}", None, "", line) for k, line in enumerate(lines)]
    answers = lines * len(files) if len(lines) == 1 else lines or [None] * len(files)
    return [Sample(file.name, file, "", answer) for file, answer in zip(files, answers)]


def task_samples(
    task_name: str, family: str, split: str, data: Path | None = None, limit: int = 64, seed: int = 0
) -> list[Sample]:
    """Examples of a task with their answers, a fixed random choice of them.

    Args:
        task_name: as in ``--task``.
        family: of the model, which may have a prompt of its own.
        split: ``train``, ``validation`` or ``test``.
        data: folder with the data; None draws them for this call, and keeps the pictures in memory.
        limit: how many at most.
        seed: of the choice and of what is drawn.
    """
    task = TASKS[task_name]
    if task.packaged and data is not None:
        raise UserError(f"--data {data}: the examples of {task_name} come with a package: leave out --data")
    if data is None:
        task.check(None)
    drawn = data is None and task.drawn is not None
    with tempfile.TemporaryDirectory() as folder:
        if drawn:
            counts = tuple(limit if name == split else 1 for name in SPLITS)
            few = dict.fromkeys(asdict(Sizes()), (1, 1, 1))
            data = write_scenes(Path(folder) / "data", seed, Sizes(**few | {task.drawn: counts}))
        examples = task.examples(Path(folder) if data is None else data, split)
        if len(examples) > limit:
            examples = random.Random(seed).sample(examples, limit)
        samples = []
        for example in Progress(examples, "reading examples", leave=False, delay=1):
            sample = task.sample(example, family, draw=0.0)
            image = open_image(example.image) if drawn else example.image
            samples.append(replace(sample, image=image, scene=scene_of(example.image)))
        return samples


def _lines(texts: Path) -> list[str]:
    try:
        content = read_text(texts, "give a UTF-8 file with a text per line")
    except UserError as error:
        raise UserError(f"--texts {error}") from None
    lines = [line.strip() for line in re.split(r"[\r\n]", content)]  # no other sign ends a line
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"--texts {texts} holds no text: give a file with a text per line")
    return lines


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_FILES)
    if not path.exists():
        raise UserError(f"--images {path}: no such file or folder; give image files, or folders of them")
    return [path]
