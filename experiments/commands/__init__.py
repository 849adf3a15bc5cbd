"""One module for each command of ``attngraph``: checks of its options, the call, and the printed output.

:mod:`attngraph.experiments.cli` finds them by name.
"""
