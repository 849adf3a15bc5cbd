"""Methods to adapt a pre-trained model to a task. A method
(:class:`attngraph.experiments.methods.method.Method`) is a row of the tables;
:mod:`attngraph.experiments.methods.rows` defines all of them."""

from attngraph.experiments.methods.method import METHODS, Method, Tuned, register
from attngraph.experiments.methods.peft import GraphAdapter, PeftMethod
from attngraph.experiments.methods.rows import method_named

__all__ = ["METHODS", "GraphAdapter", "Method", "PeftMethod", "Tuned", "method_named", "register"]
