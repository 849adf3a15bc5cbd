"""Attention layers that no adapter can follow, if that is known before they run."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from typing import Any

from torch import nn

from attngraph.reading.instrument import Site

ARITHMETIC = {"*": "a gate", "+": "a calculation"}  # a product, any other operator


def why_unusable(site: Site) -> str | None:
    """Reason why no adapter can follow an attention layer; None if no reason is known.

    Reasons that do not show here, such as an output projection in another module, raise an error when the
    layer runs.
    """
    if site.output is None:
        return "no output projection that an adapter can follow was found"
    module: Any = site.module
    value = getattr(module, "v_head_dim", None)
    query = getattr(module, "qk_head_dim", getattr(module, "head_dim", value))
    if value is not None and value != query:
        return (
            f"queries have {query} features per head and values {value}, and a graph needs both in one space"
        )
    before = next((name for name, part in module.named_children() if part is site.output), "")
    kind: Any = type(module)
    for step in _steps(kind, before):
        part = getattr(module, step, None)
        changes = isinstance(part, nn.Module) and not isinstance(part, (nn.Dropout, nn.Identity))
        if changes or step in ARITHMETIC:
            return (
                f"the attention output is changed before {before} ({ARITHMETIC.get(step, step)}), so that a "
                "graph's messages cannot take its place"
            )
    return None


@cache
def _steps(kind: Any, output: str) -> list[str]:
    """Operations that a class always applies to the attention output before its output projection: names of
    its modules and methods, and the signs of :data:`ARITHMETIC`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(kind.forward))))
    except (OSError, TypeError, SyntaxError):
        return []
    function: Any = tree.body[0]
    names: set[str] = set()  # of variables that hold the attention output
    steps: list[str] = []
    for statement in function.body:  # what stands below an `if` may never run
        calls = [x for x in ast.walk(statement) if isinstance(x, ast.Call)]
        if names and any(_own(call) == output for call in calls):
            return steps
        if not isinstance(statement, ast.Assign):
            continue
        target = statement.targets[0]
        first = target.elts[0] if isinstance(target, ast.Tuple) else target
        if isinstance(statement.value, ast.Call) and _name(statement.value.func) == "attention_interface":
            names = {_name(first)} - {""}
        elif names & {_name(x) for x in ast.walk(statement.value)}:
            names |= {_name(first)} - {""}
            steps += [_own(call) for call in calls if names & {_name(x) for x in call.args} and _own(call)]
            sums = [x for x in ast.walk(statement.value) if isinstance(x, ast.BinOp)]
            sums = [x for x in sums if names & {_root(x.left), _root(x.right)}]
            steps += ["*" if isinstance(x.op, ast.Mult) else "+" for x in sums]
    return []  # the projection is elsewhere


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _own(call: ast.Call) -> str:
    """``x`` of ``self.x(...)``."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) and _name(function.value) == "self" else ""


def _root(node: ast.AST) -> str:
    """The variable that a product or a sum takes, also as ``variable.float()``; not what its shape says."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    return _name(node)
