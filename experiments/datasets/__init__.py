"""Readers of data sets in their official files, one module each; all give a list of
:class:`~experiments.datasets.example.Example`.

A reader checks what it reads (:mod:`~experiments.datasets.reading`): what is missing or damaged is a
:class:`~attngraph.errors.UserError` that names the file, the field and what to do.
"""
