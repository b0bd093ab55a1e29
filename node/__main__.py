"""`python -m eigen.node`: the `eigen` command."""

from eigen.node.cli import main

if __name__ == "__main__":
    main()
