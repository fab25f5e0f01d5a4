"""Starts the playground on what is in `adapters/` and `build/`: `python app.py [BUNDLE…] [--port N]`.

It is `factory serve`, and takes what that takes: bundles named are served alone.
"""

import sys

from factory.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["serve", *sys.argv[1:]]
    main()
