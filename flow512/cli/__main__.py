"""C{python -m flow512.cli} is C{flow512}."""

import sys

from flow512.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
