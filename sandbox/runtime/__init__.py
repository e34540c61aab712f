"""One run from start to end: session, supervision, terminal, output, state, report."""
