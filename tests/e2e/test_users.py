"""Two users on one host: neither sees, enters or ends what the other runs.

The second one is a subordinate id of the first: to the kernel a user like any other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.linux.paths import native
from tests.conftest import Sbx
from tests.support.user import children, subid_ranges

OTHER = 60000  # as the map has it: no command of a sandbox here is this user
BECOME = f"""
import os, sys
os.setgroups([])
os.setresgid({OTHER}, {OTHER}, {OTHER})
os.setresuid({OTHER}, {OTHER}, {OTHER})
os.environ["HOME"] = sys.argv[1]
"""
TRY = """
import errno, json, signal, socket
found = {}
def attempt(name, act):
    try:
        found[name] = repr(act())
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
"""


class Other:
    """A user beside the one of the tests, with a home that is reached from outside."""

    def __init__(self, home: Path) -> None:
        self.home = home
        uids, gids = subid_ranges("/etc/subuid"), subid_ranges("/etc/subgid")
        if not uids or uids[0].stop - uids[0].start <= OTHER or not gids:
            pytest.skip("a second user needs subordinate ids")
        self.uid = uids[0].start + OTHER - 1
        self._map = [native("sbx-idmap"), "--uid", f"0:{os.getuid()}:1"]
        self._map += ["--gid", f"0:{os.getgid()}:1"]
        self._map += ["--uid", f"1:{uids[0].start}:{OTHER}", "--gid", f"1:{gids[0].start}:{OTHER}"]

    def __call__(self, script: str, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a script of Python's as that user."""
        argv = [*self._map, "--", sys.executable, "-I", "-c", BECOME + script, str(self.home)]
        done = subprocess.run(
            [*argv, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    def tries(self, script: str, *words: object) -> dict[str, str]:
        """What each attempt of a script came to."""
        found: dict[str, str] = json.loads(
            self(f"{TRY}\n{script}\nprint(json.dumps(found))", *words).stdout
        )
        return found

    def sbx(self, path: str, runtime: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `sbx` as that user, who names a place of the first one's as his."""
        script = (
            "import subprocess\n"
            "os.environ['XDG_RUNTIME_DIR'] = sys.argv[2]\n"
            "done = subprocess.run(sys.argv[3:], capture_output=True, text=True)\n"
            "print(done.returncode, done.stdout, done.stderr)"
        )
        return self(script, runtime, path, *words)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that everybody reaches, as /run/user is."""
    path = Path(tempfile.mkdtemp(prefix="sbx-users-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def own(sbx: Sbx, open_place: Path) -> Sbx:
    """The command of the first user, whose state lies in the open place."""
    return Sbx(sbx.path, sbx.home, {**sbx.env, "XDG_RUNTIME_DIR": str(open_place)})


@pytest.fixture
def box(own: Sbx, rootfs: Path) -> Iterator[str]:
    done = own("run", "-d", "--name", "mine", rootfs, "sh", "-c", "echo secret; exec sleep 1000")
    assert done.returncode == 0, done.stderr
    identity = done.stdout.strip()
    yield identity
    assert own("exec", identity, "true").returncode == 0  # whatever was tried
    assert own("rm", "-f", identity).returncode == 0


@pytest.fixture
def other() -> Iterator[Other]:
    shared = Path(tempfile.mkdtemp(prefix="sbx-other-"))
    shared.chmod(0o777)
    user = Other(shared / "home")
    user("os.mkdir(sys.argv[1], 0o755)")
    yield user
    user("import shutil; shutil.rmtree(sys.argv[1])")
    shared.rmdir()


def pid_of(own: Sbx, identity: str) -> int:
    boxes = json.loads(own("ps", "--format", "json").stdout)
    return int(next(found["pid"] for found in boxes if found["id"] == identity))


def test_the_folders_are_closed(box: str, other: Other, open_place: Path) -> None:
    script = """
state, box = sys.argv[2:]
attempt("list", lambda: os.listdir(state))
for name in ("sandbox", "plan", "events", "log", "control", "lock"):
    attempt(name, lambda: os.open(f"{state}/{box}/{name}", os.O_RDONLY))
attempt("connect", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(
    f"{state}/{box}/control"))
attempt("make", lambda: os.mkdir(f"{state}/0123456789ab"))
"""
    found = other.tries(script, open_place / "sbx", box)
    assert set(found.values()) == {"EACCES"}, found
    assert len(found) == 9


def test_the_processes_are_closed(own: Sbx, box: str, other: Other) -> None:
    keeper = pid_of(own, box)
    (init,) = children(keeper)
    script = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def enter(fd):
    if libc.setns(fd, 0x10000000):
        raise OSError(ctypes.get_errno(), "")
for pid in map(int, sys.argv[2:]):
    attempt(f"kill {pid}", lambda: os.kill(pid, signal.SIGKILL))
    pidfd = os.pidfd_open(pid)
    attempt(f"pidfd {pid}", lambda: signal.pidfd_send_signal(pidfd, signal.SIGKILL))
    attempt(f"enter {pid}", lambda: enter(pidfd))
    for name in ("environ", "mem", "ns/user", "ns/mnt"):
        attempt(f"{name} {pid}", lambda: os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
    for name in ("root", "cwd", "fd"):
        attempt(f"{name} {pid}", lambda: os.listdir(f"/proc/{pid}/{name}"))
"""
    pids = [keeper, init, *children(init)]
    assert len(pids) == 3
    found = other.tries(script, *pids)
    assert set(found.values()) <= {"EACCES", "EPERM"}, found
    assert len(found) == 10 * len(pids)


def test_the_keeper_answers_its_user_alone(box: str, other: Other, open_place: Path) -> None:
    """Also where the way to its socket was opened by hand."""
    folder = open_place / "sbx" / box
    for path, mode in ((folder.parent, 0o755), (folder, 0o755), (folder / "control", 0o777)):
        path.chmod(mode)
    script = """
def ask(verb):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.settimeout(20)
        control.connect(sys.argv[2])
        control.send(verb)
        return socket.recv_fds(control, 64, 8)[:2]
for verb in (b"N\\0", b"K\\0", b"I\\0", b"F\\0"):
    attempt(str(verb), lambda: ask(verb))
"""
    found = other.tries(script, folder / "control")
    assert set(found.values()) <= {"(b'', [])", "EPIPE", "ECONNRESET"}, found
    assert len(found) == 4


def test_commands_find_nothing_of_another_user(
    own: Sbx, box: str, other: Other, open_place: Path
) -> None:
    for verb in ("exec", "kill", "rm", "stop", "inspect"):
        words = (verb, box, "true") if verb == "exec" else (verb, box)
        done = other.sbx(own.path, open_place, *words)
        assert done.stdout.startswith("125 "), (verb, done.stdout)
        assert f'no sandbox "{box}"' in done.stdout
    for words in (("ps", "-a"), ("prune", "-f"), ("rm", "-f", box)):
        done = other.sbx(own.path, open_place, *words)
        assert done.stdout.startswith("0 ")
        assert box not in done.stdout


def test_a_folder_of_another_user_is_not_used(
    own: Sbx, other: Other, open_place: Path, rootfs: Path
) -> None:
    """Who could put one there could read what runs in it, and answer for it."""
    open_place.chmod(0o777)
    other("os.mkdir(sys.argv[2], 0o755)", open_place / "sbx")
    done = own("run", "-d", rootfs, "sleep", "1000")
    assert done.returncode == 125
    assert f"cannot trust {open_place}/sbx" in done.stderr
    other("os.rmdir(sys.argv[2])", open_place / "sbx")


def test_another_user_cannot_answer_for_a_sandbox(
    own: Sbx, box: str, other: Other, open_place: Path
) -> None:
    folder = open_place / "sbx" / box
    folder.parent.chmod(0o755)
    folder.chmod(0o777)
    kept = folder.parent / "kept"
    (folder / "control").rename(kept)
    script = """
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.bind(sys.argv[2])
os.chmod(sys.argv[2], 0o777)
control.listen(8)
print("ready", flush=True)
sys.stdin.read()
"""
    argv = [*other._map, "--", sys.executable, "-I", "-c", BECOME + TRY + script, str(other.home)]
    with subprocess.Popen(
        [*argv, str(folder / "control")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as impostor:
        assert impostor.stdout
        assert impostor.stdout.readline() == "ready\n"
        done = own("exec", box, "true")
        assert done.returncode == 125
        assert f"user {other.uid} answers there" in done.stderr
        impostor.communicate("")
    (folder / "control").unlink()
    kept.rename(folder / "control")
