"""What a picture shows, where the folder of its data says so."""

from functools import cache
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.reading import read_json
from experiments.scenes.scene import Scene

SCENES = "scenes.json"


def scene_of(image: Path) -> Scene | None:
    """The scene that an image of a data set of drawn scenes shows; None for any other image.

    Args:
        image: its file. ``scenes.json`` stands beside the folder of the images, as
            :func:`experiments.data.drawn.write_scenes` writes it.

    Raises:
        UserError: the file is there, but does not say what the image shows.
    """
    file = image.parent.parent / SCENES
    if not file.exists():
        return None
    described = _described(file)
    if image.name not in described:
        return None
    try:
        return Scene.from_dict(described[image.name])
    except ValueError as error:
        raise UserError(
            f"{file} does not say what {image.name} shows ({error}): draw the data again (attngraph scenes)"
        ) from None


@cache
def _described(file: Path) -> dict[str, dict]:
    described = read_json(file)
    if not isinstance(described, dict):
        raise UserError(f"{file} describes no scenes: draw the data again (attngraph scenes)")
    return described
