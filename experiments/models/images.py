"""The one place that opens pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from attngraph.errors import UserError
from experiments.errors import first_line

_BITS_PER_SAMPLE = 258  # a TIFF tag


def open_image(image: str | Path | Image.Image) -> Image.Image:
    """A picture in RGB with 8 bits a channel, upright, from a file or as given.

    The picture is turned as its EXIF data say. Of 16-bit grey levels the upper 8 bits stay, as Pillow does it
    for 16-bit colours. Transparent pixels show white. Of several frames the first is taken.

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
    except Exception as error:  # decoders raise all kinds on damaged files
        raise UserError(f"{path} cannot be read ({first_line(error)}): replace the file") from error


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and image.format is None and not image.info:
        return image  # made in memory
    is_wide_pgm = image.mode == "I" and image.format == "PPM"
    tags = getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or is_wide_pgm:
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise UserError(
            f"{name} holds {kind}, which may stand for any brightness: save it with 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
