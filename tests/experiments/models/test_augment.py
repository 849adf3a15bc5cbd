"""Random changes in training: those of BLIP, decided by a seed alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from attngraph.experiments.models.augment import KINDS, TrainingTransform, names_sides


@pytest.fixture(scope="module")
def picture():
    draw = np.random.default_rng(0)
    return Image.fromarray(draw.integers(0, 256, (48, 80, 3), dtype=np.uint8))


def plain(side):
    """Without distortions."""
    transform = TrainingTransform(side)
    transform.distort = v2.Identity()
    return transform


def test_the_seed_alone_decides(picture):
    """And the program's own random numbers go on as if none had been drawn."""
    torch.manual_seed(3)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    found = [torch.rand(2)]
    changed = TrainingTransform(None)(picture, 5, mirrors=True)
    assert torch.equal(torch.cat([*found, torch.rand(2)]), drawn)
    assert changed.size == picture.size and changed.mode == "RGB"
    transform = TrainingTransform(64)
    first = [transform(picture, seed, True).tobytes() for seed in range(40)]
    torch.manual_seed(7)
    again = [TrainingTransform(64)(picture, seed, True).tobytes() for seed in reversed(range(40))]
    assert first == again[::-1] and len(set(first)) == 40


def test_crops_show_half_to_all_of_the_picture():
    """A picture whose red grows to the right and whose green grows downwards says what a crop shows."""
    red, green = np.meshgrid(np.linspace(0, 255, 240), np.linspace(0, 255, 240))
    ramp = Image.fromarray(np.stack([red, green, 0 * red], -1).round().astype(np.uint8))
    transform = plain(64)
    shares = []
    for seed in range(300):
        pixels = np.asarray(transform(ramp, seed, False)).astype(float)
        shares.append(np.prod([np.ptp(pixels[..., colour]) / 255 for colour in (0, 1)]))
    assert 0.45 < min(shares) < 0.53 and 0.95 < max(shares) <= 1


def test_mirror_images_only_where_they_are_allowed():
    halves = Image.new("RGB", (80, 48), "blue")
    halves.paste("red", (0, 0, 40, 48))

    def mirrored(mirrors):
        transform = plain(32)
        pixels = [np.asarray(transform(halves, seed, mirrors)) for seed in range(200)]
        return sum(p[:, 0].mean(0)[2] > p[:, -1].mean(0)[2] for p in pixels)

    assert mirrored(False) == 0 and 70 < mirrored(True) < 130


def test_texts_that_name_sides():
    assert all(map(names_sides, ("is the star left of the square ?", "The RIGHT one", "the leftmost place")))
    assert not any(map(names_sides, ("is it bright ?", "a cleft lip, upright", "")))


def test_distortions_are_those_of_blip():
    """RandomAugment(2, 5) of BLIP's code: two of ten kinds, strength 5 of 10: rotations by 15 degrees, shears
    by 0.15."""
    distort = TrainingTransform(64).distort
    space = distort._AUGMENTATION_SPACE
    assert isinstance(distort, v2.RandAugment) and set(space) == set(KINDS) and distort.num_ops == 2
    assert len(KINDS) == 10 and not {"Color", "Posterize", "Solarize", "Contrast", "Invert"} & set(KINDS)
    for kind, strength in (("Rotate", 15), ("ShearX", 0.15)):
        made, _ = space[kind]
        assert float(made(distort.num_magnitude_bins, 64, 64)[distort.magnitude]) == pytest.approx(strength)
