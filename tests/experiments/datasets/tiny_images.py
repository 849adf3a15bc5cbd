"""An image file for tests of readers."""

from pathlib import Path

from PIL import Image


def save_image(path: Path) -> None:
    """Writes a small picture, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)
