"""`python -m evomerge.cli`, for where the entry point is not installed."""

import sys

from evomerge.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
