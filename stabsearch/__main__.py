"""``python -m stabsearch`` is the command ``stabsearch``."""

import sys

from stabsearch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
