"""What the launchers' tests share: drawn data, and what the local launcher makes of the small cells."""

import pytest

from experiments.training.runner import run_cells
from tests.experiments.launchers.cells import execution, made, small_cells, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("drawn") / "data")


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    """What the local launcher makes of the cells."""
    out, cells = tmp_path_factory.mktemp("local") / "out", small_cells(data)
    run_cells(cells, execution(out, "local"))
    return made(cells, out)
