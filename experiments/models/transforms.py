"""How a picture is changed in training: cropped, mirrored, distorted, each time otherwise.

As ALBEF and BLIP do it: a random crop of half to all of the picture, resized (bicubic); a mirror image every
other time; two of ten distortions at strength 5 of 10 (RandAugment, Cubuk et al. 2020). Those that change
colours on purpose are not among the ten, since texts name colours. The model's own processor comes after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from PIL import Image
from torchvision.transforms import v2

SCALE = (0.5, 1.0)  # share of the picture that a crop shows
DISTORTIONS, STRENGTH, STRENGTHS = 2, 5, 11  # strengths go from 0 to 10
KINDS = (
    "Identity",
    "AutoContrast",
    "Equalize",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)


class _Distort(v2.RandAugment):
    """RandAugment with BLIP's ten kinds."""

    _AUGMENTATION_SPACE = {kind: v2.RandAugment._AUGMENTATION_SPACE[kind] for kind in KINDS}


class TrainingTransform:
    """Changes a picture; how is decided by a seed alone.

    Args:
        side: of the square that the model sees, in pixels; None keeps a picture's own size.
        mirrors: whether the picture may be mirrored.
    """

    def __init__(self, side: int | None, mirrors: bool):
        self.side = side
        mirrored = [v2.RandomHorizontalFlip()] if mirrors else []
        self.after_crop = v2.Compose([*mirrored, _Distort(DISTORTIONS, STRENGTH, STRENGTHS)])

    def __call__(self, picture: Image.Image, seed: int) -> Image.Image:
        """The changed picture, in RGB as the given one."""
        size = (picture.height, picture.width) if self.side is None else (self.side, self.side)
        crop = v2.RandomResizedCrop(size, SCALE, interpolation=v2.InterpolationMode.BICUBIC)
        with _drawn_from(seed):
            return self.after_crop(crop(picture))


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """PyTorch's random numbers on the CPU begin at a seed, and go on afterwards as if none had been drawn."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
