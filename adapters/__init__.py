"""Adapters that run a message-passing scheme on an attention graph.

A scheme is one file. :data:`SCHEMES` maps names to classes; a scheme registers itself next to its definition.
:mod:`attngraph.adapters.conv` makes a PyG layer of any.
Importing this package also makes graph adapters known to PEFT (:mod:`attngraph.adapters.peft`).
"""

if __name__ == "adapters":  # by its bare name, from a checkout
    from attngraph._siblings import use_full_name

    use_full_name(__name__)


from attngraph.adapters.scheme import SCHEMES, Scheme, register  # isort: skip
from attngraph.adapters.appnp import APPNP
from attngraph.adapters.gcn import GCN
from attngraph.adapters.gcnii import GCNII
from attngraph.adapters.peft import GraphAdapterConfig  # after the schemes
from attngraph.adapters.pgnn import PGNN
from attngraph.adapters.residual import Residual
from attngraph.adapters.rotated_queries import RotatedQueries
from attngraph.adapters.scalar import Scalar
from attngraph.adapters.tempering import Tempering

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
