"""`python -m eigen.node`: the `eigen` command."""

import sys

from eigen.node.cli import main

if __name__ == "__main__":
    sys.exit(main())
