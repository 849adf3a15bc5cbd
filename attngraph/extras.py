"""Packages that an extra of attngraph brings, as ``pip install 'attngraph[experiments]'`` does.

``pip install attngraph`` is enough to read graphs, show them, train adapters, and compute statistics of
tensors. Modules outside :mod:`attngraph.experiments` import any other package on first use::

    from attngraph.extras import optional, pandas as pd

    PCA = optional("sklearn.decomposition").PCA
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attngraph.errors import UserError

EXPERIMENTS = (
    "accelerate easy_vqa filelock jinja2 pandas pyarrow pydantic scipy sklearn statsmodels tensorboard "
    "torchvision yaml".split()
)
#: Name of an import → the extra that brings it, as ``setup.py`` has them.
EXTRA_OF = {
    **dict.fromkeys(EXPERIMENTS, "experiments"),
    "openTSNE": "tsne",
    "umap": "umap",
    "pycocoevalcap": "captions",
    "datasets": "hub",
    "spacy": "tagger",
    "wandb": "tracking",
    "mlflow": "tracking",
    "submitit": "slurm",
    "ray": "ray",
}


def missing(package: str) -> str:
    """The error message for a missing package, with the command that installs it."""
    extra = EXTRA_OF.get(package)
    if extra is None:
        return f"the package {package} is missing; `attngraph doctor` says how to install it"
    return f"the package {package} is missing: pip install 'attngraph[{extra}]'"


def require(*packages: str) -> None:
    """Raises :class:`~attngraph.UserError` if one of these packages is not installed; imports none."""
    for package in packages:
        if sys.modules.get(package) is None and find_spec(package) is None:
            raise UserError(missing(package))


def optional(name: str) -> Any:
    """A module of one of these packages, imported when something of it is first used.

    If its package is missing, that raises :class:`~attngraph.UserError`.
    """
    return _Optional(name)


class _Optional(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__file__":  # asked of every object, by inspect and others
            raise AttributeError(name)
        try:
            module = import_module(self.__name__)
        except ModuleNotFoundError as error:
            package = self.__name__.partition(".")[0]
            if error.name != package:
                raise
            raise UserError(missing(package)) from None
        return getattr(module, name)


if TYPE_CHECKING:
    import pandas
else:
    pandas = optional("pandas")
