"""A control in which theory says who wins: attention graphs with planted relevant values.

:mod:`~experiments.studies.planted.graphs` draws them, :mod:`~experiments.studies.planted.theory` says what
should come out, :mod:`~experiments.studies.planted.study` trains every scheme on them, and the rest reports.
"""
