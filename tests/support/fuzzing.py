"""How long the property tests look for a counter-example: bounded here, longer by `make fuzz`."""

import os

FACTOR = int(os.environ.get("SBX_FUZZ_FACTOR", "1"))


def examples(usual: int) -> int:
    """How many examples a test tries that tries `usual` ones in the suite."""
    return usual * FACTOR
