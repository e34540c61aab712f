"""The payload of all starts: a static program that ends with a code of its own, and its root."""

import shutil
import subprocess
from pathlib import Path

CODE = 42
SOURCE = f"int main(void) {{ return {CODE}; }}\n"


def compilers() -> list[list[str]]:
    """C compilers that may link statically, the smallest result first."""
    return [[name] for name in ("musl-gcc", "gcc", "clang", "cc") if shutil.which(name)]


def make_root(folder: Path) -> Path:
    """Make a root file system with /bin/payload alone, and the folders that peers mount on."""
    root = folder / "root"
    for name in ("bin", "proc", "dev", "sys", "tmp", "run", "etc", "var", "usr"):
        (root / name).mkdir(parents=True)
    source = folder / "payload.c"
    source.write_text(SOURCE)
    for compiler in compilers():
        command = [*compiler, "-O2", "-static", "-s", "-o", str(root / "bin/payload"), str(source)]
        if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0:
            return root
    raise SystemExit("bench: error: no C compiler that links statically")
