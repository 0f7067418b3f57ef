"""`python -m tallymarks_local`: what `make run` does."""

import sys

from tallymarks_local.run import main

if __name__ == "__main__":
    sys.exit(main())
