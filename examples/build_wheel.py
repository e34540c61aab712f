"""Build an untrusted source distribution into a wheel, without letting its build reach anything.

    python examples/build_wheel.py ROOTFS SDIST OUT

The build runs whatever the package's authors wrote. It sees the sdist, read-only, and an empty
folder for what it makes; it has no network, so what it needs lies in ROOTFS.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import sandbox

BUILD = ["pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-q", "-w", "/out"]


def build(rootfs: str, sdist: Path, out: Path) -> Path:
    """Build and return the wheel, copied to `out`. Raises CommandFailed with the build's words."""
    with tempfile.TemporaryDirectory() as made:
        policy = (
            sandbox.Policy.ci()
            .with_mount(sdist, f"/src/{sdist.name}")
            .with_mount(made, "/out", read_only=False)
            .with_timeout(300)
        )
        sandbox.run(
            ["python3", "-m", *BUILD, f"/src/{sdist.name}"],
            rootfs=rootfs,
            policy=policy,
            env={"HOME": "/tmp"},
            check=True,
        )
        # Only a plain file with a wheel's name: a link could lead anywhere.
        wheels = [
            path for path in Path(made).iterdir() if path.suffix == ".whl" and not path.is_symlink()
        ]
        if len(wheels) != 1 or not wheels[0].is_file():
            raise SystemExit(f"the build left {len(wheels)} wheels")
        return Path(shutil.copyfile(wheels[0], out / wheels[0].name, follow_symlinks=False))


if __name__ == "__main__":
    print(build(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
