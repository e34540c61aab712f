"""Standard output and the current folder may be out of order: one clear error, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sandbox

ROOT = Path(sandbox.__file__).parents[1]
LINES = (
    "version", "--version", "--help", "help run", "run --help", "policy", "policy show --help",
    "policy list --json", "policy show strict", "policy check strict", "completion bash",
)  # fmt: skip


def sbx(line: str, redirect: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command line of words, with a redirection of the shell."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -m sandbox {line} {redirect}', sys.executable],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, check=False, timeout=60,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("redirect", "cause"),
    [(">/dev/full", "no space left on device"), (">&-", "it is closed"),
     ("1</dev/null", "it is closed|bad file descriptor")],
)  # fmt: skip
@pytest.mark.parametrize("line", LINES)
def test_output_that_takes_nothing(line: str, redirect: str, cause: str) -> None:
    done = sbx(line, redirect)
    assert done.returncode == 1, done.stderr
    if "--json" in line:
        assert '"what": "cannot write to standard output"' in done.stderr
    else:
        first, second = done.stderr.splitlines()
        assert first == "sbx: error: cannot write to standard output"
        assert second.removeprefix("  cause: ") in cause.split("|")


@pytest.mark.parametrize("line", LINES)
def test_reader_that_goes_away(line: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = sbx(line, stdout=write_end)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-", ">/dev/full 2>/dev/full"])
def test_errors_that_nobody_can_be_told(redirect: str) -> None:
    assert sbx("policy show nowhere", redirect).returncode == 125
    assert sbx("nowhere", redirect).returncode == 2


def test_current_folder_that_is_gone(tmp_path: Path) -> None:
    gone = f"cd {tmp_path} && mkdir gone && cd gone && rmdir ../gone &&"

    def there(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f'{gone} exec "$0" -m sandbox {line}', sys.executable],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip

    for line in ("version", "policy show strict", "policy list", "run --help"):
        assert there(line).returncode == 0
    for line in (
        "policy show ./own.toml", "policy check ../x/own.toml", "rootfs from-host out sh",
        "rootfs from-host /nowhere/out ./program", "run --policy ./own.toml / true",
        "run root true", "run -v .:/x / true", "run --env-file vars / true",
        "run --security-opt seccomp=p.json / true", "explain --persist here / true",
    ):  # fmt: skip
        done = there(line)
        assert done.returncode in {2, 125}, line
        assert done.stderr.startswith("sbx: error: "), done.stderr
        assert "internal error" not in done.stderr, done.stderr


def test_current_folder_that_cannot_be_read(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    line = 'cd "$1" && chmod 000 . && exec "$0" -m sandbox policy show strict'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, closed],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    closed.chmod(0o700)
    assert (done.returncode, done.stderr) == (0, "")
