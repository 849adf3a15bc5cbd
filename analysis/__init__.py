"""Statistics and figures of attention graphs."""
