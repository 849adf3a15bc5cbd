"""Writes drawn downstream scenes in the official file formats of VQA v2, SNLI-VE and Karpathy's captions.

A folder holds::

    manifest.json                            seed, sizes, version
    vqa_v2/v2_OpenEnded_mscoco_{train2014,val2014,test2014}_questions.json
    vqa_v2/v2_mscoco_{train2014,val2014,test2014}_annotations.json
    vqa_v2/{train2014,val2014,test2014}/COCO_train2014_000000000001.png ...
    snli_ve/snli_ve_{train,dev,test}.jsonl, snli_ve/flickr30k_images/1000000001.png ...
    karpathy/dataset_coco.json, karpathy/{train2014,val2014}/COCO_train2014_000000000001.png ...
    {vqa_v2,snli_ve,karpathy}/scenes.json    image name -> what the image shows
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from attngraph.errors import UserError
from experiments.files import write_json, write_text
from experiments.progress import Progress
from experiments.scenes.captions import caption_scenes, captions
from experiments.scenes.drawing import draw
from experiments.scenes.folder import drawn_once
from experiments.scenes.hypotheses import hypotheses
from experiments.scenes.questions import questions
from experiments.scenes.records import answer_type, karpathy_image, karpathy_place
from experiments.scenes.scene import SPLITS, Scene

SOON = 1.0  # seconds before the progress bar shows
MOST = 1_000_000  # of each kind and split
VERSION = 1  # raise it whenever the same seed gives other scenes or texts
COCO_SPLITS = {"train": "train2014", "validation": "val2014", "test": "test2014"}
VE_SPLITS = {"train": "train", "validation": "dev", "test": "test"}


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
    """Writes the three data sets into a folder, or reuses it if finished with the same settings; returns it.

    The folder is whole or absent (:func:`experiments.scenes.folder.drawn_once`). A progress bar counts
    questions, hypotheses and images with captions.

    Raises:
        UserError: the folder holds something else, it cannot be written, or the seed is negative.
    """
    if seed < 0:
        raise UserError(f"--seed must be at least 0, got {seed}")
    manifest = {
        "version": VERSION,
        "seed": seed,
        "sizes": {name: list(value) for name, value in asdict(sizes).items()},
    }

    def write(work: Path) -> None:
        with _bar(sizes) as bar:
            _write_vqa(work / "vqa_v2", seed, sizes.questions, bar.update)
            _write_ve(work / "snli_ve", seed, sizes.hypotheses, bar.update)
            _write_captions(work / "karpathy", seed, sizes.captions, bar.update)

    return drawn_once(folder, manifest, write)


def _bar(sizes: Sizes) -> Progress:
    total = sum(map(sum, asdict(sizes).values()))
    return Progress(total=total, desc="drawing scenes", unit="example", leave=False, delay=SOON)


def _write_vqa(
    folder: Path, seed: int, counts: tuple[int, int, int], on_written: Callable[[int], object]
) -> None:
    shown: dict[str, dict] = {}
    image_id = 0
    for split, count in zip(SPLITS, counts):
        subtype = COCO_SPLITS[split]
        images = _folder(folder / subtype)
        asked, annotated = [], []
        for scene, sentences in questions(split, count, seed):
            on_written(len(sentences))
            image_id += 1
            _draw(scene, images, f"COCO_{subtype}_{image_id:012d}.png", shown)
            for place, sentence in enumerate(sentences):
                question_id = image_id * 1000 + place
                asked.append({"image_id": image_id, "question": sentence.text, "question_id": question_id})
                annotated.append(
                    {
                        "image_id": image_id,
                        "question_id": question_id,
                        "question_type": sentence.kind,
                        "answer_type": answer_type(sentence.answer),
                        "multiple_choice_answer": sentence.answer,
                        "answers": [
                            {"answer": sentence.answer, "answer_confidence": "yes", "answer_id": number}
                            for number in range(1, 11)
                        ],
                    }
                )
        about = {
            "info": {"description": "drawn scenes in the format of VQA v2", "version": str(VERSION)},
            "license": {"name": "none needed"},
            "data_type": "mscoco",
            "data_subtype": subtype,
        }
        _dump(
            folder / f"v2_OpenEnded_mscoco_{subtype}_questions.json",
            {**about, "task_type": "Open-Ended", "questions": asked},
        )
        _dump(folder / f"v2_mscoco_{subtype}_annotations.json", {**about, "annotations": annotated})
    _dump(folder / "scenes.json", shown)


def _write_ve(
    folder: Path, seed: int, counts: tuple[int, int, int], on_written: Callable[[int], object]
) -> None:
    shown: dict[str, dict] = {}
    images = _folder(folder / "flickr30k_images")
    number = 1_000_000_000
    for split, count in zip(SPLITS, counts):
        lines = []
        for scene, sentences in hypotheses(split, count, seed):
            on_written(len(sentences))
            number += 1
            _draw(scene, images, f"{number}.png", shown)
            for place, sentence in enumerate(sentences):
                lines.append(
                    json.dumps(
                        {
                            "annotator_labels": [sentence.answer],
                            "captionID": f"{number}.png#0",
                            "gold_label": sentence.answer,
                            "pairID": f"{number}.png#0r{place}",
                            "sentence1": "a drawn scene",
                            "sentence2": sentence.text,
                            "Flickr30K_ID": str(number),
                            "hypothesis_kind": sentence.kind,
                        }
                    )
                )
        write_text(folder / f"snli_ve_{VE_SPLITS[split]}.jsonl", "\n".join(lines) + "\n")
    _dump(folder / "scenes.json", shown)


def _write_captions(
    folder: Path, seed: int, counts: tuple[int, int, int], on_written: Callable[[int], object]
) -> None:
    shown: dict[str, dict] = {}
    for name in ("train2014", "val2014"):
        _folder(folder / name)
    described = []
    sentence_id = 0
    for split, count in zip(SPLITS, counts):
        for number, scene in enumerate(caption_scenes(split, count, seed)):
            on_written(1)
            label, source = karpathy_place(split, number)
            coco_id = len(described) + 1
            filename = f"COCO_{source}_{coco_id:012d}.png"
            _draw(scene, folder / source, filename, shown)
            texts = captions(scene, seed)
            described.append(
                karpathy_image(label, source, filename, coco_id, len(described), texts, sentence_id)
            )
            sentence_id += len(texts)
    _dump(folder / "dataset_coco.json", {"images": described, "dataset": "coco"})
    _dump(folder / "scenes.json", shown)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _draw(scene: Scene, folder: Path, name: str, shown: dict[str, dict]) -> None:
    draw(scene).save(folder / name, compress_level=1)
    shown[name] = scene.to_dict()


def _dump(file: Path, content: object) -> None:
    write_json(file, content, indent=None)
