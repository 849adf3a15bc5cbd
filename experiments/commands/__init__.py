"""One module for each command of ``attngraph``: its options, checks of them, the call, and what is printed.

:mod:`attngraph.experiments.cli` finds them by name.
"""
