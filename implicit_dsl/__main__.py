"""`python -m implicit_dsl`, the same as `implicitc`."""

from __future__ import annotations

import sys

from implicit_dsl.cli import main

if __name__ == "__main__":
    sys.exit(main())
