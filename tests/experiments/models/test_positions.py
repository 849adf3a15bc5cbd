"""Position embeddings for pictures of another side: a brute-force bicubic, and models that see the side."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from attngraph.errors import UserError
from experiments.models import Decoding, Ranking, Sample, load_family
from experiments.models.positions import interpolate_positions, rows_of
from tests.experiments.tiny import save


def keys_kernel(distance: float) -> float:
    """Keys (1981), eq. 4, with a = -3/4 as in OpenCV and PyTorch."""
    a, x = -0.75, abs(distance)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def brute_force(grid: np.ndarray, new: int) -> np.ndarray:
    """``(n, n, width)`` to ``(new, new, width)``, one place after the other."""
    old = len(grid)
    result = np.zeros((new, new, grid.shape[2]))
    for i in range(new):
        for j in range(new):
            u, v = (i + 0.5) * old / new - 0.5, (j + 0.5) * old / new - 0.5
            for a in range(math.floor(u) - 1, math.floor(u) + 3):
                for b in range(math.floor(v) - 1, math.floor(v) + 3):
                    value = grid[min(max(a, 0), old - 1), min(max(b, 0), old - 1)]
                    result[i, j] += keys_kernel(u - a) * keys_kernel(v - b) * value
    return result


@pytest.mark.parametrize("old, new", [(3, 5), (4, 8), (5, 3), (8, 2), (1, 3), (2, 2)])
def test_it_is_keys_bicubic_interpolation(old, new):
    positions = torch.randn(1, 1 + old * old, 3, dtype=torch.float64)
    found = interpolate_positions(positions, new)
    expected = brute_force(positions[0, 1:].reshape(old, old, 3).numpy(), new)
    assert found.shape == (1, 1 + new * new, 3) and torch.equal(found[:, 0], positions[:, 0])
    np.testing.assert_allclose(found[0, 1:].reshape(new, new, 3).numpy(), expected, atol=1e-12)


def test_the_same_grid_is_left_alone():
    positions = torch.randn(1, 197, 4)
    assert interpolate_positions(positions, 14) is positions


@pytest.mark.parametrize("side, count", [(224, 197), (384, 577), (480, 901)])
def test_blips_sides(side, count):
    assert interpolate_positions(torch.randn(1, 197, 4), rows_of(side, 16)).shape == (1, count, 4)


def test_rows_and_columns_keep_their_places():
    """What depends on the row alone still does."""
    rows = torch.arange(4.0).repeat_interleave(4)
    wide = interpolate_positions(torch.cat([torch.zeros(1), rows])[None, :, None], 8)[0, 1:, 0].reshape(8, 8)
    torch.testing.assert_close(wide, wide[:, :1].expand(8, 8), atol=1e-6, rtol=0)
    assert (wide[1:, 0] > wide[:-1, 0]).all()


def test_positions_of_no_square_are_refused():
    with pytest.raises(ValueError, match="7 positions are no square"):
        interpolate_positions(torch.zeros(1, 8, 2), 3)


@pytest.mark.parametrize("side", [-8, 0, 3, 7, 225])
def test_a_side_must_be_a_multiple_of_the_patches(side):
    with pytest.raises(UserError, match="multiple of that, such as ([1-9]\\d*)$") as error:
        rows_of(side, 8)
    assert rows_of(int(str(error.value).split()[-1]), 8)


@pytest.mark.parametrize("name", ["blip", "blip-vqa"])
def test_a_model_sees_pictures_of_the_side(name, tmp_path):
    folder = save(name, tmp_path)
    plain = load_family(folder)
    own = plain.image_side
    wide = load_family(folder, side=2 * own)
    pixels = np.random.default_rng(0).integers(0, 255, (2 * own, 2 * own, 3), dtype=np.uint8)
    sample = Sample("one", Image.fromarray(pixels), "a red", "ball")
    assert wide.image_side == 2 * own and wide.image_settings != plain.image_settings
    assert wide.encode_images([sample.image]).shape[1] == len(wide.blank_image()) > len(plain.blank_image())
    patches = (2 * own // wide.model.config.vision_config.patch_size) ** 2
    assert wide.batch([sample]).pictures.grids[0] == (int(patches**0.5),) * 2
    assert wide.model.vision_model.embeddings.position_embedding.requires_grad
    assert len(wide.answer([sample], Decoding(3))) == len(wide.answer([sample], Ranking(("a", "red")))) == 1
    wide.model.save_pretrained(tmp_path / "again")
    config = type(wide.model).from_pretrained(tmp_path / "again").config
    assert config.vision_config.image_size == 2 * own, "it is saved with the model"


@pytest.mark.parametrize("name", ["blip", "blip-vqa"])
def test_the_checkpoints_own_side_changes_nothing(name, tmp_path):
    folder = save(name, tmp_path)
    plain, same = load_family(folder), load_family(folder, side=load_family(folder).image_side)
    for key, weight in plain.model.state_dict().items():
        assert torch.equal(weight, same.model.state_dict()[key]), key


def test_transformers_interpolates_the_same(tmp_path):
    """Its own option, at each forward pass."""
    folder = save("blip", tmp_path)
    plain, wide = load_family(folder), load_family(folder, side=2 * load_family(folder).image_side)
    pixels = torch.randn(2, 3, wide.image_side, wide.image_side)
    with torch.no_grad():
        expected = plain.model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
        found = wide.model.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["llava", "captioner", "bert"])
def test_families_that_cannot_say_so(name, tmp_path):
    with pytest.raises(UserError, match="side 48: .* leave the side out") as error:
        load_family(save(name, tmp_path), side=48)
    assert "\n" not in str(error.value)


def test_a_side_between_patches_is_one_line(tmp_path):
    with pytest.raises(UserError, match="side 7: the model sees patches of"):
        load_family(save("blip", tmp_path), side=7)
