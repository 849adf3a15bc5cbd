"""What a model sees of its pictures: them after cropping and resizing, and the grids of patches that they
are cut into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PretrainedConfig

from analysis.maps import Grid


@dataclass(frozen=True)
class Pictures:
    """The pictures of a batch.

    Args:
        images: as the model sees them, where the pixels can be read back, else as given.
        grids: rows and columns of each picture's patches, as a language model gets them where the processor
            says that squares of them are merged; None where unknown.
        whole: False where something may have been cropped.
        tiled: whether each is cut into tiles that the model sees one by one.
    """

    images: list[Image.Image]
    grids: list[Grid] | None = None
    whole: bool = False
    tiled: bool = False


def seen(
    inputs: Mapping[str, Tensor], images: Sequence[Image.Image], config: PretrainedConfig, processor
) -> Pictures:
    """The pictures that a model's inputs hold.

    Args:
        inputs: of the model, as its image processor made them.
        images: the pictures as given.
        config: of the model.
        processor: the image processor.
    """
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
    sizes = _sizes(inputs, pixels)
    sides = _patch(config)
    grids = (
        None
        if sides is None
        else [tuple(-(-size // side) for size, side in zip(shape, sides)) for shape in sizes]
    )
    cut = getattr(processor, "do_center_crop", False) and _sides(processor.crop_size) != _sides(
        processor.size
    )
    return Pictures(_read_back(pixels, sizes, processor) or images, grids, whole=not cut)


def _sizes(inputs: Mapping[str, Tensor], pixels: Tensor) -> list[tuple[int, int]]:
    """Each picture's height and width without padding."""
    mask = inputs.get("pixel_mask", inputs.get("pixel_attention_mask"))
    if mask is None:
        return [tuple(pixels.shape[2:])] * len(pixels)
    mask = mask.reshape(len(pixels), *pixels.shape[2:]).bool()
    return [(int(one.any(1).sum()), int(one.any(0).sum())) for one in mask]


def _patch(config: PretrainedConfig) -> tuple[int, int] | None:
    """Height and width of a patch."""
    parts = (getattr(config, name, None) for name in ("vision_config", "image_config", "encoder"))
    vision = next((part for part in parts if part is not None), config)
    side = getattr(vision, "patch_size", None)
    if side is None or hasattr(vision, "patch_stride"):  # patches that overlap are no grid of this size
        return None
    return (side, side) if isinstance(side, int) else tuple(side)


def _read_back(pixels: Tensor, sizes: Sequence[tuple[int, int]], processor) -> list[Image.Image] | None:
    """Pixels as pictures; None where the processor doesn't say how they were scaled."""
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


def _sides(size) -> set[int]:
    """The lengths that an image processor's size names."""
    return {side for side in dict(size).values() if side is not None}
