"""The launcher and the init as seen from outside and from the payload: nothing to take hold of."""

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from sandbox.launcher import events
from sandbox.launcher.spawn import Program, launch
from sandbox.linux.paths import native
from tests.conftest import Sbx
from tests.support.user import children

CLOSED = ("environ", "mem", "maps", "auxv", "stack")
LINKS = ("exe", "root", "cwd", "fd/0")


def sums() -> dict[str, str]:
    """What a payload that overwrites programs would change."""
    paths = [native("sbx-launcher"), native("sbx-idmap"), os.path.realpath(sys.executable)]
    paths += [path for name in ("newuidmap", "newgidmap") if (path := shutil.which(name))]
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}


def wait_for_text(path: Path, text: str) -> None:
    """Wait until a file that is being written is complete."""
    end = time.monotonic() + 30
    while path.read_text() == "" and time.monotonic() < end:
        time.sleep(0.02)
    assert path.read_text() == text


@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_nobody_looks_into_the_launcher(sbx: Sbx, attack_rootfs: Path, init: str) -> None:
    """Not dumpable: its /proc files are the host root's. Its name and words tell nothing."""
    running = sbx.start("run", init, attack_rootfs, "/attack", "tree")
    try:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        launcher = children(running.pid)[0]
        parts = [launcher, children(launcher)[0]] if init == "--init" else [launcher]
        for pid in parts:
            assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"init\0"
            for name in CLOSED:
                with pytest.raises(PermissionError):
                    Path(f"/proc/{pid}/{name}").read_bytes()
            for name in LINKS:
                with pytest.raises(PermissionError):
                    os.readlink(f"/proc/{pid}/{name}")
            assert os.getsid(pid) == launcher
        assert os.getsid(running.pid) != launcher
    finally:
        running.kill()
        running.communicate(timeout=30)


def test_the_launcher_runs_from_a_sealed_image_only() -> None:
    """Started from its file, which its user could write to, it refuses."""
    launched = launch(b"no plan", program=Program(native("sbx-launcher"), ("init",)))
    try:
        event = events.decode(launched.channel.recv(events.RECORD_BYTES))
        assert event is not None
        assert (event.kind, event.stage) == (events.ERROR, events.STAGE_DECODE)
        assert "does not run from a sealed memfd" in event.text
        os.waitid(os.P_PIDFD, launched.pidfd, os.WEXITED)
    finally:
        launched.close()


@pytest.mark.parametrize("policy", ["strict", "default", "permissive"])
@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_programs_are_not_overwritten(
    sbx: Sbx, attack_rootfs: Path, policy: str, init: str
) -> None:
    """Through /proc/PID/exe, opened for reading first and for writing when it is free again."""
    before = sums()
    program = (attack_rootfs / "attack").read_bytes()
    done = sbx("run", "--policy", policy, init, attack_rootfs, "/attack", "exes", "300")
    assert done.returncode == 0, done
    assert done.stdout == "opened 0 of others, wrote to 0\n"
    assert sums() == before
    assert (attack_rootfs / "attack").read_bytes() == program


@pytest.mark.parametrize("policy", ["strict", "default"])
def test_a_joining_launcher_cannot_be_taken_hold_of(
    sbx: Sbx, attack_rootfs: Path, tmp_path: Path, policy: str
) -> None:
    """The payload grasps at every process that appears while commands enter its sandbox."""
    before = sums()
    out = tmp_path / "out"
    out.mkdir()
    words = ("--policy", policy, "-v", f"{out}:/out", "--name", f"hold-{policy}")
    begun = sbx("run", "-d", *words, attack_rootfs, "/attack", "exes", "4000")
    assert begun.returncode == 0, begun.stderr
    entered = 0
    while not (out / "result").exists() or not (out / "result").read_text():
        done = sbx("exec", f"hold-{policy}", "/attack", "daemon", "3")
        if done.returncode != 3:  # it has ended meanwhile
            break
        entered += 1
    assert entered > 3
    wait_for_text(out / "result", "opened 0 of others, wrote to 0\n")
    assert sums() == before
