"""A plain run imports nothing that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import sandbox

ROOT = Path(sandbox.__file__).parents[1]
# Each costs about as much at start-up as starting the sandbox itself.
FORBIDDEN = {
    *("typing", "enum", "dataclasses", "re", "json", "pathlib", "subprocess", "socket", "click"),
    *("selectors", "tomllib", "msgspec", "tempfile", "shutil", "logging", "inspect", "datetime"),
    *("contextlib", "argparse", "ctypes", "hashlib", "threading", "traceback", "difflib"),
    *("importlib.metadata", "elftools"),
}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import sandbox
from sandbox.cli.main import main
import sandbox.runtime.session as session
class Report:
    exit_code, reason, output_dropped_bytes, output_error = 7, "exited", 0, ""
session.run_session = lambda policy, task, options: Report
code = main(["run", "--policy", "strict", "-v", "/tmp:/x", "-e", "A=1", "--timeout=5s",
             "--ulimit=nofile=10", "--tmpfs=/t:size=1m", "/", "true"])
print(code, *sorted(sys.modules))
"""


def modules_of_a_run(tmp_path: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, str(ROOT)],
        env={"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    code, *modules = done.stdout.split()
    assert code == "7"
    return modules


def test_modules_of_a_plain_run(tmp_path: Path) -> None:
    modules_of_a_run(tmp_path)  # the first one reads TOML and keeps what it found
    modules = modules_of_a_run(tmp_path)
    assert sorted(FORBIDDEN.intersection(modules)) == []
    assert "sandbox.cli.front" not in modules
    assert len(modules) < 150
