"""Hostile root file systems: the sandbox works or is refused by name; nothing outside changes."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.policy.model import Mount
from tests.conftest import Sbx
from tests.escape.conftest import Ended, Starts
from tests.support import probe

DEADLINE_S = 20
TARGETS = (
    "proc",
    "sys",
    "dev",
    "dev/pts",
    "tmp",
    "run",
    "dev/shm",
    "etc",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/passwd",
    "etc/group",
)
SWAPPED_STARTS = 72  # of each of the seven tests that swap: 500 and more together
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


def _sysrq(path: Path, _canary: Path) -> None:
    path.symlink_to("/proc/sysrq-trigger")


def _file(path: Path, _canary: Path) -> None:
    path.write_text("a file")


def _fifo(path: Path, _canary: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, _canary: Path) -> None:
    here = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as made:  # a socket's path has 107 bytes at most
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def _directory(path: Path, _canary: Path) -> None:
    path.mkdir()


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
    "sysrq": _sysrq,
    "file": _file,
    "fifo": _fifo,
    "socket": _socket,
    "directory": _directory,
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


def judge(ended: Ended, target: str) -> None:
    """It worked, or it was refused before the command ran, with the path named."""
    assert "host's secret" not in ended.out + ended.told
    if ended.code == 0:
        assert ended.out.count(" ") == 3, ended.out
        return
    assert ended.code == SETUP_FAILED, ended
    assert ended.out == ""
    assert f"/{target.split('/')[0]}" in ended.told, ended.told
    assert "internal error" not in ended.told


def odd_root(folder: Path, program: Path, target: str, shape: str, canary: Path) -> Path:
    root = probe.make_rootfs(folder / target.replace("/", "-"), program)
    for name in ("dev/pts", "dev/shm"):
        (root / name).mkdir()
    (root / "etc/resolv.conf").write_text("")
    deform(root, target, shape, canary)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize(
    ("policy", "storage"),
    [("strict", "auto"), ("strict", "copy"), ("default", "auto"), ("default", "bind")],
)
def test_odd_places(
    starts: Starts,
    probe_program: Path,
    tmp_path: Path,
    canary: Path,
    shape: str,
    policy: str,
    storage: str,
) -> None:
    for target in TARGETS:
        root = odd_root(tmp_path, probe_program, target, shape, canary)
        try:
            judge(starts(root, "/probe", "--ids", policy=policy, storage=storage), target)
            if SHAPES[shape] in (_absolute, _folder):  # nothing is written in its place
                assert os.readlink(root / target).startswith(str(canary.parent))
        finally:
            restore_modes(root)


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("target", ["etc", "etc/passwd", "etc/group"])
def test_odd_accounts(
    starts: Starts, probe_program: Path, tmp_path: Path, shape: str, target: str
) -> None:
    """The name is looked up by sbx itself: inside the root, in regular files, up to a bound."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("passwd", "group", "accounts"):
        (outside / name).write_text(f"probe:x:{os.getuid()}:{os.getgid()}::/:\n")
    root = odd_root(tmp_path, probe_program, target, shape, outside / "accounts")
    try:
        ended = starts(root, "/probe", "--ids", user="probe", group="probe")
    finally:
        restore_modes(root)
    assert (ended.code, ended.out) == (SETUP_FAILED, "")
    assert "probe" in ended.told or f"/{target}" in ended.told


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("storage", ["auto", "copy", "bind"])
def test_odd_mount_targets(
    starts: Starts, probe_program: Path, tmp_path: Path, canary: Path, shape: str, storage: str
) -> None:
    """A volume's place inside is a name of the rootfs too."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    deform(root, "srv", shape, canary)
    (tmp_path / "data").mkdir()
    volume = Mount(str(tmp_path / "data"), "/srv/deep/er")
    try:
        judge(starts(root, "/probe", "--ids", storage=storage, mounts=(volume,)), "srv")
    finally:
        restore_modes(root)
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


SWAP = """
import ctypes, signal, sys, time
libc, count = ctypes.CDLL(None), 0
one, two = (name.encode() for name in sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print(count)))
while True:
    count += libc.renameat2(-100, one, -100, two, 2) == 0  # RENAME_EXCHANGE
    if count % 64 == 0:
        time.sleep(0.0005)  # two cores: the starts need one
"""


@contextlib.contextmanager
def swapping(one: Path, two: Path) -> Iterator[None]:
    """A process that exchanges two names over and over, as a neighbour of the folder could."""
    words = [sys.executable, "-I", "-S", "-c", SWAP, str(one), str(two)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        try:
            yield
        finally:
            other.terminate()
            count = other.communicate(timeout=10)[0]
    assert int(count) > SWAPPED_STARTS


def start_often(starts: Starts, root: Path, *mounts: Mount, storage: str = "auto") -> list[int]:
    """Each start ends within its deadline, and works or is refused."""
    codes = []
    for _ in range(SWAPPED_STARTS):
        ended = starts(root, "/probe", "--ids", storage=storage, mounts=mounts)
        assert ended.code in (0, SETUP_FAILED), ended
        assert "internal error" not in ended.told
        assert "host's secret" not in ended.out + ended.told
        codes.append(ended.code)
    return codes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "storage"),
    [("proc", "auto"), ("dev", "auto"), ("etc", "auto"), ("srv", "auto"), ("srv", "bind")],
)
def test_exchange_in_the_rootfs(
    starts: Starts, probe_program: Path, tmp_path: Path, canary: Path, target: str, storage: str
) -> None:
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    (root / "swap").symlink_to(canary.parent)
    (root / "srv/sub").mkdir()
    data = tmp_path / "data"
    data.mkdir()
    (data / "mark").write_text("")
    with swapping(root / target, root / "swap"):
        start_often(starts, root, Mount(str(data), "/srv/sub"), storage=storage)
    assert [p.name for p in data.iterdir()] == ["mark"]


@pytest.mark.slow
def test_exchange_in_a_bind(starts: Starts, probe_program: Path, tmp_path: Path) -> None:
    """The neighbour owns a volume in which a second volume has its place."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    shared, inner = tmp_path / "shared", tmp_path / "inner"
    (shared / "place").mkdir(parents=True)
    (shared / "link").symlink_to("/etc")
    inner.mkdir()
    mounts = Mount(str(shared), "/srv"), Mount(str(inner), "/srv/place")
    with swapping(shared / "place", shared / "link"):
        start_often(starts, root, *mounts)
    # On the way through the link it lands on /etc, where /etc/hosts needs its place.
    assert [p.name for p in inner.iterdir() if p.stat().st_size or p.name != "hosts"] == []


@pytest.mark.slow
def test_exchange_in_a_kept_layer(sbx: Sbx, probe_program: Path, tmp_path: Path) -> None:
    """The neighbour owns the folder above the layer, and exchanges its folders for links."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    keep, outside = _kept(sbx, root, tmp_path)
    before = sorted(outside.rglob("*"))
    for name in ("upper", "work"):
        (keep / f"{name}.link").symlink_to(outside / name)
    with (
        swapping(keep / "upper", keep / "upper.link"),
        swapping(keep / "work", keep / "work.link"),
    ):
        for _ in range(SWAPPED_STARTS // 3):
            done = sbx("run", "--persist", keep, root, "/probe", "--ids")
            assert done.returncode in (0, SETUP_FAILED), done
            assert sorted(outside.rglob("*")) == before


@pytest.mark.slow
def test_exchange_of_a_source(starts: Starts, probe_program: Path, tmp_path: Path) -> None:
    """The source of a volume is a link to the host's secret every other moment. Whoever can do
    that outside may decide what is shown; the sandbox must see one or the other, never half."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    shared = tmp_path / "shared"
    (shared / "place").mkdir(parents=True)
    (shared / "link").symlink_to("/etc")
    source = Mount(str(shared / "place"), "/srv", read_only=True)
    with swapping(shared / "place", shared / "link"):
        start_often(starts, root, source)


def _kept(sbx: Sbx, root: Path, folder: Path) -> tuple[Path, Path]:
    """A layer of an earlier run, and a folder of the host with what a layer's would have."""
    keep, outside = folder / "keep", folder / "outside"
    done = sbx("run", "--persist", keep, root, "/probe", "--ids")
    assert done.returncode == 0, done
    for name in ("upper", "work"):
        (outside / name).mkdir(parents=True)
    (outside / "upper" / "secret").write_text("secret")
    return keep, outside


@pytest.mark.parametrize("names", [("upper", "work"), ("upper",), ("work",)])
def test_links_in_a_kept_layer_lead_nowhere(
    sbx: Sbx, probe_program: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """The layer lay in what an earlier sandbox could write to. Followed, a folder of the host
    would be the next one's root file system."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    keep, outside = _kept(sbx, root, tmp_path)
    before = sorted(outside.rglob("*"))
    for name in names:
        (keep / name).rename(keep / f"{name}.old")
        (keep / name).symlink_to(outside / name)
    done = sbx("run", "--persist", keep, root, "/probe", "--ids")
    assert done.returncode == SETUP_FAILED, done
    assert "upper and work of a kept layer must be folders" in done.stderr
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("target", ["proc", "dev"])
@pytest.mark.parametrize("policy", ["strict", "default"])
def test_kernel_directories_are_not_reached_through_links(
    sbx: Sbx, probe_program: Path, tmp_path: Path, target: str, policy: str
) -> None:
    """Followed, the masks and locks below /proc would cover nothing."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    (root / target).rmdir()
    (root / target).symlink_to("srv")
    done = sbx("run", "--policy", policy, root, "/probe", "--ids")
    assert done.returncode == SETUP_FAILED, done
    assert f"/{target}" in done.stderr


def test_a_chroot_inside_leads_nowhere(sbx: Sbx, attack_rootfs: Path) -> None:
    """User 0 of ci may chroot: the way out of it ends at the sandbox's own root."""
    done = sbx("run", "--policy", "ci", "--user", "0", attack_rootfs, "/attack", "chroot")
    assert done.returncode == 0, done
    assert "attack" in done.stdout.split(), done.stdout


def test_set_user_id_programs_of_the_root_gain_nothing(
    sbx: Sbx, attack_rootfs: Path, probe_program: Path, tmp_path: Path
) -> None:
    """A first sandbox makes them, as its user 0, in what is the next one's root."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    done = sbx("run", "--user", "0", "-v", f"{root}:/srv", attack_rootfs, "/attack", "give", "5")
    assert done.returncode == 0, done
    made = (root / "probe").stat()
    assert made.st_mode & 0o6000 == 0o6000
    assert made.st_uid != os.getuid()
    for policy in ("strict", "default", "permissive"):
        done = sbx("run", "--policy", policy, root, "/probe", "--ids")
        ids = f"{os.getuid()} {os.getuid()} {os.getgid()} {os.getgid()}\n"
        assert (done.returncode, done.stdout) == (0, ids), done
    sbx("run", "--user", "0", "-v", f"{root}:/srv", attack_rootfs, "/attack", "give", "0")
