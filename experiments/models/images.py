"""Opening pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def open_image(image: Path | Image.Image) -> Image.Image:
    """A picture in RGB, from a file or as given.

    Raises:
        OSError: no such file, or no image.
    """
    if isinstance(image, Image.Image):
        return image
    with Image.open(image) as file:
        return file.convert("RGB")
