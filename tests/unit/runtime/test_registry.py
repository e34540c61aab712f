"""The folders of sandboxes: who owns a name, what is damaged, what nobody needs any more."""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import resource
import time
from binascii import crc32
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import StateError
from sandbox.linux import paths
from sandbox.runtime import registry
from sandbox.runtime.description import SCHEMA, Description, decode, encode
from sandbox.runtime.following import Ending
from sandbox.runtime.history import read_history
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import Folder
from tests.support.fuzzing import examples


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of run state, of this test alone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "sbx"


def described(name: str = "", **more: object) -> Description:
    identity = registry.new_id()
    fields: dict[str, object] = {
        "id": identity,
        "name": name or registry.own_name(identity),
        "created_s": time.time(),
        "boot_id": registry.boot_id(),
        "rootfs": "/",
        "argv": ("true",),
        "policy": "default",
        "pid": 1,
        **more,
    }
    return Description(**fields)  # type: ignore[arg-type]


def dead(name: str = "", **more: object) -> Folder:
    folder, lock = registry.claim(described(name, **more))
    os.close(lock)
    return folder


def entries(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir() if path.name != "names")


# ---- names ---------------------------------------------------------------------------------


def run_together(count: int, act: Callable[[], str | bool]) -> list[str]:
    """What `act` returns in `count` processes that start it at the same moment and live on until
    all are done; exceptions as their texts."""
    gate, out, end = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os.close(gate[1])
            os.close(end[1])
            os.read(gate[0], 1)
            try:
                result = str(act())
            except BaseException as error:
                result = str(error or repr(error)).replace("\n", " ")
            os.write(out[1], f"{result}\n".encode())
            os.read(end[0], 1)
            os._exit(0)
        children.append(pid)
    os.close(gate[1])
    data = b""
    while data.count(b"\n") < count:
        data += os.read(out[0], 65536)
    found = data.decode().splitlines()
    os.close(end[1])
    for pid in children:
        os.waitpid(pid, 0)
    for fd in (gate[0], end[0], *out):
        os.close(fd)
    return found


@pytest.mark.parametrize("stale", [False, True])
def test_one_of_fifty_gets_the_name(base: Path, stale: bool) -> None:
    for _ in range(2):
        if stale:
            dead("wanted").close()
        found = run_together(50, lambda: registry.claim(described("wanted"))[0].id)
        winners = [word for word in found if len(word) == 12]
        assert len(winners) == 1, found
        assert os.readlink(base / "names" / "wanted") == winners[0]
        assert all('"wanted" is taken' in word for word in found if word not in winners)
        folder = registry.find("wanted")
        assert folder.id == winners[0]
        assert folder.remove()
        folder.close()
    registry.sweep()
    assert list((base / "names").iterdir()) == []


def test_a_name_goes_on_to_the_next(base: Path) -> None:
    first = dead("one")
    second, lock = registry.claim(described("one"))
    assert first.remove()
    assert os.readlink(base / "names" / "one") == second.id
    with pytest.raises(StateError, match="is taken"):
        registry.claim(described("one"))
    assert entries(base) == [second.id]
    os.close(lock)
    for folder in (first, second):
        folder.close()


def test_renaming(base: Path) -> None:
    folder, lock = registry.claim(described("one"))
    other, other_lock = registry.claim(described("two"))
    with pytest.raises(StateError, match="is taken"):
        registry.rename(folder, "two")
    assert registry.find("one").description.name == "one"
    registry.rename(folder, "three")
    assert registry.find("three").id == folder.id
    assert sorted(os.listdir(base / "names")) == ["three", "two"]
    starting, starting_lock = registry.claim(described("four", pid=0))
    with pytest.raises(StateError, match="cannot rename"):
        registry.rename(starting, "five")
    for fd in (lock, other_lock, starting_lock):
        os.close(fd)
    for each in (folder, other, starting):
        each.close()


def test_races_of_renames_end_with_one_name_each(base: Path) -> None:
    """Many give one sandbox names, and many sandboxes want one name; names mean who has them."""
    made = [registry.claim(described(f"box-{n}")) for n in range(6)]
    boxes = [folder for folder, _ in made]

    def rename(box: Folder, name: str) -> str:
        registry.rename(box, name)
        return name

    for turn in range(6):
        found = run_together(6, lambda: rename(boxes[os.getpid() % 6], "wanted"))
        assert all(word == "wanted" or "taken" in word for word in found), found
        found = run_together(6, lambda t=turn: rename(boxes[0], f"n{t}-{os.getpid()}"))  # type: ignore[misc]
        now = {folder.name: folder for folder in registry.everyone()}
        assert len(now) == 6
        links = {path.name: os.readlink(path) for path in (base / "names").iterdir()}
        assert links == {name: folder.id for name, folder in now.items()}
        for name, folder in now.items():
            same = registry.find(name)
            assert same.id == folder.id
            same.close()
            folder.close()
    for folder, lock in made:
        os.close(lock)
        folder.close()


# ---- writing -------------------------------------------------------------------------------


@pytest.mark.usefixtures("base")
def test_a_write_that_fails_half_way_leaves_what_was() -> None:
    folder, lock = registry.claim(described("one"))
    before = sorted(os.listdir(folder.path))

    def fill() -> str:
        # Python ignores SIGXFSZ: what comes is EFBIG, in the middle of the file.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        folder.describe(folder.description.replace(argv=("x" * 1000,)))
        return "written"

    (word,) = run_together(1, fill)
    assert "cannot write" in word
    found = registry.find("one")
    assert found.description == folder.description
    assert sorted(os.listdir(folder.path)) == before
    os.close(lock)
    for each in (folder, found):
        each.close()


@pytest.mark.usefixtures("base")
def test_readers_see_the_old_or_the_new() -> None:
    folder, lock = registry.claim(described("one"))
    versions = [folder.description.replace(argv=(letter * 50000,)) for letter in "ab"]
    folder.describe(versions[0])

    def work() -> str:
        if os.getpid() % 2:
            for number in range(300):
                folder.describe(versions[number % 2])
        for _ in range(300):
            found = registry.find(folder.id)
            assert found.description in versions
            found.close()
        return "fine"

    assert set(run_together(4, work)) == {"fine"}
    os.close(lock)
    folder.close()


# ---- removal -------------------------------------------------------------------------------


def test_one_that_starts_or_lives_is_not_removed(base: Path) -> None:
    folder, lock = registry.claim(described("one", pid=0, auto_remove=True, boot_id="other"))
    assert not folder.remove()
    assert registry.sweep() == []
    assert (folder.lives(), entries(base)) == (True, [folder.id])
    os.close(lock)
    assert not folder.lives()
    assert registry.sweep() == []  # nobody has to hear of one that never lived
    assert entries(base) == []
    folder.close()


def test_others_who_look_do_not_keep_one_from_being_removed(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dead()
    looking = folder.open("lock")
    fcntl.flock(looking, fcntl.LOCK_SH)
    refused: list[int] = []

    def look_away(lock: int, how: int) -> None:
        """The real one; who looks lets go once it was in the way three times."""
        try:
            fcntl.flock(lock, how)
        except BlockingIOError:
            refused.append(lock)
            if len(refused) == 3:
                os.close(looking)
            raise

    monkeypatch.setattr(registry, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": look_away}))
    assert folder.remove()
    assert len(refused) == 3
    folder.close()
    assert entries(base) == []


def test_removed_by_one_of_many(base: Path) -> None:
    for _ in range(10):
        folder = dead("one")
        found = run_together(8, folder.remove)
        assert sorted(found) == ["False"] * 7 + ["True"]
        folder.close()
        assert entries(base) == []


def test_what_an_earlier_boot_left_goes(base: Path) -> None:
    old, new = dead("old", boot_id="of an earlier boot"), dead("new")
    assert registry.sweep() == [old.path]
    assert entries(base) == [new.id]
    for folder in (old, new):
        folder.close()


def test_one_in_the_background_that_was_to_go_does_so_without_a_word(base: Path) -> None:
    asked, killed = dead(auto_remove=True, detached=True), dead(auto_remove=True)
    assert registry.sweep() == [killed.path]
    assert entries(base) == []
    for folder in (asked, killed):
        folder.close()


def test_sweeping_takes_nothing_from_those_that_start(base: Path) -> None:
    """Whoever cleans up while others start, end and go removes what is dead, and that alone."""

    def work() -> str:
        if os.getpid() % 3 == 0:
            for _ in range(60):
                registry.sweep()
            return "fine"
        for number in range(30):
            name = f"box-{os.getpid()}" if number % 2 else ""
            folder, lock = registry.claim(described(name, pid=0))
            folder.describe(folder.description.replace(pid=os.getpid(), auto_remove=True))
            assert folder.lives()
            assert registry.find(folder.id).description.pid == os.getpid()
            os.close(lock)
            folder.remove()
            folder.close()
        return "fine"

    assert set(run_together(6, work)) == {"fine"}
    registry.sweep()
    assert entries(base) == []
    assert list((base / "names").iterdir()) == []


def test_half_made_and_half_removed_folders_go(base: Path) -> None:
    dead().close()
    for name, age in ((".new-aaa", 3600), (".new-bbb", 0), (".old-ccc", 0)):
        (base / name).mkdir()
        (base / name / "lock").touch()
        os.utime(base / name, (time.time() - age, time.time() - age))
    registry.sweep()
    assert [name for name in entries(base) if name.startswith(".")] == [".new-bbb"]


def test_a_start_that_cannot_write_leaves_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    for place in ("create", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(Folder, place, refuse)
            with pytest.raises(StateError, match="cannot write") as failed:
                registry.claim(described("one"))
        assert (failed.value.cause, entries(base)) == ("no space left on device", [])
    assert len(os.listdir("/proc/self/fd")) == before


# ---- damage --------------------------------------------------------------------------------


def summed(**fields: object) -> bytes:
    """A description that was written so, by another version or for another sandbox."""
    data = marshal.dumps({**dict(described()), "schema": SCHEMA, **fields})
    return crc32(data).to_bytes(4, "little") + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 300,
        b"[" + b"\xff\xff\xff\x7f",
        summed(schema="sbx.sandbox/2"),
        summed(later=1),
        summed(argv=7),
        summed(argv=("true", 7)),
        summed(cgroup=("delegated", "/sys/fs/cgroup/x", "7")),
        summed(degradations=(("cgroup", "limits"),)),
        summed(pid=True),
        summed(),
    ],
)
def test_a_damaged_description(base: Path, data: bytes) -> None:
    folder = dead("one")
    (base / folder.id / "sandbox").write_bytes(data)
    damaged: list[Folder] = []
    assert list(registry.everyone(damaged)) == []
    assert [(found.id, found.path) for found in damaged] == [(folder.id, str(base / folder.id))]
    damaged[0].close()
    assert registry.sweep() == []
    with pytest.raises(StateError, match="cannot read the state"):
        registry.find(folder.id)
    registry.claim(described("one"))[0].close()  # its name is free
    folder.close()


def test_one_of_which_nothing_can_be_read_is_removed_with_its_name(base: Path) -> None:
    folder = dead("one")
    (base / folder.id / "sandbox").write_bytes(b"spoilt")
    found = registry.find(folder.id, damaged=True)
    assert (found.id, found.name, found.lives()) == (folder.id, folder.id, False)
    assert found.remove()
    assert os.listdir(base / "names") == []
    assert entries(base) == []
    found.close()
    folder.close()


def test_one_that_lives_is_not_removed_because_nothing_can_be_read(base: Path) -> None:
    folder, lock = registry.claim(described("one"))
    (base / folder.id / "sandbox").write_bytes(b"spoilt")
    found = registry.find(folder.id, damaged=True)
    assert found.lives()
    assert not found.remove()
    assert os.listdir(base / "names") == ["one"]
    os.close(lock)
    found.close()
    folder.close()


_PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)),
    max_leaves=6,
)


def alike(value: object, other: object) -> bool:
    """Whether every part has the type that the other one has; of a list that may be longer."""
    if isinstance(other, tuple):
        return isinstance(value, tuple) and all(
            any(alike(one, two) for two in other) for one in value
        )
    return type(value) is type(other)


@settings(max_examples=examples(300))
@given(name=st.sampled_from(sorted(dict(described()))), value=_PLAIN)
def test_no_field_of_another_type_is_read(name: str, value: object) -> None:
    whole = described(
        layers=("seccomp",),
        degradations=(("cgroup", "limits", "none here"),),
        cgroup=("root", "/sys/fs/cgroup/x", 7),
        shareable=("net",),
        shares=("pid",),
        created_s=1.5,
        timeout_s=1.5,
        grace_s=1.5,
    )
    assert decode(encode(whole)) == whole
    found = decode(encode(whole.replace(**{name: value})))
    if found is not None and not (isinstance(dict(whole)[name], float) and type(value) is int):
        assert alike(dict(found)[name], dict(whole)[name]), (name, value)


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), at=st.integers(0, 400), events=st.binary(max_size=1200))
def test_any_damage_is_survived(base: Path, data: bytes, at: int, events: bytes) -> None:
    folder = dead("one")
    whole = folder.read("sandbox")
    (base / folder.id / "sandbox").write_bytes(whole[:at] + data + whole[at + len(data) :])
    (base / folder.id / "events").write_bytes(events)
    for found in registry.everyone([]):
        read_history(found)
        found.close()
    registry.sweep()
    assert folder.remove()
    folder.close()


@pytest.mark.usefixtures("base")
def test_a_reused_pid_is_not_taken_for_the_launcher() -> None:
    import socket

    folder, lock = registry.claim(described("one", pid=os.getpid(), started_ticks=1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind(f"/proc/self/fd/{folder.fd}/control")
        control.listen(1)
        with pytest.raises(StateError, match="is not running") as failed:
            Keeper(folder)
    assert "another one by now" in failed.value.cause
    os.close(lock)
    folder.close()


@pytest.mark.usefixtures("base")
def test_a_launcher_that_is_stopped_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("sandbox.runtime.keeper._ANSWER_S", 0.01)
    ticks = registry.start_ticks(os.getpid())
    folder, lock = registry.claim(described("one", pid=os.getpid(), started_ticks=ticks))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind(f"/proc/self/fd/{folder.fd}/control")
        control.listen(1)
        with Keeper(folder) as keeper:
            for ask in (keeper.kill, keeper.namespaces, keeper.input, keeper.thaw):
                with pytest.raises(StateError, match="does not answer") as failed:
                    ask()
        assert str(os.getpid()) in failed.value.cause
    with pytest.raises(StateError, match="is not running") as failed:
        Keeper(folder)
    assert failed.value.cause == "it has ended"
    os.close(lock)
    folder.close()


@pytest.mark.usefixtures("base")
def test_the_end_of_a_process_with_a_reused_pid_is_not_waited_for() -> None:
    folder, lock = registry.claim(described("one", pid=os.getpid(), started_ticks=1))
    ending = Ending(folder)
    assert not ending.ended()  # the lock is held
    os.close(lock)
    assert ending.ended()  # and who has its number now lives on
    ending.close()
    folder.close()


# ---- where it lies -------------------------------------------------------------------------


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    runtime = f"/run/user/{os.getuid()}"
    usual = f"{runtime}/sbx" if os.path.isdir(runtime) else str(tmp_path / "state" / "sbx")
    for value in ("", "relative", str(tmp_path / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert paths.state_dir() == (usual if not value else str(tmp_path / "state" / "sbx"))
    foreign = "/" if os.getuid() else "/home"
    owner = 65534
    real = os.stat
    monkeypatch.setenv("XDG_RUNTIME_DIR", foreign)

    class Foreign:
        st_uid = owner

    monkeypatch.setattr(
        os, "stat", lambda path, **more: Foreign if path == foreign else real(path, **more)
    )
    assert paths.state_dir() == str(tmp_path / "state" / "sbx")
