"""`python -m laterna`: the command line, as `torchrun -m laterna train RECIPE` starts it."""

from __future__ import annotations

import sys

from laterna.cli import main

if __name__ == "__main__":
    sys.exit(main())
