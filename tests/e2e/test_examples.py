"""Each example as a stranger would run it, from the installed package; and the pytest plugin."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.conftest import Sbx

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(
    sbx: Sbx, name: str, *args: object, input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one of them."""
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, args)],
        input=input,
        capture_output=True,
        text=True,
        timeout=100,
        env=sbx.env,
        check=False,
    )


def test_every_example_is_here() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


def test_grade(sbx: Sbx, debian_own: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("print(sum(map(int, input().split())))\n")
    bad.write_text("import os\nprint(os.listdir('/home'))\nwhile True: os.fork()\n")
    done = example(sbx, "grade", debian_own, good)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("3 of 3\n")
    done = example(sbx, "grade", debian_own, bad)
    assert done.returncode == 1
    assert done.stdout.endswith("0 of 3\n")


def test_build_wheel(sbx: Sbx, debian_own: Path, tmp_path: Path) -> None:
    tree = tmp_path / "project-1.0"
    shutil.copytree(EXAMPLES.parent / "tests/support/sdist", tree)
    sdist = tmp_path / "project-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(tree, tree.name)
    done = example(sbx, "build_wheel", debian_own, sdist, tmp_path)
    assert done.returncode == 0, done.stderr
    wheels = list(tmp_path.glob("*.whl"))
    assert done.stdout.split() == [str(wheel) for wheel in wheels]


def test_agent_box(sbx: Sbx, rootfs: Path) -> None:
    requests: list[dict[str, str]] = [
        {"write": "/tmp/script", "text": "echo $((6 * 7)) > made\n"},
        {"run": "sh script; cat made"},
        {"read": "/tmp/made"},
        {"read": "/nonexistent"},
        {"run": "seq 100000"},
    ]
    done = example(sbx, "agent_box", rootfs, input="\n".join(map(json.dumps, requests)))
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line)["answer"] for line in done.stdout.splitlines()]
    assert answers[:3] == ["written", "42\n(exit code 0)", "42\n"]
    assert "no such file" in answers[3]
    assert len(answers[4]) < 5000


def test_ci_job(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    checkout, cache = tmp_path / "checkout", tmp_path / "cache"
    checkout.mkdir()
    (checkout / "file").write_text("source")
    script = "cat file; echo x >> /cache/count; touch file 2>/dev/null || exit 6"
    for _ in range(2):
        done = example(sbx, "ci_job", rootfs, checkout, cache, "sh", "-c", script)
        assert done.returncode == 6, done.stderr
        assert done.stdout == "source"
    assert (cache / "count").read_text() == "x\nx\n"


PLUGIN = """
import pytest

def test_default(sandbox):
    assert sandbox.run(["seq", "1"], capture_output=True).stdout == b"1\\n"

@pytest.mark.sandbox(policy="default", env={{"A": "b"}})
def test_marked(sandbox, sandbox_factory):
    assert sandbox.run(["sh", "-c", "echo $A"], capture_output=True).stdout == b"b\\n"
    other = sandbox_factory(policy="strict")
    assert other.id != sandbox.id

def test_fails(sandbox):
    sandbox.run(["sh", "-c", "exit 3"])
    assert False
"""


def test_pytest_plugin(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nsandbox_rootfs = {rootfs}\n")
    (tmp_path / "test_it.py").write_text(PLUGIN.format())
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=sbx.env, cwd=tmp_path, check=False
    )
    assert "2 passed" in done.stdout, done.stdout
    assert "1 failed" in done.stdout
    assert "$ sh -c exit 3" in done.stdout
    assert "exited: exit code 3" in done.stdout


def test_pytest_plugin_skips_with_the_reason(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nsandbox_rootfs = {rootfs}\n")
    (tmp_path / "test_it.py").write_text(PLUGIN.format())
    (tmp_path / "conftest.py").write_text(
        "import sandbox, pytest\n"
        "from sandbox.host.finding import Finding\n"
        "facts = sandbox.Host.probe().facts\n"
        "class Host(sandbox.Host):\n"
        "    @classmethod\n"
        "    def probe(cls): return cls(facts, False, 'no')\n"
        "    def findings(self): return (Finding('userns', 'fail', 'are off here'),)\n"
        "from sandbox.api import pytest_plugin\n"
        "pytest_plugin.Host = Host\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=sbx.env, cwd=tmp_path, check=False
    )
    assert "3 skipped" in done.stdout, done.stdout
    assert "userns: are off here" in done.stdout
