"""``python -m attngraph``: the command ``attngraph``."""

import sys

from attngraph.experiments.cli import main

if __name__ == "__main__":
    sys.exit(main())
