"""Experiments on attention as graphs: data sets, tasks, models, methods, training, tables and figures.

:mod:`experiments.cli` is the command ``attngraph``; each command is a module in :mod:`experiments.commands`.
Results are written by :mod:`experiments.base.files` alone.
"""
