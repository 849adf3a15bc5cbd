"""The one place that opens pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from attngraph.errors import UserError
from experiments.errors import first_line

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value of the second
#: Pillow's name of a PNG's pixels → what a grey level of few bits is multiplied with to have 8.
_FEW_BITS = {"1": 255, "L;2": 85, "L;4": 17}


def open_image(image: str | Path | Image.Image) -> Image.Image:
    """A picture in RGB with 8 bits a channel, upright, from a file or as given.

    The picture is turned as its EXIF data say. Of 16-bit levels the upper 8 bits stay.
    Transparent pixels show white. Of several frames the first is taken.

    Raises:
        UserError: no such file, no picture, or pixels whose range nobody knows (32-bit integers, floating
            point).
    """
    if isinstance(image, Image.Image):
        return _as_rgb(image, "the picture")
    path = Path(image)
    if not path.is_file():
        fault = "is no file" if path.exists() else "not found"
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
    is_wide_pgm = image.mode == "I" and image.format == "PPM"
    stored = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
    tags = getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or is_wide_pgm:
        image = _as_grey(image, tags)
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise UserError(
            f"{name} holds {kind}, which may stand for any brightness: save it with 8 or 16 bits a channel"
        )
    key = image.info.get("transparency")
    if stored in _FEW_BITS and isinstance(key, int):
        image = image.convert("L")
        image.info["transparency"] = key * _FEW_BITS[stored]
    elif stored == "RGB;16B" and key is not None:
        image.info["transparency"] = tuple(level >> 8 for level in key)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _as_grey(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Up to 16 bits of grey as 8; where one level stands for transparent pixels, with an alpha channel."""
    levels = np.asarray(image)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    grey = (levels >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if (key := image.info.get("transparency")) is None:
        return Image.fromarray(grey)
    alpha = np.where(levels == key, 0, 255).astype(np.uint8)
    return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
