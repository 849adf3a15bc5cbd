"""Presets of the table and the settings chosen on validation data: YAML files, and the types that they are
checked against.
"""
