"""Experiments on attention as graphs: data sets, tasks, models, methods, training, tables and figures.

:mod:`attngraph.experiments.cli` is the command ``attngraph``; each command is a module in
:mod:`attngraph.experiments.commands`. Results are written by :mod:`attngraph.experiments.base.files` alone.
"""
