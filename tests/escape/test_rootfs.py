"""Hostile root file systems: the sandbox works or is refused by name; nothing outside changes."""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support import probe

DEADLINE_S = 20
TARGETS = (
    "proc",
    "sys",
    "dev",
    "dev/pts",
    "tmp",
    "run",
    "etc",
    "etc/hosts",
    "etc/passwd",
    "etc/group",
)
RENAME_EXCHANGE = 2
SWAPPED_STARTS = 50
SETUP_FAILED = 125

Shape = Callable[[Path, Path], None]


def _absolute(path: Path, canary: Path) -> None:
    path.symlink_to(canary)


def _relative(path: Path, canary: Path) -> None:
    path.symlink_to("../" * 30 + str(canary)[1:])


def _folder(path: Path, canary: Path) -> None:
    path.symlink_to(canary.parent)


def _loop(path: Path, _canary: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path, canary: Path) -> None:
    path.symlink_to(canary.parent / "made-by-the-sandbox")


def _magic(path: Path, _canary: Path) -> None:
    path.symlink_to("/proc/self/fd/5")


def _kernel(path: Path, _canary: Path) -> None:
    path.symlink_to("/proc/sys/kernel/core_pattern")


def _file(path: Path, _canary: Path) -> None:
    path.write_text("a file")


def _fifo(path: Path, _canary: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, _canary: Path) -> None:
    here = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as made:  # a socket's path has 107 bytes at most
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def _locked(path: Path, _canary: Path) -> None:
    path.mkdir()
    path.chmod(0)


def _missing(_path: Path, _canary: Path) -> None:
    return


def _sparse(path: Path, _canary: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


SHAPES: dict[str, Shape] = {
    "absolute": _absolute,
    "relative": _relative,
    "folder": _folder,
    "loop": _loop,
    "dangling": _dangling,
    "magic": _magic,
    "kernel": _kernel,
    "file": _file,
    "fifo": _fifo,
    "socket": _socket,
    "locked": _locked,
    "missing": _missing,
    "sparse": _sparse,
}


def deform(root: Path, target: str, shape: str, canary: Path) -> None:
    """Put the shape where the rootfs has `target`."""
    path = root / target
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    SHAPES[shape](path, canary)


def restore_modes(root: Path) -> None:
    """Let the temporary folder be removed."""
    for folder in (root, *root.rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)


def judge(done: subprocess.CompletedProcess[str], target: str) -> None:
    """It worked, or it was refused before the command ran, with the path named."""
    assert "host's secret" not in done.stdout + done.stderr
    if done.returncode == 0:
        assert done.stdout.endswith("ids\n") or done.stdout.count(" ") == 3, done.stdout
        return
    assert done.returncode == SETUP_FAILED, done
    assert f"/{target.split('/')[0]}" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("policy", ["strict", "default"])
def test_odd_places(
    sbx: Sbx, probe_program: Path, tmp_path: Path, canary: Path, shape: str, policy: str
) -> None:
    for number, target in enumerate(TARGETS):
        root = probe.make_rootfs(tmp_path / str(number), probe_program)
        (root / "dev/pts").mkdir()
        deform(root, target, shape, canary)
        try:
            done = sbx("run", "--policy", policy, root, "/probe", "--ids", timeout=DEADLINE_S)
            judge(done, target)
        finally:
            restore_modes(root)


@pytest.mark.parametrize("shape", ["absolute", "folder", "loop", "fifo", "socket", "sparse"])
def test_odd_places_in_a_copy(
    sbx: Sbx, probe_program: Path, tmp_path: Path, canary: Path, shape: str
) -> None:
    """With --storage copy the rootfs is read by the caller's own rights."""
    for number, target in enumerate(("etc", "etc/passwd", "tmp")):
        root = probe.make_rootfs(tmp_path / str(number), probe_program)
        (root / "dev/pts").mkdir()
        deform(root, target, shape, canary)
        words = ("--storage", "copy", root, "/probe", "--ids")
        judge(sbx("run", *words, timeout=DEADLINE_S), target)
        if shape in ("absolute", "folder"):
            link = os.readlink(root / target)
            assert link.startswith(str(canary.parent))


@pytest.mark.parametrize("shape", ["absolute", "folder", "relative", "dangling", "magic", "fifo"])
def test_odd_mount_targets(
    sbx: Sbx, probe_program: Path, tmp_path: Path, canary: Path, shape: str
) -> None:
    """A volume's place inside is a name of the rootfs too."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    deform(root, "srv", shape, canary)
    (tmp_path / "data").mkdir()
    words = ("-v", f"{tmp_path}/data:/srv/deep/er", root, "/probe", "--ids")
    judge(sbx("run", *words, timeout=DEADLINE_S), "srv")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("number", range(3, 24))
def test_workdir_through_a_descriptor(
    sbx: Sbx, probe_program: Path, tmp_path: Path, number: int
) -> None:
    """A directory that the launcher holds open lies outside of the root."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    (root / "work").symlink_to(f"/proc/self/fd/{number}")
    words = ("--policy", "default", "--workdir", "/work", root, "/probe")
    done = sbx("run", *words, timeout=DEADLINE_S)
    if done.returncode == SETUP_FAILED:
        return
    assert probe.parse(done.stdout)["cwd"] == ""


@pytest.mark.parametrize(
    "line",
    [
        b"x:x:%d:0:\x1b[31m:/\x1b]0;own\x07:/bin/\xff\xfe\n",
        b"x:x:%d:99999999999999999999::/:\n",
        b"x:x:%d:-1::/:\n",
        b":" * 100_000 + b"%d\n",
        b"%d\n" * 100_000,
        b"x:x:%d:0::/root\nINJECTED=1:/bin/sh\n",
    ],
)
def test_account_lines(sbx: Sbx, probe_program: Path, tmp_path: Path, line: bytes) -> None:
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    (root / "etc/passwd").write_bytes(line.replace(b"%d", str(os.getuid()).encode()))
    done = sbx("run", "--policy", "strict", root, "/probe", timeout=DEADLINE_S)
    if done.returncode == SETUP_FAILED:
        assert done.stderr.isprintable() or done.stderr.replace("\n", "").isprintable()
        return
    found = probe.parse(done.stdout)
    # The rootfs may name a group; whichever number it names is the caller's own group outside.
    assert {n: w for n, w in probe.leaks(found).items() if n != "ids"} == {}
    assert found["ids"] in ("", f"{os.getuid()}:0")
    assert "INJECTED" not in found["environment"]


@pytest.mark.parametrize("target", ["proc", "sys", "dev", "tmp", "run"])
def test_the_program_is_the_launcher_itself(
    sbx: Sbx, probe_program: Path, tmp_path: Path, target: str
) -> None:
    """/proc/self/exe as the command is the sealed launcher: it must do nothing without a plan."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    (root / "link").symlink_to("/proc/self/exe")
    (root / "script").write_bytes(b"#!/proc/self/fd/101\n")
    (root / "script").chmod(0o755)
    for command in ("/proc/self/exe", "/link", "/script", f"/{target}"):
        done = sbx("run", root, command, timeout=DEADLINE_S)
        assert done.returncode in (125, 126, 127), (command, done)
        assert done.stdout == ""


class Swapper:
    """Exchanges two names over and over, as a neighbour who shares the folder could."""

    def __init__(self, one: Path, two: Path) -> None:
        self._names = (os.fsencode(one), os.fsencode(two))
        self._libc = ctypes.CDLL(None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            self._libc.renameat2(-100, self._names[0], -100, self._names[1], RENAME_EXCHANGE)
            self.count += 1
            if self.count % 64 == 0:
                time.sleep(0.0005)  # two cores: the starts need one

    def __enter__(self) -> "Swapper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def start_often(sbx: Sbx, words: tuple[object, ...]) -> list[subprocess.CompletedProcess[str]]:
    """Each start ends within its deadline, and works or is refused."""
    ended = []
    for _ in range(SWAPPED_STARTS):
        done = sbx("run", *words, timeout=DEADLINE_S)
        assert done.returncode in (0, SETUP_FAILED), done
        assert "Traceback" not in done.stderr
        ended.append(done)
    return ended


@pytest.mark.slow
@pytest.mark.parametrize("target", ["dev", "etc", "srv"])
def test_exchange_in_the_rootfs(
    sbx: Sbx, probe_program: Path, tmp_path: Path, canary: Path, target: str
) -> None:
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    (root / "swap").symlink_to(canary.parent)
    data = tmp_path / "data"
    data.mkdir()
    (data / "mark").write_text("")
    words = ("-v", f"{data}:/srv/sub/", root, "/probe", "--ids")
    with Swapper(root / target, root / "swap") as swapper:
        start_often(sbx, words)
    assert swapper.count > SWAPPED_STARTS
    assert [p.name for p in data.iterdir()] == ["mark"]


@pytest.mark.slow
def test_exchange_in_a_bind(sbx: Sbx, probe_program: Path, tmp_path: Path) -> None:
    """The neighbour owns a volume in which a second volume has its place."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    shared, inner = tmp_path / "shared", tmp_path / "inner"
    (shared / "place").mkdir(parents=True)
    (shared / "link").symlink_to("/etc")
    inner.mkdir()
    words = ("-v", f"{shared}:/srv", "-v", f"{inner}:/srv/place", root, "/probe", "--ids")
    with Swapper(shared / "place", shared / "link"):
        start_often(sbx, words)
    # On the way through the link it lands on /etc, where /etc/hosts needs its place.
    assert [p.name for p in inner.iterdir() if p.stat().st_size or p.name != "hosts"] == []


@pytest.mark.slow
def test_exchange_of_a_source(sbx: Sbx, probe_program: Path, tmp_path: Path) -> None:
    """The source of a volume is a link to the host's secret every other moment. Whoever can do
    that outside may decide what is shown; the sandbox must see one or the other, never half."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    shared = tmp_path / "shared"
    (shared / "place").mkdir(parents=True)
    (shared / "link").symlink_to("/etc")
    words = ("-v", f"{shared}/place:/srv:ro", root, "/probe", "--ids")
    with Swapper(shared / "place", shared / "link"):
        start_often(sbx, words)
