"""Pictures as somebody takes them who does not see them: blurred, dark, turned, cut off."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

from experiments.scenes.drawing import draw
from experiments.scenes.layouts.parts import Pictures, dump
from experiments.scenes.scene import Scene

LEVELS = {"good": 60, "poor": 25, "bad": 15}  # and how common they are, in per cent
#: Fault -> the range of its amount in poor pictures, and in bad ones.
FAULTS = {
    "blurred": ((0.8, 1.5), (6.0, 9.0)),  # radius in pixels
    "dark": ((0.4, 0.65), (0.02, 0.06)),  # brightness
    "cut": ((0.8, 0.9), (0.2, 0.3)),  # share of each side that is left
    "turned": ((-20.0, 20.0), None),  # degrees; no reason by itself not to recognise anything
}


@dataclass(frozen=True)
class Quality:
    """How good a picture is.

    Args:
        level: "good", "poor" (things can be recognised), or "bad" (they cannot).
        fault: one of :data:`FAULTS`; None for good pictures.
        amount: of the fault.
    """

    level: str
    fault: str | None = None
    amount: float = 0.0

    @property
    def keeps_places(self) -> bool:
        """Whether things stand where they stood."""
        return self.fault not in ("cut", "turned")


def any_quality(rng: random.Random) -> Quality:
    """A quality at random."""
    level = rng.choices(list(LEVELS), list(LEVELS.values()))[0]
    if level == "good":
        return Quality(level)
    ranges = {fault: both[level == "bad"] for fault, both in FAULTS.items()}
    fault = rng.choice([name for name, span in ranges.items() if span is not None])
    low, high = ranges[fault]
    return Quality(level, fault, round(rng.uniform(low, high), 3))


@dataclass
class Photographs:
    """VizWiz's pictures of scenes, and what was done to each.

    Args:
        root: the data set's folder.
        pictures: writes them.
    """

    root: Path
    pictures: Pictures
    qualities: dict[str, dict] = field(default_factory=dict)

    def take(self, scene: Scene, part: str, number: int, rng: random.Random) -> tuple[str, Quality]:
        """Writes the picture of this number in a split, in any quality; returns its name and quality."""
        quality, name = any_quality(rng), f"VizWiz_{part}_{number:08d}.jpg"
        picture = taken(draw(scene), quality)
        self.pictures.save(picture, self.root / part / name, scene if quality.keeps_places else None)
        self.qualities[name] = asdict(quality)
        return name, quality

    def write(self) -> None:
        """Writes what was done to the pictures."""
        dump(self.root / "quality.json", self.qualities)


def taken(picture: Image.Image, quality: Quality) -> Image.Image:
    """The picture in this quality, in the same size."""
    amount = quality.amount
    if quality.fault == "blurred":
        return picture.filter(ImageFilter.GaussianBlur(amount))
    if quality.fault == "dark":
        return ImageEnhance.Brightness(picture).enhance(amount)
    if quality.fault == "cut":
        width, height = (max(1, round(side * amount)) for side in picture.size)
        return picture.crop((0, 0, width, height)).resize(picture.size, Image.Resampling.BICUBIC)
    if quality.fault == "turned":
        return picture.rotate(amount, Image.Resampling.BICUBIC, fillcolor=picture.getpixel((0, 0)))
    return picture
