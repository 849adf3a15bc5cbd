"""Pre-training of a mini-BLIP on named icons by others: emoji, stamps and clip art, from packages of Debian::

    apt-get install fonts-noto-color-emoji unicode-cldr-core tuxpaint-stamps-default openclipart-png  # 240 MB
    python docs/examples/icons.py

Without root, ``apt-get download`` the four packages, unpack each with ``dpkg-deb -x FILE unpacked``, and add
``--share unpacked/usr/share``. An image shows two to four icons, each in one quarter, on a plain background;
texts state where they are. The model and the recipe are those of ``attngraph pretrain``; besides the texts,
the image encoder learns the icon in each patch. Model and icons are saved in ``runs/icons`` by default, where
docs/examples/third_party.py and closed_form.py find them.
"""

from __future__ import annotations

import argparse
import random
import re
import warnings
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

FOLDER, ICONS = Path("runs/icons"), "icons.npz"
SIDE, PATCH, SIZE = 64, 8, 26  # of an image, a patch and an icon, in pixels
PLACES = ("top left", "top right", "bottom left", "bottom right")
OTHER_WORDS = "at the what is where there a how many things are yes no nothing".split()
NUMBERS = ("zero", "one", "two", "three", "four")
ONE_WORD = re.compile("[a-z]{2,}")
VISIBLE = 0.1  # mean opacity of a patch that shows an icon
LARGEST, EMOJI = 96, 109  # pixels of an icon before its last scaling, and of the font


# ---- icons with names --------------------------------------------------------------------------------------


def emoji(share: Path) -> Iterator[tuple[str, Image.Image]]:
    """The name and icon of each emoji of one character."""
    file = share / "fonts/truetype/noto/NotoColorEmoji.ttf"
    known, font = TTFont(file).getBestCmap(), ImageFont.truetype(str(file), EMOJI)
    for note in ElementTree.parse(share / "unicode/cldr/common/annotations/en.xml").iter("annotation"):
        character = note.get("cp", "")
        if note.get("type") == "tts" and len(character) == 1 and ord(character) in known:
            icon = Image.new("RGBA", (136, 128))
            ImageDraw.Draw(icon).text((0, 0), character, font=font, embedded_color=True)
            yield note.text or "", icon


def stamps(share: Path) -> Iterator[tuple[str, Image.Image]]:
    """The description and icon of each stamp of Tux Paint."""
    for file in sorted((share / "tuxpaint/stamps").rglob("*.png")):
        text = file.with_suffix(".txt")
        if text.exists():
            yield text.read_text(errors="replace").partition("\n")[0], Image.open(file)


def clip_art(share: Path) -> Iterator[tuple[str, Image.Image]]:
    """The title and image of each file of Open Clip Art."""
    for file in sorted((share / "openclipart/png").rglob("*.png")):
        try:
            with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
                icon = Image.open(file)
        except Image.DecompressionBombError:  # some are posters
            continue
        yield str(icon.info.get("Title", "")), icon


def named_icons(share: Path) -> dict[str, np.ndarray]:
    """Word -> its icons, uint8 ``(k, SIZE, SIZE, 4)``: the words that at least two of the three
    collections have as a whole name, with one icon of each.
    """
    found: dict[str, list[Image.Image]] = {}
    for collection in (emoji, stamps, clip_art):
        new = {}
        for title, icon in collection(share):
            name = re.sub(r"^(an?|the|some)\s+", "", title.strip().rstrip(".!").lower())
            if ONE_WORD.fullmatch(name) and name not in new:
                image = icon.convert("RGBA")
                if image.getchannel("A").getextrema()[1] > 127:  # some are almost transparent
                    new[name] = image
        for name, icon in new.items():
            found.setdefault(name, []).append(icon)
    return {
        name: np.stack([scaled(icon) for icon in icons])
        for name, icons in sorted(found.items())
        if len(icons) > 1
    }


def scaled(icon: Image.Image) -> np.ndarray:
    """An icon without its transparent margin, in the middle of ``(SIZE, SIZE, 4)``."""
    icon.thumbnail((LARGEST, LARGEST))
    icon = icon.crop(icon.getchannel("A").getbbox())
    icon.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(icon, ((SIZE - icon.width) // 2, (SIZE - icon.height) // 2))
    return np.asarray(square)


# ---- images with texts -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shown:
    """An image and its content.

    Args:
        pixels: uint8 ``(SIDE, SIDE, 3)``.
        words: the word at each of :data:`PLACES`; None for an empty quarter.
        patches: index of the word that each patch shows plus 1, ``(64,)``; 0 for the ground.
    """

    pixels: np.ndarray
    words: list[str | None]
    patches: np.ndarray


def compose(icons: Mapping[str, np.ndarray], chance: random.Random) -> Shown:
    """Two to four icons with different names, each somewhere in a quarter of the image."""
    names = list(icons)
    places = sorted(chance.sample(range(4), chance.randint(2, 4)))
    image = Image.new("RGB", (SIDE, SIDE), tuple(chance.randint(0, 255) for _ in range(3)))
    words: list[str | None] = [None] * 4
    rows = SIDE // PATCH
    patches = np.zeros((rows, rows), np.int64)
    for place, word in zip(places, chance.sample(names, len(places)), strict=True):
        icon = Image.fromarray(chance.choice(list(icons[word])))
        top, left = (SIDE // 2 * half + chance.randint(0, SIDE // 2 - SIZE) for half in divmod(place, 2))
        image.paste(icon, (left, top), icon)
        words[place] = word
        opacity = np.zeros((SIDE, SIDE))
        opacity[top : top + SIZE, left : left + SIZE] = np.asarray(icon)[..., 3] / 255
        patches[opacity.reshape(rows, PATCH, rows, PATCH).mean((1, 3)) > VISIBLE] = names.index(word) + 1
    return Shown(np.asarray(image), words, patches.flatten())


def caption(shown: Shown) -> tuple[str, str]:
    """The prompt for captions, and the caption."""
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


def pretrain(icons: Mapping[str, np.ndarray], out: Path, seed: int, recipe: Recipe) -> None:
    """Train a mini-BLIP and save it with its icons."""
    torch.manual_seed(seed)
    names, chance = list(icons), random.Random(seed)
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
        images = [compose(icons, chance) for _ in range(recipe.images)]
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
    np.savez_compressed(out / ICONS, **icons)


# ---- new images --------------------------------------------------------------------------------------------


def loaded(folder: Path) -> tuple[ModelFamily, dict[str, np.ndarray]]:
    """The trained model, and its icons."""
    with np.load(folder / ICONS) as saved:
        return load_family(folder), dict(saved)


def exact(folder: Path, count: int = 200) -> float:
    """Fraction of exact answers to four random questions about each of some new images."""
    family, icons = loaded(folder)
    chance, samples = random.Random("test"), []
    for number in range(count):
        shown = compose(icons, chance)
        image = Image.fromarray(shown.pixels)
        samples += [
            Sample(f"image {number}", image, *text) for text in questions(shown, list(icons), chance)[:4]
        ]
    given = [
        answer
        for start in range(0, len(samples), 100)
        for answer in family.generate(samples[start : start + 100], Decoding(8))
    ]
    return float(np.mean([answer == sample.answer for answer, sample in zip(given, samples)]))


def examples(folder: Path, count: int = 64) -> Iterator[tuple[dict[str, AttentionGraph], Region]]:
    """The decoder's graphs of new images with their captions. The region of a row is made of the patches of
    the icon whose name is written next.
    """
    family, icons = loaded(folder)
    chance, names = random.Random("examples"), list(icons)
    for number in range(count):
        shown = compose(icons, chance)
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
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the model and the icons")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args()
    icons = named_icons(options.share)
    print(f"{len(icons)} words with {sum(map(len, icons.values()))} icons")
    pretrain(icons, options.out, options.seed, Recipe(steps=options.steps))
    print(f"exact answers about new images: {exact(options.out):.3f}")


if __name__ == "__main__":
    main()
