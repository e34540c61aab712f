"""The launcher itself: what it refuses to start from, and what its init and its clock do."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.launcher import events, spawn
from sandbox.launcher.events import Event
from sandbox.launcher.spawn import Launched, Program, launch
from sandbox.linux.paths import native
from sandbox.plan import ops
from sandbox.plan.wire import encode
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.decision import prepare
from sandbox.runtime.task import Task
from tests.conftest import Sbx
from tests.support.measures import MEASURES
from tests.support.switch import VARIABLE, make_command


def plan_of(rootfs: Path) -> list[ops.Op]:
    """The operations of a plain run of the probe."""
    task = Task(str(rootfs), ("/probe", "--ids"))
    return [step.op for step in prepare(build_policy(load_policy("default")), task).plan.steps]


def said_by(launched: Launched) -> list[Event]:
    """Every event until the end."""
    found = []
    try:
        while data := launched.channel.recv(events.RECORD_BYTES):
            event = events.decode(data)
            assert event
            found.append(event)
        os.waitpid(launched.pid, 0)
    finally:
        launched.close()
    return found


def assert_refused(launched: Launched, stage: int, words: str) -> None:
    """The launcher reports one error and starts nothing."""
    found = said_by(launched)
    assert [event.kind for event in found if event.kind == events.RUNNING] == []
    errors = [event for event in found if event.kind == events.ERROR]
    assert [event.stage for event in errors] == [stage], found
    assert words in errors[0].text


def test_an_image_that_is_not_sealed_is_refused(probe_rootfs: Path) -> None:
    program = Program(native("sbx-launcher"))
    launched = launch(encode(plan_of(probe_rootfs)), program=program)
    assert_refused(launched, events.STAGE_DECODE, "sealed memfd")


@pytest.mark.parametrize("seals", [0, 8, 2 | 4 | 8])
def test_a_plan_that_is_not_sealed_is_refused(
    probe_rootfs: Path, monkeypatch: pytest.MonkeyPatch, seals: int
) -> None:
    """Not even when only the seal that keeps others from being added is missing."""

    def half_sealed(name: str, content: bytes) -> int:
        memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(memory, content)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
        return memory

    monkeypatch.setattr(spawn, "seal_bytes", half_sealed)
    launched = launch(encode(plan_of(probe_rootfs)))
    assert_refused(launched, events.STAGE_DECODE, "no sealed plan")


def test_an_exchanged_source_is_refused(probe_rootfs: Path) -> None:
    """The plan is for one device and inode: another file may stand at the path by now."""
    plan = plan_of(probe_rootfs)
    (root,) = (op for op in plan if isinstance(op, ops.RootOverlay | ops.RootBind))
    plan[plan.index(root)] = root.replace(ino=root.ino + 1)
    assert_refused(launch(encode(plan)), events.STAGE_SETUP, "exchanged")


def test_an_exchanged_folder_for_changes_is_refused(probe_rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    found = (tmp_path / "kept").stat()
    plan = plan_of(probe_rootfs)
    (root,) = (op for op in plan if isinstance(op, ops.RootOverlay))
    kept = {"folder": str(tmp_path / "kept"), "discarded": 0, "folder_dev": found.st_dev}
    plan[plan.index(root)] = root.replace(**kept, folder_ino=found.st_ino + 1)
    assert_refused(launch(encode(plan)), events.STAGE_SETUP, "exchanged")
    assert list((tmp_path / "kept").iterdir()) == []


# ---- what a look from outside shows of the init ------------------------------------------------


@pytest.fixture
def readable(sbx: Sbx, tmp_path: Path) -> Sbx:
    """An sbx whose launcher and init stay dumpable: only then can anybody look at them."""
    names = ["the init is not dumpable", *filter(None, [os.environ.get(VARIABLE)])]
    command = make_command(tmp_path / "readable", [MEASURES[name] for name in names])
    return Sbx(str(command), sbx.home, {**sbx.env, "SBX_TEST_SECRET": "planted"})


@pytest.fixture
def chain(readable: Sbx, attack_rootfs: Path) -> Iterator[list[int]]:
    """The process ids of the launcher and the init of a sandbox that runs."""
    running = readable.start("run", attack_rootfs, "/attack", "tree")
    try:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        found = []
        pid = running.pid
        for _ in range(2):
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            found.append(pid)
        yield found
    finally:
        running.kill()
        running.communicate(timeout=30)


def test_the_init_tells_nothing(chain: list[int]) -> None:
    launcher, init = chain
    for pid in chain:
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"init\0"
    held = {
        int(name): os.readlink(f"/proc/{init}/fd/{name}") for name in os.listdir(f"/proc/{init}/fd")
    }
    kinds = {fd: link.partition(":")[0] for fd, link in held.items()}
    assert kinds.pop(101) == "socket"
    assert kinds.pop(105) == "pipe"
    assert list(kinds.values()) == ["anon_inode"], held
    assert Path(f"/proc/{launcher}/exe").readlink().name.startswith("memfd:")


# ---- the clock -----------------------------------------------------------------------------------


def test_the_time_limit_ends_what_would_end_later(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", "--timeout", "0.3", rootfs, "sleep", "4").returncode == 124


def test_the_time_limit_ends_what_ignores_signals(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    script = "trap '' TERM; i=0; while [ $i -lt 35 ]; do sleep 0.1; i=$((i+1)); done; exit 3"
    words = ("--timeout", "0.3", "--report", tmp_path / "r", rootfs, "sh", "-c", script)
    assert sbx("run", *words).returncode == 124
    assert json.loads((tmp_path / "r").read_text())["code"] is None
