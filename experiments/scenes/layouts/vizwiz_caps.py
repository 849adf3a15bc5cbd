"""VizWiz-Captions: pictures of any quality, some captions precanned, some rejected."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from experiments.datasets.dataset import OFFICIAL
from experiments.scenes.captions import caption_scenes, captions
from experiments.scenes.layouts.parts import Amounts, drawing, dump, own_seed
from experiments.scenes.layouts.quality import Photographs
from experiments.scenes.scene import SPLITS, generator

NAME = "vizwiz_caps"
PRECANNED = "Quality issues are too severe to recognize visual content."
REJECTED, SPAM = 0.03, "a picture"  # share of captions that are rejected, and what they say
CANNED = {"good": (0, 0), "poor": (0, 1), "bad": (3, 5)}  # least and most of an image's five captions


def write(root: Path, amounts: Amounts, seed: int, advance: Callable[[int], object]) -> None:
    """Writes the data set; ``advance`` hears of each image. Ids run on from split to split."""
    chance = own_seed(NAME, seed)
    image_id = caption_id = 0
    with drawing(root) as pictures:
        photographs = Photographs(root, pictures)
        for split, count in amounts.items():
            part = OFFICIAL[split]
            images, annotations = [], []
            for number, scene in enumerate(caption_scenes(split, count, chance)):
                rng = generator(chance, SPLITS.index(split), number)
                name, quality = photographs.take(scene, part, number, rng)
                images.append({"file_name": name, "vizwiz_url": "", "id": image_id, "text_detected": False})
                canned = rng.randint(*CANNED[quality.level])
                for caption in _five(captions(scene, chance), canned, rng):
                    known = {"image_id": image_id, "id": caption_id, "text_detected": False}
                    annotations.append({**caption, **known})
                    caption_id += 1
                image_id += 1
                advance(1)
            info = {"description": "drawn scenes in the format of VizWiz-Captions", "version": "1"}
            content = {"info": info, "images": images}
            dump(
                root / "annotations" / f"{part}.json",
                content if split == "test" else {**content, "annotations": annotations},
            )
        photographs.write()


def _five(texts: list[str], canned: int, rng: random.Random) -> list[dict]:
    """An image's captions; the last ``canned`` are precanned, and of the others some are rejected."""
    records = []
    for place, text in enumerate(texts):
        precanned = place >= len(texts) - canned
        rejected = not precanned and rng.random() < REJECTED
        records.append(
            {
                "caption": PRECANNED if precanned else SPAM if rejected else text,
                "is_precanned": precanned,
                "is_rejected": rejected,
            }
        )
    return records
