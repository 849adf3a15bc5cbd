"""Models and pictures that several files look at."""

import pytest

from tests.experiments.inspect.looking import pictures
from tests.experiments.tiny import save


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """``saved(family)``: a folder with this tiny model."""
    folders = {}

    def one(family: str):
        if family not in folders:
            folders[family] = save(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return one


@pytest.fixture(scope="session")
def given(tmp_path_factory):
    """Two pictures, and two texts of other lengths, as options."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "texts.txt").write_text("red\na red ball\n")
    return {
        "images": ("--images", *pictures(folder, "0.png", "1.png", size=(12, 8))),
        "texts": ("--texts", folder / "texts.txt"),
    }
