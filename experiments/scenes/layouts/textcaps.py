"""TextCaps: pictures with a word on them, which the captions name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from experiments.datasets.dataset import OFFICIAL
from experiments.scenes.captions import ordered
from experiments.scenes.drawing import draw
from experiments.scenes.facts import describe
from experiments.scenes.layouts.parts import Amounts, drawing, dump, own_seed
from experiments.scenes.records import tokens
from experiments.scenes.scene import CANVAS, COLORS, CURTAIN_WIDTH, SPLITS, Scene, generator, sample_scene

NAME = "textcaps"
FOLDERS = {"train": "train_images", "val": "train_images", "test": "test_images"}
WORDS = tuple("yes no true false one two three four five left right small large more same name half".split())
INKS = tuple(color for color in COLORS if color not in ("yellow", "cyan"))  # what can be read on paper
PAPER = (250, 250, 245)
LETTERS = 16  # points


def write(root: Path, amounts: Amounts, seed: int, advance: Callable[[int], object]) -> None:
    """Writes the data set; ``advance`` hears of each image."""
    chance = own_seed(NAME, seed)
    caption_id = 0
    with drawing(root) as pictures:
        for split, count in amounts.items():
            part = OFFICIAL[split]
            items: list[dict] = []
            for number in range(count):
                rng = generator(chance, SPLITS.index(split), number)
                scene, side = _scene(rng, number)
                word, ink = rng.choice(WORDS), rng.choice(INKS)
                image_id = f"{SPLITS.index(split)}{rng.getrandbits(28):07x}{number:08x}"
                picture = with_word(draw(scene), word, ink, side)
                file = root / FOLDERS[part] / f"{image_id}.jpg"
                pictures.save(picture, file, scene, word=word, ink=ink, side=side)
                about = _about(image_id, part)
                if split == "test":
                    items.append(about)
                else:
                    items += _captioned(about, captions(scene, word, ink, side), caption_id)
                    caption_id += 5
                advance(1)
            generator(chance, SPLITS.index(split)).shuffle(items)  # the captions of an image stand apart
            kind = {"dataset_type": part, "dataset_name": "textcaps", "dataset_version": "0.1"}
            dump(root / f"TextCaps_0.1_{part}.json", {**kind, "data": items})


def with_word(picture: Image.Image, word: str, ink: str, side: str) -> Image.Image:
    """The picture with a strip of paper at the top or bottom that has a word on it."""
    pen = ImageDraw.Draw(picture)
    top = 0 if side == "top" else CANVAS - CURTAIN_WIDTH
    pen.rectangle((0, top, CANVAS - 1, top + CURTAIN_WIDTH - 1), fill=PAPER)
    middle = (CANVAS // 2, top + CURTAIN_WIDTH // 2)
    pen.text(middle, word, fill=COLORS[ink], font=ImageFont.load_default(LETTERS), anchor="mm")
    return picture


def captions(scene: Scene, word: str, ink: str, side: str) -> list[str]:
    """Five captions that name the word and the things."""
    names = [describe(thing, "color shape").a() for thing in ordered(scene)]
    things = " and ".join(names)
    near, far = ("above", "below") if side == "top" else ("below", "above")
    return [
        f"the picture says {word} at the {side} and shows {things}",
        f"{word} in {ink} {near} {things}",
        f"it says {word} in {ink} and there is {things}",
        f"{things} {far} the name {word}",
        f"{things} in a picture that says {word}",
    ]


def _scene(rng: random.Random, number: int) -> tuple[Scene, str]:
    """One or two different things, and the side at which there is room for a word."""
    while True:
        scene = sample_scene(rng, "downstream", number, curtain=True, amount=rng.choice((1, 2, 2)))
        pairs = {(thing.color, thing.shape) for thing in scene.things}
        if scene.curtain in ("top", "bottom") and len(pairs) == len(scene.things):
            return replace(scene, curtain=None), scene.curtain


def _about(image_id: str, part: str) -> dict:
    return {
        "image_id": image_id,
        "image_classes": ["Poster"],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "image_width": CANVAS,
        "image_height": CANVAS,
        "set_name": part,
        "image_name": image_id,
        "image_path": f"{part}/{image_id}.jpg",
    }


def _captioned(about: dict, texts: list[str], first: int) -> Iterator[dict]:
    """One item for each caption of an image."""
    references = {"reference_strs": texts, "reference_tokens": [tokens(text) for text in texts]}
    for number, text in enumerate(texts, start=first):
        yield {
            **about,
            "caption_id": number,
            "caption_str": text,
            "caption_tokens": tokens(text),
            **references,
        }
