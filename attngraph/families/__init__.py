"""Families whose attention does not go through transformers' ``AttentionInterface``, one file each.

A file holds a subclass of the family's attention class. Its forward takes what the family's takes, projects queries,
keys and values (with the cache, if the family has one), and calls :func:`attngraph.calls.attend` with the family's own
eager formula, so that it returns the very same numbers. While a model is instrumented its modules are of that subclass.
Where attention is not told something that only an outer module knows, a hook on that module notes it.
"""

from attngraph.families import blip, lxmert, vilt

CLASSES = blip.CLASSES | vilt.CLASSES | lxmert.CLASSES  # original class -> subclass
HOOKS = blip.HOOKS | vilt.HOOKS | lxmert.HOOKS  # class of an outer module -> forward pre-hook
