"""Statistics and figures of attention graphs; nothing is here yet."""
