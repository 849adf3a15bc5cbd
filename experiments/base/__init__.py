"""What every room stands on: options and YAML read into typed values, files written whole or not at all,
errors of one line, progress bars, signals.
"""
