"""`python -m bpcore`: the command line, see bpcore_cli."""

import sys

from bpcore_cli import main

if __name__ == "__main__":
    sys.exit(main())
