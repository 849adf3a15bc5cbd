"""Changes of pictures in training: those of BLIP, decided by a seed alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from experiments.models.transforms import KINDS, TrainingTransform, names_sides


@pytest.fixture(scope="module")
def picture():
    draw = np.random.default_rng(0)
    return Image.fromarray(draw.integers(0, 256, (48, 80, 3), dtype=np.uint8))


def halves():
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (80, 48), "blue")
    picture.paste("red", (0, 0, 40, 48))
    return picture


def plain(transform):
    """The same without distortions."""
    transform.distort = v2.Identity()
    return transform


def test_the_seed_alone_decides(picture):
    transform = TrainingTransform(64)
    first = [transform(picture, seed, True).tobytes() for seed in range(40)]
    torch.manual_seed(7)
    again = [TrainingTransform(64)(picture, seed, True).tobytes() for seed in reversed(range(40))]
    assert first == again[::-1] and len(set(first)) == 40


def test_the_programs_own_random_numbers_go_on(picture):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    found = [torch.rand(2)]
    TrainingTransform(64)(picture, 5, mirrors=True)
    assert torch.equal(torch.cat([*found, torch.rand(2)]), expected)


@pytest.mark.parametrize("side, size", [(64, (64, 64)), (None, (80, 48))])
def test_the_size_is_the_models_or_the_pictures_own(side, size, picture):
    changed = TrainingTransform(side)(picture, 0, mirrors=False)
    assert changed.size == size and changed.mode == "RGB"


def test_crops_show_half_to_all_of_the_picture():
    """A picture whose red grows to the right and whose green grows downwards says what a crop shows."""
    red, green = np.meshgrid(np.linspace(0, 255, 240), np.linspace(0, 255, 240))
    ramp = Image.fromarray(np.stack([red, green, 0 * red], -1).round().astype(np.uint8))
    transform = plain(TrainingTransform(64))
    shares = []
    for seed in range(300):
        pixels = np.asarray(transform(ramp, seed, False)).astype(float)
        shares.append(np.prod([np.ptp(pixels[..., colour]) / 255 for colour in (0, 1)]))
    assert 0.45 < min(shares) < 0.53 and 0.95 < max(shares) <= 1


def test_mirror_images_only_where_they_are_allowed():
    def mirrored(mirrors):
        transform = plain(TrainingTransform(32))
        pixels = [np.asarray(transform(halves(), seed, mirrors)) for seed in range(200)]
        return sum(p[:, 0].mean(0)[2] > p[:, -1].mean(0)[2] for p in pixels)

    assert mirrored(False) == 0 and 70 < mirrored(True) < 130


def test_texts_that_name_sides():
    for text in (
        "is the star left of the square ?",
        "The RIGHT one",
        "what is in the leftmost place",
        "right-hand",
    ):
        assert names_sides(text)
    for text in ("is it bright ?", "a cleft lip, upright", ""):
        assert not names_sides(text)


def test_distortions_are_those_of_blip():
    """RandomAugment(2, 5) of BLIP's code: two of ten kinds, strength 5 of 10: rotations by 15 degrees, shears
    by 0.15."""
    distort = TrainingTransform(64).distort
    assert isinstance(distort, v2.RandAugment) and set(distort._AUGMENTATION_SPACE) == set(KINDS)
    assert len(KINDS) == 10 and not {"Color", "Posterize", "Solarize", "Contrast", "Invert"} & set(KINDS)
    strength = {
        kind: float(made(distort.num_magnitude_bins, 64, 64)[distort.magnitude])
        for kind, (made, _) in distort._AUGMENTATION_SPACE.items()
        if kind in ("Rotate", "ShearX")
    }
    assert distort.num_ops == 2 and strength == pytest.approx({"Rotate": 15, "ShearX": 0.15})
