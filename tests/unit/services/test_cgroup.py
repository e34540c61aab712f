"""Control groups without a kernel's: whose a folder is, and what is provably ours to remove.

A folder of the file system stands for a group: rmdir(2) and inodes are the same.
"""

from __future__ import annotations

import fcntl
import marshal
import os
from pathlib import Path

import pytest

from sandbox.errors import HostError
from sandbox.plan.request import Available
from sandbox.services import cgroup
from sandbox.services.cgroup import delegated, root, systemd, tree
from sandbox.services.cgroup import group as group_module
from sandbox.services.cgroup.account import parse_account, read_account
from sandbox.services.cgroup.group import Group, claim_name, make_folder, open_group, reap_groups


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "sbx" / "cgroups"


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """A folder that is ours and holds no processes."""
    return group(tmp_path / "groups", controllers="cpu memory pids")


def group(path: Path, *, procs: str = "", controllers: str = "", given: str = "") -> Path:
    path.mkdir()
    files = {"procs": procs, "controllers": controllers, "subtree_control": given}
    for name, text in files.items():
        (path / f"cgroup.{name}").write_text(text)
    return path


def reap() -> list[str]:
    told: list[str] = []
    reap_groups(told.append)
    return told


# ---- whose it is ----


def test_own_and_empty(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = group(groups / "command", procs="1\n2\n")
    monkeypatch.setattr(tree, "own_folder", lambda: str(own))
    (groups / "cgroup.subtree_control").write_text("cpu memory pids")
    found = delegated.find()
    assert (found.driver, found.parent) == ("delegated", str(groups))
    assert found.controllers == ("cpu", "memory", "pids")
    assert found.cause == f"{groups} does not give io, cpuset"


def test_alone_in_it(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (groups / "cgroup.procs").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(tree, "own_folder", lambda: str(groups))
    found = delegated.find()
    assert (found.parent, found.controllers) == (str(groups), ("cpu", "memory", "pids"))


def test_others_in_it(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (groups / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    monkeypatch.setattr(tree, "own_folder", lambda: str(groups))
    monkeypatch.setattr(tree, "is_ours", lambda folder: folder == str(groups))
    found = delegated.find()
    assert (found.driver, found.controllers) == ("delegated", ())
    assert found.cause == f"{groups} holds other processes, so that its children get no controllers"


def test_not_ours(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "own_folder", lambda: str(groups))
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(groups).st_uid + 1)
    assert delegated.find().driver == ""
    monkeypatch.setattr(tree, "own_folder", lambda: "")
    assert delegated.find().driver == ""


@pytest.mark.parametrize("name", ["a.slice", "a.scope", "a.service"])
def test_a_managers_folder_is_not_ours_to_divide(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = group(tmp_path / name)
    monkeypatch.setattr(tree, "own_folder", lambda: str(own))
    assert delegated.find().driver == ""


def test_a_delegated_unit_is_ours_and_nothing_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = group(group(tmp_path / "app") / "a.scope", procs="1\n")
    asked: list[str] = []

    def delegate(path: str, name: str) -> bytes:
        asked.append(f"{os.path.basename(path)} {name}")
        return b"1"

    monkeypatch.setattr(os, "getxattr", delegate)
    monkeypatch.setattr(tree, "own_folder", lambda: str(own))
    assert delegated.find().controllers == ()
    assert asked == ["a.scope user.delegate"]
    inside = group(own / "part", procs="1\n")
    (own / "cgroup.procs").write_text("")
    monkeypatch.setattr(tree, "own_folder", lambda: str(inside))
    assert delegated.find().parent == str(own)


def test_no_unified_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroup, "UNIFIED", str(tmp_path))
    for name in ("memory", "cpu"):
        (tmp_path / name).mkdir()
    assert cgroup.find_group().cause == "cgroup v1 holds cpu, memory, which users cannot have"
    monkeypatch.setattr(cgroup, "UNIFIED", str(tmp_path / "none"))
    found = cgroup.find_group()
    assert (found.driver, found.controllers) == ("", ())
    assert found.cause == f"no unified control groups (cgroup v2) on {tmp_path}/none"
    assert "doctor" in found.cure
    assert cgroup.find_group("none").cause == 'resources.driver is "none"'


def test_the_first_with_controllers_is_taken(
    groups: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroup, "UNIFIED", str(groups))
    bare = Available("delegated", parent="/x", cause="others are in it")
    monkeypatch.setattr(delegated, "find", lambda: bare)
    monkeypatch.setattr(root, "find", lambda: Available("", cause="not run by root"))
    monkeypatch.setattr(systemd, "find", lambda: Available("systemd", ("memory",)))
    assert cgroup.find_group().driver == "systemd"
    assert cgroup.find_group("systemd", asked=False).driver == "systemd"
    plain = cgroup.find_group(asked=False)
    assert (plain.driver, plain.controllers) == ("delegated", ())
    assert "systemd: makes a scope where limits are asked for" in plain.cause
    monkeypatch.setattr(systemd, "find", lambda: Available("", cause="no manager"))
    found = cgroup.find_group()
    assert (found.driver, found.parent) == ("delegated", "/x")
    assert found.cause == "delegated: others are in it; systemd: no manager; root: not run by root"
    assert cgroup.find_group("systemd").driver == ""
    del tmp_path


# ---- what is ours to remove ----


def test_made_and_removed(groups: Path, state: Path) -> None:
    claim = claim_name()
    made = make_folder(f"{groups}/{claim.name}", claim)
    record = marshal.loads((state / claim.name).read_bytes())  # noqa: S302
    assert record == (made.path, made.inode)
    assert reap() == []  # it is locked
    assert made.remove()
    assert not Path(made.path).exists()
    assert list(state.iterdir()) == []


def abandoned(groups: Path) -> Group:
    """A group whose owner was killed."""
    claim = claim_name()
    made = make_folder(f"{groups}/{claim.name}", claim)
    os.close(made.lock)
    made.lock = -1
    return made


def test_what_was_left_is_removed(groups: Path, state: Path) -> None:
    left = abandoned(groups)
    assert reap() == [left.path]
    assert not Path(left.path).exists()
    assert list(state.iterdir()) == []


def test_another_folder_of_the_name_stays(groups: Path, state: Path) -> None:
    left = abandoned(groups)
    Path(left.path).rename(groups / "aside")
    Path(left.path).mkdir()
    assert reap() == []
    assert Path(left.path).exists()
    assert list(state.iterdir()) == []


def test_a_folder_of_somebody_else_stays(
    groups: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = abandoned(groups)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(left.path).st_uid + 1)
    assert reap() == []
    assert Path(left.path).exists()
    assert list(state.iterdir()) == []


def test_a_record_that_names_another_place_is_not_believed(groups: Path, state: Path) -> None:
    precious = groups / "precious"
    precious.mkdir()
    claim = claim_name()
    os.pwrite(claim.lock, marshal.dumps((str(precious), precious.stat().st_ino)), 0)
    os.close(claim.lock)
    assert reap() == []
    assert precious.exists()
    assert list(state.iterdir()) == []


def test_a_folder_that_was_exchanged_meanwhile_stays(groups: Path, state: Path) -> None:
    claim = claim_name()
    made = make_folder(f"{groups}/{claim.name}", claim)
    Path(made.path).rename(groups / "aside")
    Path(made.path).mkdir()
    assert made.remove()  # what was made is not there any more
    assert Path(made.path).exists()
    assert list(state.iterdir()) == []


def test_a_link_in_the_folders_place_is_not_followed(groups: Path, state: Path) -> None:
    left = abandoned(groups)
    Path(left.path).rename(groups / "aside")
    Path(left.path).symlink_to("aside")
    assert reap() == []
    assert (groups / "aside").exists()
    assert list(state.iterdir()) == []


def test_a_link_in_a_records_place_is_not_followed(groups: Path, state: Path) -> None:
    left = abandoned(groups)
    record = state / os.path.basename(left.path)
    record.rename(groups / "record")
    record.symlink_to(groups / "record")
    assert reap() == []
    assert Path(left.path).exists()


def test_killed_between_the_folder_and_its_number(
    groups: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    original = group_module._write_record

    def write(lock: int, path: str, inode: int) -> None:
        written.append(inode)
        if inode:
            raise SystemExit
        original(lock, path, inode)

    monkeypatch.setattr(group_module, "_write_record", write)
    claim = claim_name()
    with pytest.raises(SystemExit):
        make_folder(f"{groups}/{claim.name}", claim)
    os.close(claim.lock)
    assert written[0] == 0
    assert reap() == [f"{groups}/{claim.name}"]
    assert not (groups / claim.name).exists()
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("record", [b"", b"noise", marshal.dumps(7), marshal.dumps(("/x", "y", 1))])
def test_a_damaged_record_harms_nothing(record: bytes, state: Path) -> None:
    claim = claim_name()
    os.pwrite(claim.lock, record, 0)
    os.close(claim.lock)
    assert reap() == []
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("when", ["before the lock", "while it is locked", "after the lock"])
def test_who_reaps_meanwhile_takes_no_claim_away(
    state: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The record has no owner until it is locked, and its own name only after that."""
    flock = fcntl.flock
    seen: list[int] = []

    def late(lock: int, how: int) -> None:
        if seen:
            flock(lock, how)
            return
        seen.append(lock)
        if when == "before the lock":
            assert reap() == []
        elif when == "while it is locked":
            other = os.open(f"/proc/self/fd/{lock}", os.O_RDWR)
            flock(other, how)
            try:
                flock(lock, how)
            finally:
                os.close(other)
        flock(lock, how)
        if when == "after the lock":
            assert reap() == []

    monkeypatch.setattr(fcntl, "flock", late)
    claim = claim_name()
    assert (state / claim.name).exists()
    assert reap() == []
    claim.drop()


def test_a_claim_is_given_back(state: Path) -> None:
    claim_name().drop()
    assert list(state.iterdir()) == []


def test_a_group_that_cannot_be_made(state: Path) -> None:
    claim = claim_name()
    with pytest.raises(HostError, match="cannot make the control group /proc/self/sbx"):
        make_folder("/proc/self/sbx", claim)
    fcntl.flock(claim.lock, fcntl.LOCK_UN)
    claim.drop()
    assert list(state.iterdir()) == []


def test_only_the_same_group_is_entered(groups: Path) -> None:
    left = abandoned(groups)
    found = open_group(left.path, left.inode)
    assert found.inode == left.inode
    found.release()
    with pytest.raises(HostError) as error:
        open_group(left.path, left.inode + 1)
    assert error.value.cause == "another one is there by now"
    left.remove()
    with pytest.raises(HostError) as error:
        open_group(left.path, 1)
    assert error.value.cause == "no such file or directory"


# ---- figures ----


def test_figures(groups: Path) -> None:
    files = {
        "cgroup.controllers": "cpu io memory pids\n",
        "memory.peak": "4096\n",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
        "pids.peak": "7\n",
        "pids.events": "max 5\n",
        "cpu.stat": "usage_usec 10\nuser_usec 6\nsystem_usec 4\ncore_sched 1\nnr_throttled 9\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=9\n8:16 rbytes=10 wbytes=x\n253:0\n",
        "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull total=1\n",
    }
    for name, text in files.items():
        (groups / name).write_text(text)
    made = Group(str(groups), os.open(groups, os.O_RDONLY))
    found = read_account(made)
    assert (found.memory_peak_bytes, found.oom_kills) == (4096, 2)
    assert (found.pids_peak, found.pids_refused) == (7, 5)
    assert dict(found.cpu or ())["nr_throttled"] == 9
    assert "core_sched" not in dict(found.cpu or ())
    assert found.io == (("rbytes", 11), ("wbytes", 2), ("rios", 3), ("wios", 4))
    assert found.pressure == (("cpu", 77),)
    assert found.as_dict()["pids_events"] == {"max": 5}
    made.release()


def test_figures_that_a_launcher_has_kept() -> None:
    data = b"cgroup.controllers 7\nmemory\nmemory.peak 5\n4096\nmemory.events 11\noom_kill 2\n"
    found = parse_account(data)
    assert found is not None
    assert (found.memory_peak_bytes, found.oom_kills, found.io) == (4096, 2, None)
    assert parse_account(b"") is None
    assert parse_account(b"noise") is None
    assert parse_account(data[:-3]) is not None  # a full disk


def test_figures_that_are_not_kept(tmp_path: Path) -> None:
    made = Group(str(tmp_path), os.open(tmp_path, os.O_RDONLY))
    found = read_account(made)
    assert set(dict(found).values()) == {None}
    assert found.oom_kills is None
    assert found.pids_refused is None
    made.release()
