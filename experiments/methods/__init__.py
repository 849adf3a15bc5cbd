"""How a pre-trained model is adapted to a task. A method
(:class:`attngraph.experiments.methods.method.Method`) is a row of the tables;
:mod:`attngraph.experiments.methods.rows` has them all."""

from attngraph.experiments.methods.method import METHODS, Method, Tuned, register
from attngraph.experiments.methods.peft import GraphAdapter, PeftMethod
from attngraph.experiments.methods.rows import method_named

__all__ = ["METHODS", "GraphAdapter", "Method", "PeftMethod", "Tuned", "method_named", "register"]
