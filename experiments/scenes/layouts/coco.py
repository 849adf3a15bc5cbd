"""COCO captions in Karpathy's split."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from experiments.scenes.captions import caption_scenes, captions
from experiments.scenes.drawing import draw
from experiments.scenes.layouts.parts import Amounts, drawing, dump, own_seed
from experiments.scenes.records import karpathy_image, karpathy_place
from experiments.scenes.scene import Scene

NAME = "coco"
SIX = 7  # one of so many images has six captions, as some have in the real file


def write(root: Path, amounts: Amounts, seed: int, advance: Callable[[int], object]) -> None:
    """Writes the data set; ``advance`` hears of each image."""
    chance = own_seed(NAME, seed)
    described: list[dict] = []
    sentence_id = 0
    with drawing(root) as pictures:
        for split, amount in amounts.items():
            for number, scene in enumerate(caption_scenes(split, amount, chance)):
                label, source = karpathy_place(split, number)
                coco_id = len(described) + 1
                filename = f"COCO_{source}_{coco_id:012d}.jpg"
                pictures.save(draw(scene), root / source / filename, scene)
                texts = captions(scene, chance)
                if number % SIX == 0:
                    texts.append(_another(scene, texts))
                described.append(
                    karpathy_image(label, source, filename, coco_id, len(described), texts, sentence_id)
                )
                sentence_id += len(texts)
                advance(1)
    dump(root / "dataset_coco.json", {"images": described, "dataset": "coco"})


def _another(scene: Scene, texts: list[str]) -> str:
    """A caption that is not among these five; there are seven ways to write one."""
    return next(text for other in count() for text in captions(scene, other) if text not in texts)
