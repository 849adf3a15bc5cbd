"""One module for each command of ``attngraph``: its options, checks of them, the call, and what is printed.

:mod:`experiments.cli` finds them by name.
"""
