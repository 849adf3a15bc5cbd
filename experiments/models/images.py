"""Reading images, preprocessing for models, and recovering images from model inputs; see
:mod:`attngraph.experiments.models.augment` for augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from transformers import PretrainedConfig

from attngraph.analysis.patches import Grid
from attngraph.errors import UserError
from attngraph.experiments.base.messages import first_line

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # BLIP's own image statistics
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


# ---- opening ---------------------------------------------------------------------------------------------


def open_image(image: str | Path | Image.Image) -> Image.Image:
    """An image in RGB with 8 bits per channel, from a file or an image object, rotated according to its EXIF
    data. Of 16-bit levels the upper 8 bits are used. Transparent pixels become white. Of several frames the
    first is used.

    Raises:
        UserError: no such file, not an image, or pixels with an ambiguous range (32-bit integers, floating
            point).
    """
    if isinstance(image, Image.Image):
        return _as_rgb(image, "the image")
    path = Path(image)
    if not path.is_file():
        fault = "is not a file" if path.exists() else "not found"
        raise UserError(f"image {path} {fault}: check the path, or write the data again")
    try:
        with Image.open(path) as file:
            return _as_rgb(file, str(path))
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{path} has more than {most:,} pixels: make it smaller") from error
    except Exception as error:  # decoders raise all kinds on damaged files
        raise UserError(f"{path} cannot be read ({first_line(error)}): replace the file") from error


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and image.format is None and not image.info:
        return image  # made in memory
    is_wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image = ImageOps.exif_transpose(image)
    if is_wide:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(
            f"{name} has 32-bit values, whose range is ambiguous: save it with 8 or 16 bits per channel"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


# ---- as image encoders get them --------------------------------------------------------------------------


def preprocess(
    images: Sequence[Image.Image | str | Path],
    image_size: int = 64,
    mean: Sequence[float] = IMAGE_MEAN,
    std: Sequence[float] = IMAGE_STD,
) -> Tensor:
    """Images as BLIP's normalised pixels, ``(B, 3, image_size, image_size)``; errors as in
    :func:`open_image`.
    """
    size = (image_size, image_size)
    opened = [open_image(image) for image in images]
    opened = [x if x.size == size else x.resize(size, Image.Resampling.BICUBIC) for x in opened]
    return normalise(torch.from_numpy(np.stack([np.asarray(image) for image in opened])), mean, std)


def normalise(pixels: Tensor, mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD) -> Tensor:
    """uint8 ``(B, height, width, 3)`` to normalised float32 ``(B, 3, height, width)``."""
    return ((pixels.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


def interpolate_positions(positions: Tensor, rows: int, mode: str = "bicubic") -> Tensor:
    r"""Positions of a square grid of patches, for a grid with another number of rows.

    As in BLIP: the row of the class token is kept, the others are an image of ``width`` channels, which is
    interpolated bicubically (``align_corners=False``: patch i of n is at (i + 1/2)/n of the side),

    .. math:: y_{ij} = \sum_{a,b} k(u_i - a) \, k(v_j - b) \, x_{ab},
       \qquad u_i = (i + \tfrac12) \frac{n}{m} - \tfrac12,

    for ``n`` old and ``m`` new rows, with the same ``v``; ``k`` is Keys' kernel with a = -3/4 over the four
    nearest rows and columns, and values beyond the edge are those at the edge. The kernel is not widened if
    the new grid is smaller. mPLUG does the same with ``mode="bilinear"``, with a triangle over the two
    nearest as ``k``.

    Args:
        positions: ``(1, 1 + n * n, width)``, the class token's first, then the patches row by row; returned
            unchanged if the grid is the same.
        rows: number of rows of the new grid, m.
        mode: ``"bicubic"`` or ``"bilinear"``.
    """
    old, width = math.isqrt(positions.shape[1] - 1), positions.shape[2]
    if old == rows:
        return positions
    grid = positions[:, 1:].reshape(1, old, old, width).permute(0, 3, 1, 2)  # (1, width, n, n)
    grid = nn.functional.interpolate(grid, size=(rows, rows), mode=mode, align_corners=False)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def rows_of(side: int, patch: int) -> int:
    """Number of rows of patches in an image, from its side and a patch's side in pixels.

    Raises:
        UserError: the side is not a multiple of the patch's.
    """
    if side < patch or side % patch:
        near = max(1, round(side / patch)) * patch
        raise UserError(
            f"side {side}: the model has patches of {patch} pixels, so the side must be a multiple of this, "
            f"such as {near}"
        )
    return side // patch


# ---- what models see of them -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """The images of a batch.

    Args:
        images: as in the model's input, if they can be recovered from its pixels, else the original images.
        grids: rows and columns of each image's patches, after merging for a language model if the processor
            defines it; None if unknown.
        whole: False if the images may have been cropped.
        tiled: whether images are cut into tiles, which the model encodes separately.
    """

    images: list[Image.Image]
    grids: list[Grid] | None = None
    whole: bool = False
    tiled: bool = False


def seen(
    inputs: Mapping[str, Tensor], images: Sequence[Image.Image], config: PretrainedConfig, processor
) -> Pictures:
    """The images in a model's inputs, as preprocessed by its image processor."""
    b, images = len(images), list(images)
    shapes = inputs.get("image_grid_thw", inputs.get("spatial_shapes"))  # each picture keeps its own
    if shapes is not None:
        merged, grids = getattr(processor, "merge_size", 1), None
        if len(shapes) == b:
            grids = [tuple(side // merged for side in sizes[-2:]) for sizes in shapes.tolist()]
        return Pictures(images, grids, whole=grids is not None)
    pixels = inputs.get("pixel_values")
    if pixels is not None and pixels.dim() == 5 and pixels.shape[1] == 1:
        pixels = pixels[:, 0]  # a picture is one tile
    if pixels is None or pixels.dim() != 4 or pixels.shape[0] != b:
        return Pictures(images, tiled=pixels is not None and pixels.dim() in (4, 5, 6))
    sizes: list[tuple[int, int]] = [tuple(pixels.shape[2:])] * b
    mask = inputs.get("pixel_mask", inputs.get("pixel_attention_mask"))
    if mask is not None:  # without padding
        mask = mask.reshape(b, *pixels.shape[2:]).bool()
        sizes = [(int(one.any(1).sum()), int(one.any(0).sum())) for one in mask]
    grids, sides = None, _patch(config)
    if sides is not None:
        grids = [tuple(-(-size // side) for size, side in zip(shape, sides)) for shape in sizes]
    cut = False
    if getattr(processor, "do_center_crop", False):
        shown, made = (set(dict(size).values()) - {None} for size in (processor.crop_size, processor.size))
        keeps_shape = dict(processor.size).get("shortest_edge") is not None
        cut = shown != made or (keeps_shape and any(image.width != image.height for image in images))
    return Pictures(_read_back(pixels, sizes, processor) or images, grids, whole=not cut)


def _patch(config: PretrainedConfig) -> tuple[int, int] | None:
    """Height and width of a patch."""
    parts = (getattr(config, name, None) for name in ("vision_config", "image_config", "encoder"))
    vision = next((part for part in parts if part is not None), config)
    side = getattr(vision, "patch_size", None)
    if side is None or hasattr(vision, "patch_stride"):  # patches that overlap are no grid of this size
        return None
    return (side, side) if isinstance(side, int) else tuple(side)


def _read_back(pixels: Tensor, sizes: Sequence[tuple[int, int]], processor) -> list[Image.Image] | None:
    """Pixels as images; None if the processor does not define their scaling."""
    mean, std = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
    if pixels.shape[1] != 3:
        return None
    pixels = pixels.float()
    if getattr(processor, "do_normalize", True):
        if mean is None or std is None:
            return None
        pixels = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    back = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [
        Image.fromarray(np.ascontiguousarray(one[:rows, :columns]))
        for one, (rows, columns) in zip(back, sizes)
    ]
