"""The launcher as keeper of a detached sandbox: every life of it is connected as the first."""

from __future__ import annotations

from pathlib import Path

from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.history import read_history
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.logs import STDERR, STDOUT, LogReader
from sandbox.runtime.session import RunOptions, start_session
from sandbox.runtime.task import Keeping, Task


def test_a_sandbox_that_starts_again_has_its_streams_again(rootfs: Path) -> None:
    script = "echo out; echo err >&2; read line; echo read $?; exit 3"
    options = RunOptions(keep=Keeping(detached=True, restarts=2))
    policy = build_policy(load_policy("default"))
    folder = start_session(policy, Task(str(rootfs), ("sh", "-c", script)), options)
    try:
        with Keeper(folder) as kept:
            assert kept.wait(30)
        life = read_history(folder)
        assert (life.state, life.starts, life.exit_code) == ("exited", 3, 3)
        reader = LogReader(folder)
        outputs = list(reader.read())
        reader.close()
        streams = {
            stream: b"".join(output.data for output in outputs if output.stream == stream)
            for stream in (STDOUT, STDERR)
        }
        assert streams == {STDOUT: b"out\nread 1\n" * 3, STDERR: b"err\n" * 3}
    finally:
        folder.remove()
        folder.close()
