"""Studies on the side: each a script with a ``main``, and a command that calls it."""
