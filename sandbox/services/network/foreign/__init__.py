"""Networks that programs of others carry, without rules: pasta and slirp4netns."""

DONE = b"done"
"""Said by the process that watches, when the sandbox ended first."""
