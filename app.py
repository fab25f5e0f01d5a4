"""Starts the playground on what is in `adapters/` and `build/`: `python app.py [--bundle DIR] [--port N]`."""

import sys

from factory.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["serve", *sys.argv[1:]]
    main()
