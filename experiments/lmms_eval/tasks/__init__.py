"""Tasks in lmms-eval's format."""
