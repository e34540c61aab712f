"""`python -m sandbox`: the same as `sbx`."""

import sys

from sandbox.cli.main import main

sys.exit(main())
