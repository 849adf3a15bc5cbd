"""A mini-BLIP pre-trained on pictures of other people, Debian's emoji, stamps and clip art, by their names::

    apt-get install fonts-noto-color-emoji unicode-cldr-core tuxpaint-stamps-default openclipart-png  # 240 MB
    python docs/examples/pictures.py

Without root, ``apt-get download`` the four packages, unpack each with ``dpkg-deb -x FILE unpacked``, and add
``--share unpacked/usr/share``. An image shows two to four pictures, each in a quarter of its own, on a plain
ground; texts say what is where. The model is that of ``attngraph pretrain`` with its recipe; besides the
texts it learns what each patch shows. It is saved with its pictures in ``runs/pictures``, where
docs/examples/third_party.py and closed_form.py find it.
"""

from __future__ import annotations

import argparse
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.nn import functional as F

from attngraph import AttentionGraph, capture
from attngraph.analysis.contrast import Region
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.models import Decoding, ModelFamily, Sample, load_family
from attngraph.experiments.models.blip import DESCRIBE, build_model
from attngraph.experiments.models.generation import encode_images
from attngraph.experiments.models.images import normalise
from attngraph.experiments.studies.pretrain import (
    Recipe,
    build_tokenizer,
    pack,
    read_packed,
    text_loss,
)

FOLDER, PICTURES = Path("runs/pictures"), "pictures.npz"
SIDE, PATCH, SIZE = 64, 8, 26  # of an image, a patch and a picture, in pixels
PLACES = ("top left", "top right", "bottom left", "bottom right")
OTHER_WORDS = "at the what is where there a how many things are yes no nothing".split()
NUMBERS = ("zero", "one", "two", "three", "four")
ONE_WORD = re.compile("[a-z]{2,}")
LARGEST, EMOJI = 96, 109  # pixels of a picture before its last scaling, and of the font


# ---- pictures with names -----------------------------------------------------------------------------------


def emoji(share: Path) -> Iterator[tuple[str, Image.Image]]:
    """The name and picture of each emoji of one character."""
    file = share / "fonts/truetype/noto/NotoColorEmoji.ttf"
    known, font = TTFont(file).getBestCmap(), ImageFont.truetype(str(file), EMOJI)
    for note in ElementTree.parse(share / "unicode/cldr/common/annotations/en.xml").iter("annotation"):
        character = note.get("cp", "")
        if note.get("type") == "tts" and len(character) == 1 and ord(character) in known:
            picture = Image.new("RGBA", (136, 128))
            ImageDraw.Draw(picture).text((0, 0), character, font=font, embedded_color=True)
            yield note.text or "", picture


def stamps(share: Path) -> Iterator[tuple[str, Image.Image]]:
    """The description and picture of each stamp of Tux Paint."""
    for file in sorted((share / "tuxpaint/stamps").rglob("*.png")):
        text = file.with_suffix(".txt")
        if text.exists():
            yield text.read_text(errors="replace").partition("\n")[0], Image.open(file)


def clip_art(share: Path) -> Iterator[tuple[str, Image.Image]]:
    """The title and picture of each drawing of Open Clip Art."""
    for file in sorted((share / "openclipart/png").rglob("*.png")):
        try:
            picture = Image.open(file)
        except Image.DecompressionBombError:  # some are posters
            continue
        yield str(picture.info.get("Title", "")), picture


def named_pictures(share: Path) -> dict[str, np.ndarray]:
    """Word -> its pictures, uint8 ``(k, SIZE, SIZE, 4)``: the words that at least two of the three
    collections have as a whole name, with one picture of each.
    """
    found: dict[str, list[Image.Image]] = {}
    for collection in (emoji, stamps, clip_art):
        new = {}
        for title, picture in collection(share):
            name = re.sub(r"^(an?|the|some)\s+", "", title.strip().rstrip(".!").lower())
            if ONE_WORD.fullmatch(name) and name not in new:
                new[name] = picture.convert("RGBA")
        for name, picture in new.items():
            found.setdefault(name, []).append(picture)
    return {
        name: np.stack([scaled(picture) for picture in pictures])
        for name, pictures in sorted(found.items())
        if len(pictures) > 1
    }


def scaled(picture: Image.Image) -> np.ndarray:
    """A picture without its transparent margin, in the middle of ``(SIZE, SIZE, 4)``."""
    picture.thumbnail((LARGEST, LARGEST))
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(square)


# ---- images with texts -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shown:
    """An image, and what it shows.

    Args:
        pixels: uint8 ``(SIDE, SIDE, 3)``.
        words: the word at each of :data:`PLACES`; None for an empty quarter.
        patches: index of the word that each patch shows plus 1, ``(64,)``; 0 for the ground.
    """

    pixels: np.ndarray
    words: list[str | None]
    patches: np.ndarray


def compose(pictures: Mapping[str, np.ndarray], chance: random.Random) -> Shown:
    """Two to four pictures with different names, each somewhere in a quarter of the image."""
    names = list(pictures)
    places = sorted(chance.sample(range(4), chance.randint(2, 4)))
    image = Image.new("RGB", (SIDE, SIDE), tuple(chance.randint(0, 255) for _ in range(3)))
    words: list[str | None] = [None] * 4
    rows = SIDE // PATCH
    patches = np.zeros((rows, rows), np.int64)
    for place, word in zip(places, chance.sample(names, len(places)), strict=True):
        picture = Image.fromarray(chance.choice(list(pictures[word])))
        top, left = (SIDE // 2 * half + chance.randint(0, SIDE // 2 - SIZE) for half in divmod(place, 2))
        image.paste(picture, (left, top), picture)
        words[place] = word
        opaque = np.zeros((SIDE, SIDE), bool)
        opaque[top : top + SIZE, left : left + SIZE] = np.asarray(picture)[..., 3] > 127
        touched = opaque.reshape(rows, PATCH, rows, PATCH).mean((1, 3)) > 0.1
        patches[touched] = names.index(word) + 1
    return Shown(np.asarray(image), words, patches.flatten())


def caption(shown: Shown) -> tuple[str, str]:
    """A prompt, and what is where, as the answer."""
    parts = [f"{word} at the {place}" for place, word in zip(PLACES, shown.words) if word]
    return DESCRIBE, " , ".join(parts)


def questions(shown: Shown, names: Sequence[str], chance: random.Random) -> list[tuple[str, str]]:
    """All kinds of questions with their answers, in random order."""
    there = [word for word in shown.words if word]
    absent = chance.choice([name for name in names if name not in there])
    asked = [(f"what is at the {place} ?", word or "nothing") for place, word in zip(PLACES, shown.words)]
    asked += [
        (f"where is the {word} ?", f"at the {place}") for place, word in zip(PLACES, shown.words) if word
    ]
    asked += [(f"is there a {chance.choice(there)} ?", "yes"), (f"is there a {absent} ?", "no")]
    asked += [("how many things are there ?", NUMBERS[len(there)])]
    return chance.sample(asked, len(asked))


# ---- pre-training ------------------------------------------------------------------------------------------


def pretrain(pictures: Mapping[str, np.ndarray], out: Path, seed: int, recipe: Recipe) -> None:
    """Train a mini-BLIP and save it with its pictures."""
    torch.manual_seed(seed)
    names, chance = list(pictures), random.Random(seed)
    tokenizer = build_tokenizer([*names, *" ".join((DESCRIBE, *PLACES, *NUMBERS)).split(), *OTHER_WORDS])
    model = build_model(tokenizer).train()
    head = nn.Linear(model.config.vision_config.hidden_size, len(names) + 1)  # what each patch shows
    trained = nn.ModuleDict({"model": model, "head": head})
    optimizer = torch.optim.AdamW(
        recipe.parameter_groups(trained), lr=recipe.learning_rate, betas=recipe.betas, fused=True
    )
    running = 0.0
    bar = Progress(range(recipe.steps), "pretrain", unit="step")
    for step in bar:
        images = [compose(pictures, chance) for _ in range(recipe.images)]
        texts = [[caption(shown), *questions(shown, names, chance)[: recipe.texts - 1]] for shown in images]
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        states = encode_images(model, normalise(torch.from_numpy(np.stack([x.pixels for x in images]))))
        loss = text_loss(read_packed(model, states, pack(tokenizer, texts)))
        targets = torch.from_numpy(np.concatenate([shown.patches for shown in images]))
        total = loss + recipe.patch_weight * F.cross_entropy(head(states[:, 1:]).flatten(0, 1), targets)
        total.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        running += 0.02 * (loss.item() - running) if step else loss.item()
        bar.set_postfix(loss=f"{running:.3f}", refresh=False)
    tokenizer.save_pretrained(out)
    model.half().save_pretrained(out)
    np.savez_compressed(out / PICTURES, **pictures)


# ---- new images --------------------------------------------------------------------------------------------


def loaded(folder: Path) -> tuple[ModelFamily, dict[str, np.ndarray]]:
    """The trained model, and its pictures."""
    with np.load(folder / PICTURES) as saved:
        return load_family(folder), dict(saved)


def exact(folder: Path, count: int = 200) -> float:
    """Fraction of exact answers to a question of each kind about new images."""
    family, pictures = loaded(folder)
    chance, samples = random.Random("test"), []
    for number in range(count):
        shown = compose(pictures, chance)
        image = Image.fromarray(shown.pixels)
        samples += [
            Sample(f"image {number}", image, *text) for text in questions(shown, list(pictures), chance)[:4]
        ]
    given = [
        answer
        for start in range(0, len(samples), 100)
        for answer in family.generate(samples[start : start + 100], Decoding(8))
    ]
    return float(np.mean([answer == sample.answer for answer, sample in zip(given, samples)]))


def examples(folder: Path, count: int = 64) -> Iterator[tuple[dict[str, AttentionGraph], Region]]:
    """The decoder's graphs of new images with their captions. The region of a row is made of the patches of
    the picture whose name is written next.
    """
    family, pictures = loaded(folder)
    chance, names = random.Random("examples"), list(pictures)
    for number in range(count):
        shown = compose(pictures, chance)
        batch = family.batch([Sample(f"image {number}", Image.fromarray(shown.pixels), *caption(shown))])
        graphs = capture(family.model, batch.inputs, layers="text_decoder.*")
        tokens = batch.text.tokens[0] if batch.text else []
        patches = torch.from_numpy(shown.patches)
        relevant = torch.zeros(1, len(tokens), 1 + len(patches), dtype=torch.bool)  # [CLS] first
        for row, following in enumerate(tokens[1:]):
            if following in shown.words:
                relevant[0, row, 1:] = patches == names.index(following) + 1
        candidates = torch.ones(1, 1 + len(patches), dtype=torch.bool)
        candidates[0, 0] = False
        yield graphs, Region(relevant, candidates, [(SIDE // PATCH, SIDE // PATCH)])


def main() -> None:
    """Pre-train the model and print its score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--share", type=Path, default=Path("/usr/share"), help="where the packages are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args()
    pictures = named_pictures(options.share)
    print(f"{len(pictures)} words with {sum(map(len, pictures.values()))} pictures")
    pretrain(pictures, FOLDER, options.seed, Recipe(steps=options.steps))
    print(f"exact answers about new images: {exact(FOLDER):.3f}")


if __name__ == "__main__":
    main()
