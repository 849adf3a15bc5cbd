"""The plugin of the study of distances, which registers methods, tasks and a scheme."""

import importlib
import sys

import pytest

from attngraph.adapters import SCHEMES
from attngraph.experiments.methods import METHODS
from attngraph.experiments.tasks import TASKS

NAME = "attngraph.experiments.studies.distances"


@pytest.fixture(scope="module")
def study():
    """The plugin; afterwards what it registered is forgotten."""
    registries = (SCHEMES, METHODS, TASKS)
    before = [dict(registry) for registry in registries]
    yield importlib.import_module(NAME)
    for registry, held in zip(registries, before):
        registry.clear()
        registry.update(held)
    for name in [name for name in sys.modules if name.startswith(NAME)]:
        del sys.modules[name]
