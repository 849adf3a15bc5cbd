"""Random changes of images in training.

In training an image is cropped, mirrored and distorted randomly, as in ALBEF and BLIP: a random crop of half
to all of its area, resized (bicubic); a horizontal flip with probability 0.5; two of ten distortions at
strength 5 of 10 (RandAugment, Cubuk et al. 2020). Operations that change colours are not among the ten, since
texts mention colours. The model's processor is applied afterwards.
"""

from __future__ import annotations

import re

import torch
from PIL import Image
from torchvision.transforms import v2

SCALE = (0.5, 1.0)  # share of the picture that a crop shows
DISTORTIONS, STRENGTH, STRENGTHS = 2, 5, 11  # strengths go from 0 to 10
KINDS = (
    *("Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness"),
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
)


class _Distort(v2.RandAugment):
    """RandAugment with BLIP's ten kinds."""

    _AUGMENTATION_SPACE = {kind: v2.RandAugment._AUGMENTATION_SPACE[kind] for kind in KINDS}


class TrainingTransform:
    """Changes an image as determined by a seed. ``side`` is that of the square model input, in pixels; None
    keeps an image's size.
    """

    def __init__(self, side: int | None):
        self.side = side
        self.mirror, self.distort = v2.RandomHorizontalFlip(), _Distort(DISTORTIONS, STRENGTH, STRENGTHS)

    def __call__(self, picture: Image.Image, seed: int, mirrors: bool) -> Image.Image:
        """The changed image, in RGB like the given one."""
        size = (picture.height, picture.width) if self.side is None else (self.side, self.side)
        crop = v2.RandomResizedCrop(size, SCALE, interpolation=v2.InterpolationMode.BICUBIC)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            cropped = crop(picture)
            return self.distort(self.mirror(cropped) if mirrors else cropped)


def names_sides(text: str) -> bool:
    """Whether a text contains left or right, which would be wrong for a mirror image."""
    return re.search(r"\b(left|right)", text, re.IGNORECASE) is not None  # leftmost, right-hand ...
