"""Drawn scenes in the official layouts of six benchmarks, one module each; their names are the data sets'.

:func:`~experiments.scenes.layouts.make.make_scenes` writes them all.
"""
