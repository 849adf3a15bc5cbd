"""Packages and rooms know each other in one direction, modules without circles, and files stay short."""

from pathlib import Path

import pytest

from tests.import_graph import PACKAGES, all_imports, arrows_up, circles, long_files

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def imports():
    return all_imports(ROOT, PACKAGES)


def test_every_package_is_read(imports):
    assert len({each.source for each in imports}) > 100
    assert any(each.source == "attngraph" and each.target == "attngraph.reading.reader" for each in imports)


@pytest.mark.parametrize("wrong", [arrows_up, circles, lambda imports: long_files(ROOT, PACKAGES)])
def test_what_is_not_to_be(imports, wrong):
    found = wrong(imports)
    assert not found, "\n".join(found)


# ---- the checks themselves, on a made-up tree -----------------------------------------------------------

CLEAN = {
    "attngraph/__init__.py": "from attngraph.graph import Graph\n",
    "attngraph/graph.py": "import torch\n",
    "adapters/__init__.py": "",
    "attngraph/__main__.py": "from attngraph.experiments import cli\n",
    "adapters/gcn.py": "from attngraph import Graph, graph\nimport attngraph.graph\n",
    "analysis/__init__.py": "",
    "experiments/__init__.py": "",
    "experiments/cli.py": "import importlib\nimportlib.import_module('x.runs')\nimport attngraph.analysis\n",
    "experiments/runs/__init__.py": "from attngraph.adapters import gcn\nfrom . import cells\n",
    "experiments/runs/cells.py": "",
}
TYPED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
UP = {
    "at the top": ("attngraph/bad.py", "import attngraph.adapters\n", "1 imports attngraph.adapters"),
    "in a function": (
        "analysis/bad.py",
        "def f():\n    from attngraph.adapters import gcn\n",
        "2 imports attngraph.adapters.gcn",
    ),
    "for a type": ("adapters/bad.py", f"{TYPED}import attngraph.analysis\n", "3 imports attngraph.analysis"),
    "of tests": ("experiments/cli.py", "import tests.tiny\n", "1 imports tests"),
    "of a room": (
        "experiments/base/a.py",
        "import attngraph.experiments.runs\n",
        "1 imports attngraph.experiments.runs",
    ),
    "by a bare name": ("experiments/runs/bad.py", "import adapters.gcn\n", "1 imports adapters"),
}
CIRCLES = {  # files, and how many imports the circle has
    "in a function": (
        {
            "attngraph/graph.py": "from .b import x\n",
            "attngraph/b.py": "def f():\n    from attngraph.graph import Graph\n",
        },
        2,
    ),
    "of three": (
        {
            "attngraph/graph.py": "from attngraph import b\n",
            "attngraph/b.py": f"{TYPED}from attngraph import c\n",
            "attngraph/c.py": "from attngraph import graph\n",
        },
        3,
    ),
    "through a package": ({"attngraph/graph.py": "from attngraph import Graph\n"}, 2),
    "with itself": ({"attngraph/graph.py": "from attngraph.graph import Graph\n"}, 1),
}


@pytest.fixture
def tree(tmp_path):
    """``tree({"package/file.py": text})`` writes files and gives the folder."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def test_a_clean_tree_passes(tree):
    root = tree(CLEAN)
    imports = all_imports(root, PACKAGES)
    assert len(imports) == 8  # without importlib's, nor torch and importlib themselves
    assert arrows_up(imports) == circles(imports) == long_files(root, PACKAGES) == []


@pytest.mark.parametrize("file, text, message", UP.values(), ids=UP)
def test_an_arrow_up_is_found(file, text, message, tree):
    assert arrows_up(all_imports(tree(CLEAN | {file: text}), PACKAGES)) == [f"{file}:{message}"]


@pytest.mark.parametrize("files, length", CIRCLES.values(), ids=CIRCLES)
def test_a_circle_is_found(files, length, tree):
    (message,) = circles(all_imports(tree(CLEAN | files), PACKAGES))
    assert "attngraph/graph.py:1 imports attngraph" in message and message.count(" imports ") == length


def test_a_long_file_is_found(tree):
    root = tree(CLEAN | {"adapters/long.py": "x = 1\n" * 601, "adapters/full.py": "x = 1\n" * 600})
    assert long_files(root, PACKAGES) == ["adapters/long.py"]
