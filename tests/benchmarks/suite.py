"""The benchmark gate as one file to run: python tests/benchmarks/suite.py --gate. The same as `avatar bench`."""

import sys

from avatar.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
