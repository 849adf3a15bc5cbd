"""How a pre-trained model is adapted to a task. A method is one file behind
:class:`experiments.methods.method.Method`; it registers itself, and is a row of the table."""

from experiments.methods.method import METHODS, Method, Tuned, register  # isort: skip
from experiments.methods import gcn, appnp, gcnii, pgnn  # isort: skip # noqa: F401 (in the table's order)
from experiments.methods import tempering, rotated_queries, p2, residual, mean_degree, rescaled  # isort: skip # noqa: F401
from experiments.methods import joined, rate, fixed_p  # isort: skip # noqa: F401
from experiments.methods import prefix, lora  # isort: skip # noqa: F401
from experiments.methods import position, width, concat, exponent  # isort: skip # noqa: F401
from experiments.methods import frozen, decoder, full, text, majority  # isort: skip # noqa: F401
from experiments.methods.graph_adapter import GraphAdapter, method_named
from experiments.methods.peft_method import PeftMethod

__all__ = ["METHODS", "GraphAdapter", "Method", "PeftMethod", "Tuned", "method_named", "register"]
