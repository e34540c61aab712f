"""The probe program: built once per session, put into small root file systems, its lines read."""

import os
import re
import shutil
import subprocess
from pathlib import Path

PROBE = Path(__file__).with_name("probe.c")
ATTACKS = Path(__file__).with_name("attack.c")
COMPILERS = ("musl-gcc", "gcc", "clang")
FOLDERS = ("proc", "sys", "dev", "tmp", "run", "etc", "usr/bin", "var/tmp", "srv", "root", "home")


def build(out: Path, source: Path = PROBE) -> str:
    """Compile a static program to `out`; return "" or why that is not possible here."""
    problem = "no C compiler that links statically"
    for compiler in COMPILERS:
        if not shutil.which(compiler):
            continue
        words = [compiler, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-static"]
        done = subprocess.run(
            [*words, str(source), "-o", str(out)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return ""
        problem = f"{compiler}: {done.stderr.strip()[-2000:]}"
    return problem


def make_rootfs(path: Path, program: Path) -> Path:
    """A root file system with the probe and nothing else to run."""
    for name in FOLDERS:
        (path / name).mkdir(parents=True, exist_ok=True)
    (path / "etc/passwd").write_text(f"probe:x:{os.getuid()}:{os.getgid()}::/home:/bin/sh\n")
    (path / "etc/group").write_text(f"probe:x:{os.getgid()}:\n")
    (path / "etc/hosts").write_text("")
    for name in ("tmp", "run"):
        (path / name / "of-the-rootfs").write_text("")
    shutil.copy2(program, path / "probe")
    return path


def parse(output: str) -> dict[str, str]:
    """Each check's name and its leak, "" for none. The probe must have reached its end."""
    lines = output.splitlines()
    assert lines, "the probe said nothing"
    assert lines[-1] == "end", f"the probe died after {lines[-1]!r}"
    found = {}
    for line in lines[:-1]:
        name, _, result = line.partition(": ")
        assert result == "ok" or result.startswith("LEAK "), line
        found[name] = result.removeprefix("LEAK ") if result != "ok" else ""
    return found


def leaks(found: dict[str, str]) -> dict[str, str]:
    """Only what leaks."""
    return {name: what for name, what in found.items() if what}


def check_names() -> set[str]:
    """The names of all checks, read from the probe's tables."""
    text = PROBE.read_text()
    found = set()
    for table in ("checks", "calls", "sockets", "limits"):
        body = re.search(rf"\b{table}\[\] = {{\n(.*?)^}};", text, re.DOTALL | re.MULTILINE)
        assert body, table
        found |= set(re.findall(r'{ "(\w+)"', body[1]))
    return found
