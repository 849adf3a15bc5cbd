"""Pictures: every kind in 8-bit RGB and upright, or one line that names the file; positions, against a
brute-force bicubic."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.models.images import (
    interpolate_positions,
    open_image,
    rows_of,
    seen,
)

LEVELS = np.arange(256, dtype=np.uint16).reshape(16, 16)


def pixels(image: str | Path | Image.Image) -> list:
    return np.asarray(open_image(image)).tolist()


@pytest.mark.parametrize("name", ["little.png", "big.tif", "little.pgm"])
def test_16_bits_become_8(tmp_path, name):
    wide = Image.fromarray((LEVELS * 257).astype(">u2" if "big" in name else "<u2"))
    wide.save(tmp_path / name)
    for image in (tmp_path / name, wide):
        assert np.array_equal(np.asarray(open_image(image)), np.stack([LEVELS] * 3, -1))


def test_transparent_pixels_show_white_and_palettes_their_colours(tmp_path):
    drawn = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    drawn.putpixel((1, 0), (0, 0, 0, 0))
    drawn.save(tmp_path / "alpha.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "opaque.png")
    palette.save(tmp_path / "index.png", transparency=1)
    palette.save(tmp_path / "index.gif", transparency=1)
    for name in ("alpha.png", "index.png", "index.gif"):
        assert pixels(tmp_path / name) == [[[10, 20, 30], [255, 255, 255]]]
    assert pixels(tmp_path / "opaque.png") == [[[10, 20, 30], [0, 0, 0]]]
    assert pixels(drawn) == [[[10, 20, 30], [255, 255, 255]]]
    assert pixels(Image.new("L", (1, 1), 7)) == [[[7, 7, 7]]]


def test_what_cannot_be_converted_is_one_line_with_the_files_name(tmp_path, monkeypatch):
    Image.fromarray(LEVELS.astype(np.float32) / 255).save(tmp_path / "float.tif")
    Image.fromarray(LEVELS.astype(np.int32)).save(tmp_path / "wide.tif")
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    Image.fromarray(LEVELS * 257).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # too large to be honest
    for name, message in (
        ("float.tif", "has 32-bit values, .*: save it with 8 or 16 bits per channel"),
        ("wide.tif", "has 32-bit values, .*: save it with 8 or 16 bits per channel"),
        ("large.png", "has more than 2,000 pixels: make it smaller"),
        ("cut.png", "cannot be read .*: replace the file"),
        ("folder.png", "is not a file: check the path"),
        ("absent.png", "not found: check the path"),
    ):
        with pytest.raises(UserError, match=f"{name} {message}") as error:
            open_image(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg"])
def test_pictures_are_turned_upright(tmp_path, name):
    # Of the stored picture's upper left pixel, (x, y) in the upright one.
    corners = ((0, 0), (31, 0), (31, 15), (0, 15), (0, 0), (15, 0), (15, 31), (0, 31))
    for orientation, corner in enumerate(corners, 1):
        stored = Image.new("RGB", (32, 16))
        stored.paste("white", (0, 0, 8, 8))
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(tmp_path / name, exif=exif)
        opened = open_image(tmp_path / name)
        assert opened.size == ((32, 16) if orientation < 5 else (16, 32))
        assert min(opened.getpixel(corner)) > 200, orientation


# ---- what a model sees of them ---------------------------------------------------------------------------

GIVEN = [Image.new("RGB", (12, 8), colour) for colour in ("red", "blue")]
CROP = dict(do_center_crop=True, crop_size={"height": 8, "width": 8})


def shown(inputs, vision=None, given=GIVEN, **processor):
    """Pictures in a model's inputs, where they are 8 x 12 and normalised unless told otherwise."""
    scaled = dict(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    config = SimpleNamespace(vision_config=SimpleNamespace(**vision or {"patch_size": 4}))
    return seen(inputs, given, config, SimpleNamespace(**scaled | processor))


def test_grids_of_pictures_that_keep_their_own_shape():
    """Of several parts of a picture nobody knows how they lie."""
    sizes = torch.tensor([[1, 4, 6], [1, 2, 2]])
    for name, shapes in (("image_grid_thw", sizes), ("spatial_shapes", sizes[:, 1:])):
        for side in (1, 2):
            found = shown({name: shapes}, merge_size=side)
            assert found.grids == [(4 // side, 6 // side), (2 // side, 2 // side)]
            assert found.images == GIVEN and found.whole and not found.tiled
    assert shown({"image_grid_thw": sizes}).grids == [(4, 6), (2, 2)]
    parts = shown({"image_grid_thw": sizes[[0, 0, 1]]})
    assert parts.grids is None and not parts.whole and not parts.tiled


def test_pictures_are_read_back_from_pixels():
    """Without padding, and with the patches that padding is a part of."""
    levels, colours = torch.tensor([[1.0, -1, -2], [0.5, 3, 0]]), [(191, 64, 0), (159, 255, 128)]
    pixels = levels[..., None, None].expand(2, 3, 8, 12)
    mask = torch.ones(2, 8, 12, dtype=torch.long)
    mask[1, 5:] = mask[1, :, 8:] = 0
    found = shown({"pixel_values": pixels, "pixel_mask": mask})
    assert [image.size for image in found.images] == [(12, 8), (8, 5)] and found.grids == [(2, 3), (2, 2)]
    assert [image.getpixel((3, 3)) for image in found.images] == colours
    assert found.whole and not found.tiled
    one_tile = shown({"pixel_values": pixels[:, None], "pixel_attention_mask": mask[:, None]})
    assert (one_tile.grids, one_tile.tiled) == (found.grids, False) and one_tile.images == found.images
    plain = shown({"pixel_values": pixels / 4 + 0.5}, do_normalize=False, image_mean=None)
    assert [image.getpixel((3, 3)) for image in plain.images] == colours
    for inputs, more in (
        ({"pixel_values": pixels}, dict(image_std=None)),
        ({"pixel_values": pixels[:, :1]}, {}),
    ):
        assert shown(inputs, **more).images == GIVEN, "what cannot be read back"
    for vision, grid in (({"patch_size": (4, 6)}, (2, 2)), ({"patch_size": 4, "patch_stride": 2}, None)):
        assert shown({"pixel_values": pixels}, vision).grids == (grid and [grid] * 2)
    squares = [image.resize((8, 8)) for image in GIVEN]
    for size, whole, given in (
        ({"height": 8, "width": 8}, True, GIVEN),
        ({"shortest_edge": 8}, False, GIVEN),
        ({"shortest_edge": 8}, True, squares),
        ({"shortest_edge": 10, "longest_edge": None}, False, squares),
    ):
        assert shown({"pixel_values": pixels[..., :8]}, given=given, **CROP, size=size).whole == whole
    for inputs, tiled in (
        ({"pixel_values": pixels[:, None].expand(-1, 2, -1, -1, -1)}, True),
        ({"pixel_values": torch.zeros(5, 3, 8, 12)}, True),
        ({"pixel_values": torch.zeros(2, 24, 48)}, False),
        ({}, False),
    ):
        apart = shown(inputs)
        assert (apart.images, apart.grids, apart.whole, apart.tiled) == (GIVEN, None, False, tiled)


# ---- positions -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("old, new", [(3, 5), (8, 2), (1, 3)])
def test_it_is_keys_bicubic_interpolation(old, new):
    positions = torch.randn(1, 1 + old * old, 3, dtype=torch.float64)
    found = interpolate_positions(positions, new)
    expected = brute_force(positions[0, 1:].reshape(old, old, 3).numpy(), new)
    assert found.shape == (1, 1 + new * new, 3) and torch.equal(found[:, 0], positions[:, 0])
    np.testing.assert_allclose(found[0, 1:].reshape(new, new, 3).numpy(), expected, atol=1e-12)

    assert interpolate_positions(positions, old) is positions


def test_a_side_must_be_a_multiple_of_the_patches():
    assert rows_of(384, 16) == 24
    for side, near in ((0, 8), (3, 8), (225, 224)):
        with pytest.raises(UserError, match=f"multiple of this, such as {near}$"):
            rows_of(side, 8)
