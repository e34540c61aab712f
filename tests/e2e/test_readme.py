"""The tour of README.md, typed as it is printed, in an empty folder."""

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sbx

README = Path(__file__).parents[2] / "README.md"
TITLES = ("Five minutes", "Sandboxes that stay")
# `sbx doctor` says 1 where this host lacks something; that is its answer, not a failure.
ANSWERS = {"sbx doctor": {0, 1}}


def tour() -> list[tuple[str, str]]:
    """The blocks of the tour, as (language, text)."""
    whole = README.read_text()
    parts = [whole.partition(f"## {title}\n")[2].partition("\n## ")[0] for title in TITLES]
    return re.findall(r"^```(\w+)\n(.*?)^```$", "\n".join(parts), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """The lines behind a prompt, each with the lines that continue it."""
    return [part.removesuffix("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


def on_a_terminal(command: str, env: dict[str, str], cwd: Path) -> int:
    """Run a command that wants a terminal, and type "exit" at its prompt."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        ["bash", "-c", command], stdin=slave, stdout=slave, stderr=slave, env=env, cwd=cwd,
        start_new_session=True,
    ) as child:  # fmt: skip
        os.close(slave)
        shown, typed = b"", False
        while select.select([master], [], [], 60)[0]:
            try:
                part = os.read(master, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
            if not typed and shown.rstrip().endswith((b"$", b"#")):
                os.write(master, b"exit\n")
                typed = True
        os.close(master)
        assert typed, shown
        return child.wait(60)


@pytest.fixture
def _nothing_stays(sbx: Sbx) -> Iterator[None]:
    """A tour that is broken off leaves no sandbox in the background."""
    yield
    sbx("rm", "-f", "box")


@pytest.mark.slow
@pytest.mark.usefixtures("_nothing_stays")
def test_tour(sbx: Sbx, tmp_path: Path) -> None:
    env = {**sbx.env, "PATH": f"{Path(sbx.path).parent}{os.pathsep}{os.environ['PATH']}"}
    outputs: dict[str, str] = {}
    found = tour()
    assert [language for language, _ in found].count("console") >= 3
    for language, text in found:
        if language == "python":
            done = subprocess.run(
                [sys.executable, "-c", text], env=env, cwd=tmp_path, capture_output=True,
                text=True, timeout=120, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (0, "0 b'7\\n' exited\n3 4\n"), done.stderr
            continue
        for command in commands(text):
            plain = command.partition(" #")[0].strip()
            if " -it " in plain:
                assert on_a_terminal(command, env, tmp_path) == 0, command
                continue
            done = subprocess.run(
                ["bash", "-c", command], stdin=subprocess.DEVNULL, env=env, cwd=tmp_path,
                capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode in ANSWERS.get(plain, {0}), (command, done.stderr)
            assert "sbx: error" not in done.stderr, (command, done.stderr)
            outputs[plain] = done.stdout
    assert (tmp_path / "answer.txt").read_text() == "6\n"

    assert outputs["cat layer/upper/note"] == "kept\n"
