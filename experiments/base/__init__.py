"""Foundations of all other subpackages: options and YAML read into typed values, atomic writing of files,
one-line errors, progress bars, signals.
"""
