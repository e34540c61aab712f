"""What is remembered, what is not, and how a trial that misbehaves ends."""

from __future__ import annotations

import errno
import marshal
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.errors import HostError
from sandbox.host import attempt as attempt_module
from sandbox.host import disk, helpers, probe, userns
from sandbox.host.attempt import Outcome, attempt
from sandbox.linux import private_cache

OK = Outcome(None, "", 0, "")
NAMESPACED = (OK, OK, Outcome(1, "", 0, ""), Outcome(7, "", 0, ""), OK, OK)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of our own, and a cache."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "sbx"


class Counter:
    """Stands for the trials: gives fixed outcomes and counts how often it is asked."""

    def __init__(self, outcomes: tuple[Outcome, ...] = NAMESPACED) -> None:
        self.outcomes = outcomes
        self.on_disk = OK
        self.calls = 0
        self.folders: list[str] = []

    def __call__(self, trial: str, *arguments: str) -> Outcome:
        if trial == "overlay":
            self.folders += arguments
            assert os.listdir(arguments[0]) == []
            os.mkdir(f"{arguments[0]}/upper", 0)
            return self.on_disk
        assert trial == "facts"
        self.calls += 1
        parts = tuple(tuple(value for _, value in part) for part in self.outcomes)
        return Outcome(parts, "", 0, "")


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    monkeypatch.setattr(attempt_module, "attempt", counter)
    monkeypatch.setattr(disk, "attempt", counter)
    return counter


def replace(counter: Counter, index: int, outcome: Outcome) -> None:
    parts = list(counter.outcomes)
    parts[index] = outcome
    counter.outcomes = tuple(parts)


def test_second_call_is_remembered(state: Path, trials: Counter) -> None:
    first = probe.host_facts()
    assert probe.host_facts() == first
    assert trials.calls == 1
    assert (first.landlock_abi, first.seccomp, first.time_namespace) == (7, True, True)
    assert (first.uid, first.gid) == (os.getuid(), os.getgid())
    assert os.listdir(state) == ["host"]


def test_refresh_tries_again(state: Path, trials: Counter) -> None:  # noqa: ARG001 - used by path
    probe.host_facts()
    replace(trials, 4, Outcome(None, "seccomp", errno.EINVAL, "invalid argument"))
    assert probe.host_facts().seccomp is True
    assert probe.host_facts(refresh=True).seccomp is False
    assert probe.host_facts().seccomp is False
    assert trials.calls == 2


def test_other_context_is_remembered_beside(
    state: Path, trials: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    del state
    for context in ("a", "b", "a", "b"):
        monkeypatch.setattr(probe, "cache_key", lambda context=context: (context,))
        probe.host_facts()
    assert trials.calls == 2


@pytest.mark.parametrize(
    "body",
    [b"", b"rubbish", marshal.dumps([1] * 14), marshal.dumps(("short",))],
    ids=["empty", "rubbish", "list", "short"],
)
def test_entry_of_another_shape_is_ignored(state: Path, trials: Counter, body: bytes) -> None:
    assert private_cache.store(f"{state}/host", repr(probe.cache_key()).encode(), body)
    probe.host_facts()
    probe.host_facts()
    assert trials.calls == 1


def test_works_without_a_state_folder(
    tmp_path: Path, trials: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbx").write_text("in the way")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert probe.host_facts().seccomp
    assert probe.host_facts().seccomp
    assert trials.calls == 2
    assert os.listdir(tmp_path) == ["sbx"]


@pytest.mark.parametrize(
    ("index", "number"),
    [(0, errno.EPERM), (1, errno.EMFILE), (1, errno.ENOMEM), (2, errno.ETIMEDOUT)],
)
def test_passing_failures_are_not_remembered(
    state: Path, trials: Counter, index: int, number: int
) -> None:
    replace(trials, index, Outcome(None, "some step", number, "some words"))
    probe.host_facts()
    assert trials.calls == 1
    assert not (state / "host").exists()


def test_lasting_failures_are_remembered(state: Path, trials: Counter) -> None:
    del state
    replace(trials, 1, Outcome(None, "mount overlay", errno.EPERM, "operation not permitted"))
    probe.host_facts()
    assert probe.host_facts().overlay_error == "mount overlay: operation not permitted"
    assert (trials.calls, trials.folders) == (1, [])


# ---- an upper directory on disk ----

PARTIAL = Outcome(None, "overlay: make a removed folder again", errno.EIO, "input/output error")


def test_a_disk_is_tried_where_memory_does_not_do(state: Path, trials: Counter) -> None:
    replace(trials, 1, PARTIAL)
    for _ in range(2):
        facts = probe.host_facts()
        assert facts.overlay_error == facts.upper_disk_error == ""
        assert facts.upper_memory_error == PARTIAL.reason
    assert trials.calls == len(trials.folders) == 1
    runs = state.parent / "cache/sbx/runs"
    assert Path(trials.folders[0]).parent == runs
    assert [path.name for path in runs.iterdir()] == [".gate"]


@pytest.mark.parametrize(("number", "calls"), [(errno.EIO, 1), (errno.ENOSPC, 2)])
def test_a_disk_that_does_not_do_either(
    state: Path, trials: Counter, number: int, calls: int
) -> None:
    del state
    replace(trials, 1, PARTIAL)
    trials.on_disk = Outcome(None, "overlay: some step", number, "some words")
    for _ in range(2):
        assert probe.host_facts().upper_disk_error == "overlay: some step: some words"
    assert trials.calls == calls


def test_a_disk_without_a_folder_is_tried_again(state: Path, trials: Counter) -> None:
    replace(trials, 1, PARTIAL)
    (state.parent / "cache").write_text("in the way")
    for _ in range(2):
        assert probe.host_facts().upper_disk_error.startswith("cannot create ")
    assert (trials.calls, trials.folders) == (2, [])


@pytest.mark.parametrize("step", ["mount overlay", "overlay: copy up"])
def test_no_disk_helps_where_nothing_can_be_changed(
    state: Path, trials: Counter, step: str
) -> None:
    del state
    replace(trials, 1, Outcome(None, step, errno.EINVAL, "invalid argument"))
    facts = probe.host_facts()
    assert facts.overlay_error == f"{step}: invalid argument"
    assert (facts.upper_memory_error, facts.upper_disk_error, trials.folders) == ("", "", [])


def test_another_cache_is_another_disk(
    state: Path, trials: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(trials, 1, PARTIAL)
    for name in ("a", "b", "a"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(state.parent / name))
        probe.host_facts()
    assert [Path(folder).parents[2].name for folder in trials.folders] == ["a", "b"]


def test_no_answer_at_all(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome(None, "trial", errno.ETIMEDOUT, "no answer within 5 s")
    monkeypatch.setattr(attempt_module, "attempt", lambda _: failed)
    facts = probe.host_facts()
    assert facts.userns_error == facts.overlay_error == "trial: no answer within 5 s"
    assert (facts.landlock_abi, facts.seccomp, facts.time_namespace) == (0, False, False)
    assert not state.exists()


def test_key_notices_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watched = tmp_path / "subuid"
    monkeypatch.setattr(probe, "FILES", (str(watched),))
    missing = probe.cache_key()
    watched.write_text("a:1:1\n")
    present = probe.cache_key()
    assert probe.cache_key() == present
    watched.chmod(0o600)
    assert len({missing, present, probe.cache_key()}) == 3


def test_userns_error_gives_the_reason(
    state: Path, trials: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    del state
    known = {"/proc/sys/user/max_user_namespaces": "0"}
    monkeypatch.setattr(
        userns.explain, "__kwdefaults__", {"read": lambda path: known.get(path, "")}
    )
    text = os.strerror(errno.ENOSPC).lower()
    replace(trials, 0, Outcome(None, "unshare user namespace", errno.ENOSPC, text))
    assert probe.host_facts().userns_error == (
        "unshare user namespace: no space left on device (user.max_user_namespaces is 0)"
    )


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-18-amd64", (6, 1)),
        ("6.18.44", (6, 18)),
        ("5.15-rc2", (5, 15)),
        ("7.0", (7, 0)),
        ("odd", (0, 0)),
        ("6", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_kernel_version(release: str, version: tuple[int, int]) -> None:
    assert probe.kernel_version(release) == version


def test_masked_proc() -> None:
    mountinfo = "\n".join(
        (
            "22 27 0:21 / /proc rw,relatime - proc proc rw",
            "50 22 0:22 / /proc/sys/fs/binfmt_misc rw shared:9 - autofs systemd-1 rw",
            "51 22 0:23 / /proc/kcore rw - tmpfs tmpfs rw",
            "52 22 0:24 / /processes rw - tmpfs tmpfs rw",
            "short line",
        )
    )
    assert probe.masked_proc(mountinfo) == ("/proc/kcore",)
    assert probe.masked_proc("") == ()


def test_proc_error_names_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "51 22 0:23 / /proc/kcore rw - tmpfs tmpfs rw"
    monkeypatch.setattr(probe, "read_kernel_file", lambda _: line)
    refused = Outcome(None, "mount proc", errno.EPERM, "operation not permitted")
    assert probe._proc_error(refused) == (
        "mount proc: operation not permitted "
        "(a container hides parts of /proc, such as /proc/kcore)"
    )
    absent = Outcome(None, "mount proc", errno.ENODEV, "no such device")
    assert probe._proc_error(absent) == "mount proc: no such device"


def test_helpers_must_be_roots(tmp_path: Path) -> None:
    assert helpers.helper_problem(str(tmp_path / "none")) == "no such file or directory"
    assert helpers.helper_problem(str(tmp_path)).startswith("is not a regular file")
    if os.getuid():
        own = tmp_path / "newuidmap"
        own.write_text("")
        own.chmod(0o4755)
        assert helpers.helper_problem(str(own)).startswith("is not a regular file")
    assert "set-user-ID" in helpers.helper_problem("/bin/sh")


def test_helper_comes_from_a_fixed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "newuidmap").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert helpers.find_helper("newuidmap") in {
        "",
        *(f"{f}/newuidmap" for f in helpers.HELPER_FOLDERS),
    }
    monkeypatch.setattr(helpers, "HELPER_FOLDERS", (str(tmp_path),))
    assert helpers.find_helper("newuidmap") == ""


# ---- the child ----


def children() -> set[str]:
    task = f"/proc/self/task/{os.getpid()}/children"
    return set(Path(task).read_text().split())


def test_hanging_trial_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = "import os,time;os.fork();time.sleep(60)"
    monkeypatch.setattr(attempt_module, "_CHILD", hang)
    before, start = children(), time.monotonic()
    outcome = attempt("userns", deadline_s=0.3)
    assert (outcome.errno, outcome.text) == (errno.ETIMEDOUT, "no answer within 0.3 s")
    assert time.monotonic() - start < 5
    assert children() == before


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import os;os.write(1,b'?')", "1/0"])
def test_trial_without_an_answer(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(attempt_module, "_CHILD", code)
    assert attempt("userns").reason == "trial: the process ended without an answer"


@pytest.mark.parametrize("python", ["", "/nonexistent/python"])
def test_without_an_interpreter(monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    monkeypatch.setattr(sys, "executable", python)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert attempt("userns").errno == errno.ENOENT
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_caller_that_ignores_children() -> None:
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert attempt("landlock").step in {"", "landlock_create_ruleset"}
    finally:
        signal.signal(signal.SIGCHLD, previous)


def test_start_path_stays_light(state: Path) -> None:
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from sandbox.host.probe import host_facts\n"
        "host_facts(); print(*sys.modules)"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(probe.__file__))))
    argv = [sys.executable, "-I", "-S", "-c", code, root]
    env = {"XDG_RUNTIME_DIR": str(state.parent), "HOME": str(state.parent)}
    for _ in range(2):
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    if not (state / "host").exists():
        pytest.skip("this host gives nothing to remember: user namespaces fail")
    heavy = {"typing", "enum", "re", "json", "subprocess", "ctypes", "signal", "select", "pwd"}
    assert not loaded & (
        heavy | {"sandbox.host.attempt", "sandbox.host.subids", "sandbox.host.helpers"}
    )


@pytest.mark.usefixtures("trials")
def test_ranges_that_cannot_be_read_are_none_for_a_reason(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise HostError("cannot read /etc/subuid", cause="permission denied")

    monkeypatch.setattr("sandbox.host.subids.read_subids", refuse)
    facts = probe.host_facts()
    assert facts.subuids == facts.subgids == ()
    assert facts.subids_error == "cannot read /etc/subuid: permission denied"
    assert not (state / "facts").exists()


@pytest.mark.parametrize(
    ("uid_map", "gid_map", "capabilities", "expected"),
    [
        ("0 0 4294967295", "0 0 4294967295", 0, None),
        ("0 1000 1", "0 1000 1", -1, ((), (), "no other ids")),
        ("0 1000 1\n1 100000 65536", "0 1000 1", -1, ((), (), "no other ids")),
        ("0 1000 1\n1 100000 9", "0 1000 2\n5 7 1", -1, (((1, 9),), ((1, 1), (5, 1)), "")),
        ("0 100000 65536", "0 100000 65536", -1, (((1, 65535),), ((1, 65535),), "")),
        ("0 100000 9", "0 100000 9", 1 << 7, ((), (), "CAP_SETGID")),
        ("0 100000 9", "0 100000 9", 1 << 6, ((), (), "CAP_SETUID")),
    ],
)
def test_root_of_a_container_has_what_is_mapped_there(
    monkeypatch: pytest.MonkeyPatch,
    uid_map: str,
    gid_map: str,
    capabilities: int,
    expected: tuple[object, object, str] | None,
) -> None:
    texts = {
        "/proc/self/uid_map": uid_map,
        "/proc/self/gid_map": gid_map,
        "/proc/self/status": f"CapEff:\t{capabilities & (1 << 41) - 1:016x}\n",
    }
    monkeypatch.setattr(probe, "read_kernel_file", texts.__getitem__)
    found = probe._ids_of_this_namespace()
    if expected is None or found is None:
        assert found is expected
    else:
        assert found[:2] == expected[:2]
        assert expected[2] in found[2]
        assert bool(found[2]) == bool(expected[2])
