"""Experiments on attention as graphs: datasets, tasks, models, methods, training, tables and figures.

:mod:`attngraph.experiments.cli` is the command ``attngraph``; each command is a module in
:mod:`attngraph.experiments.commands`. All results are written by :mod:`attngraph.experiments.base.files`.
"""

if __name__ == "experiments":  # by its bare name, from a checkout
    from attngraph._siblings import use_full_name

    use_full_name(__name__)
