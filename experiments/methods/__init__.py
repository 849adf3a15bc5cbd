"""How a pre-trained model is adapted to a task. A method (:class:`experiments.methods.method.Method`) is a
row of the tables; :mod:`experiments.methods.rows` has them all."""

from experiments.methods.method import METHODS, Method, Tuned, register
from experiments.methods.peft import GraphAdapter, PeftMethod
from experiments.methods.rows import method_named

__all__ = ["METHODS", "GraphAdapter", "Method", "PeftMethod", "Tuned", "method_named", "register"]
