"""The Python face: `run` as subprocess.run, its Result, and the error of `check=True`."""
