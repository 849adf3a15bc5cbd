"""Packages know each other in one direction, modules without circles, and files stay short."""

from pathlib import Path

import pytest

from tests.import_graph import (
    ALLOWED,
    all_imports,
    arrows_up,
    circles,
    long_files,
    modules_of,
    wrong_directions,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def imports():
    return all_imports(ROOT, ALLOWED)


def test_every_package_is_read(imports):
    modules = modules_of(ROOT, ALLOWED)
    assert set(ALLOWED) <= set(modules) and len(modules) > 100
    assert len({each.source for each in imports}) > 100
    assert any(each.source == "attngraph" and each.target == "attngraph.reading.reader" for each in imports)


def test_packages_know_each_other_in_one_direction(imports):
    wrong = wrong_directions(imports)
    assert not wrong, "\n".join(["imports against the direction:", *wrong])


def test_rooms_stand_on_floors(imports):
    wrong = arrows_up(imports)
    assert not wrong, "\n".join(["imports of a room that does not stand lower:", *wrong])


def test_no_module_imports_itself_through_others(imports):
    found = circles(imports)
    assert not found, "\n".join(found)


def test_files_are_short():
    found = long_files(ROOT, ALLOWED)
    assert not found, "\n".join(found)


# ---- the checks themselves, on a made-up tree -----------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """``tree({"package/file.py": text})`` writes files and gives the folder."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


CLEAN = {
    "attngraph/__init__.py": "from attngraph.graph import Graph\n",
    "attngraph/graph.py": "import torch\n",
    "adapters/__init__.py": "",
    "adapters/gcn.py": "from attngraph import Graph, graph\nimport attngraph.graph\n",
    "analysis/__init__.py": "",
    "experiments/__init__.py": "",
    "experiments/cli.py": "import importlib\nimportlib.import_module('experiments.run')\nimport analysis\n",
    "experiments/run.py": "from . import cli\nfrom adapters import gcn\n",
}
TYPED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
WRONG = {
    "at the top": ({"attngraph/bad.py": "import adapters\n"}, "attngraph/bad.py:1 imports adapters"),
    "in a function": (
        {"analysis/bad.py": "def f():\n    from adapters import gcn\n"},
        "analysis/bad.py:2 imports adapters.gcn",
    ),
    "for a type": ({"adapters/bad.py": f"{TYPED}import analysis\n"}, "adapters/bad.py:3 imports analysis"),
    "of tests": ({"experiments/bad.py": "import tests.tiny\n"}, "experiments/bad.py:1 imports tests"),
}
CIRCLES = {  # files, and how many imports the circle has
    "at the top": (
        {"attngraph/graph.py": "import attngraph.b\n", "attngraph/b.py": "import attngraph.graph\n"},
        2,
    ),
    "in a function": (
        {
            "attngraph/graph.py": "from attngraph import b\n",
            "attngraph/b.py": "def f():\n    from attngraph.graph import Graph\n",
        },
        2,
    ),
    "for a type": (
        {"attngraph/graph.py": "from .b import x\n", "attngraph/b.py": f"{TYPED}from .graph import Graph\n"},
        2,
    ),
    "of three": (
        {
            "attngraph/graph.py": "from attngraph import b\n",
            "attngraph/b.py": "from attngraph import c\n",
            "attngraph/c.py": "from attngraph import graph\n",
        },
        3,
    ),
    "through a package": ({"attngraph/graph.py": "from attngraph import Graph\n"}, 2),
    "with itself": ({"attngraph/graph.py": "from attngraph.graph import Graph\n"}, 1),
}


def test_a_clean_tree_passes(tree):
    root = tree(CLEAN)
    imports = all_imports(root, ALLOWED)
    assert len(imports) == 7  # without importlib's, nor torch and importlib themselves
    assert wrong_directions(imports) == circles(imports) == long_files(root, ALLOWED) == []


@pytest.mark.parametrize("files, message", WRONG.values(), ids=WRONG)
def test_a_wrong_direction_is_found(files, message, tree):
    assert wrong_directions(all_imports(tree(CLEAN | files), ALLOWED)) == [message]


def test_an_arrow_up_is_found(tree):
    files = {
        "experiments/base/a.py": "import experiments.data\nimport experiments.base.b\n",
        "experiments/base/b.py": "",
        "experiments/data/__init__.py": "import experiments.base.b\nfrom experiments.models import c\n",
        "experiments/models/c.py": "import experiments.attic\n",
        "experiments/attic.py": "",
    }
    assert arrows_up(all_imports(tree(files), ALLOWED)) == [
        "experiments/base/a.py:1 imports experiments.data",
        "experiments/data/__init__.py:2 imports experiments.models.c",
        "experiments/models/c.py:1 imports experiments.attic",
    ]


@pytest.mark.parametrize("files, length", CIRCLES.values(), ids=CIRCLES)
def test_a_circle_is_found(files, length, tree):
    (message,) = circles(all_imports(tree(CLEAN | files), ALLOWED))
    assert "attngraph/graph.py:1 imports attngraph" in message and message.count(" imports ") == length


def test_a_long_file_is_found(tree):
    root = tree(CLEAN | {"adapters/long.py": "x = 1\n" * 601, "adapters/full.py": "x = 1\n" * 600})
    assert long_files(root, ALLOWED) == ["adapters/long.py has 601 lines"]
