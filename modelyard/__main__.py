"""``python -m modelyard``: the program ``modelyard`` of an installed package."""

import sys

from modelyard.upload.command import main

if __name__ == "__main__":
    sys.exit(main())
