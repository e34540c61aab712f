"""Runs one command whenever a line comes in, and answers with its exit code.

For peers that need namespaces around them which are no part of what is timed.
Arguments: the command.
"""

import os
import sys

from bench.clock import spawn


def main() -> None:
    """Serve until the input ends."""
    run = spawn(sys.argv[1:], dict(os.environ))
    for _ in sys.stdin:
        print(run(), flush=True)


if __name__ == "__main__":
    main()
