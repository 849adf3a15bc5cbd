"""A control in which theory says who wins: attention graphs with planted relevant values.

:mod:`~experiments.planted.graphs` draws them, :mod:`~experiments.planted.theory` says what should come out,
:mod:`~experiments.planted.study` trains every scheme on them, and the rest reports.
"""
