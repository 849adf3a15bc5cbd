"""Adapters that run a message-passing scheme on an attention graph.

A scheme is one file. :data:`SCHEMES` maps names to classes; a scheme registers itself beside its definition.
:mod:`adapters.conv` makes a PyG layer of any.
Importing this package also makes graph adapters known to PEFT (:mod:`adapters.peft`).
"""

from adapters.scheme import SCHEMES, Scheme, register  # isort: skip
from adapters.appnp import APPNP
from adapters.gcn import GCN
from adapters.gcnii import GCNII
from adapters.peft import GraphAdapterConfig  # after the schemes
from adapters.pgnn import PGNN
from adapters.residual import Residual
from adapters.rotated_queries import RotatedQueries
from adapters.scalar import Scalar
from adapters.tempering import Tempering

__all__ = [
    "APPNP",
    "GCN",
    "GCNII",
    "PGNN",
    "SCHEMES",
    "GraphAdapterConfig",
    "Residual",
    "RotatedQueries",
    "Scalar",
    "Scheme",
    "Tempering",
    "register",
]
