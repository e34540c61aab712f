"""Each right that Landlock refuses under strict, with the other layers out of the way."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.host.attempt import attempt
from tests.conftest import Sbx
from tests.support import probe

# Read-only mounts, the filter and the network namespace would refuse the same things.
ALONE = """
summary = "strict with Landlock alone"
extends = "strict"

[filesystem]
read_only = false
"""
OFF = f"""{ALONE}
[landlock]
fs = "none"
tcp = false
ioctl_dev = false
scopes = []
"""
READ = ("execute", "read_file", "read_dir")
# Each right, the ABI that brought it, and what its refusal looks like.
REFUSED = {
    "write_file": (1, errno.EACCES),
    "make_char": (1, errno.EACCES),
    "make_dir": (1, errno.EACCES),
    "make_reg": (1, errno.EACCES),
    "make_sock": (1, errno.EACCES),
    "make_fifo": (1, errno.EACCES),
    "make_sym": (1, errno.EACCES),
    "refer": (1, errno.EACCES),
    "remove_file": (1, errno.EACCES),
    "remove_dir": (1, errno.EACCES),
    "truncate": (3, errno.EACCES),
    "bind_tcp": (4, errno.EACCES),
    "connect_tcp": (4, errno.EACCES),
    "ioctl_dev": (5, errno.EACCES),
    "abstract_unix_socket": (6, errno.EPERM),
    "signal": (6, errno.EPERM),
}
NOT_FILES = ("bind_tcp", "connect_tcp", "ioctl_dev", "abstract_unix_socket", "signal")
# Without Landlock: nobody listens on that port; overlay keeps whiteouts for itself.
FREE = {"connect_tcp": (errno.ECONNREFUSED,), "make_char": (0, errno.EPERM)}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rights") / "rights"
    problem = probe.build(out, Path(probe.__file__).with_name("rights.c"))
    if problem:
        pytest.skip(problem)
    return out


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that only ends."""
    folder = tmp_path_factory.mktemp("nothing")
    (folder / "nothing.c").write_text("int main(void){return 0;}\n")
    problem = probe.build(folder / "nothing", folder / "nothing.c")
    if problem:
        pytest.skip(problem)
    return folder / "nothing"


def furnish(folder: Path, nothing: Path) -> Path:
    """What the program tries its rights on."""
    for name in ("folder", "other", "gone-too"):
        (folder / name).mkdir(parents=True)
    for name in ("file", "gone", "folder/moves"):
        (folder / name).write_text("text")
    shutil.copy2(nothing, folder / "program")
    return folder


@pytest.fixture
def root(program: Path, nothing: Path, tmp_path: Path) -> Path:
    made = probe.make_rootfs(tmp_path / "rootfs", program)
    furnish(made / "data", nothing)
    return made


@pytest.fixture
def name() -> Iterator[str]:
    """An abstract socket of the host that listens."""
    name = f"sbx-rights-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        yield name


def rights(sbx: Sbx, tmp_path: Path, policy: str, *words: object) -> dict[str, int]:
    """The errno of each right under `policy`, in the host's network, without a filter."""
    file = tmp_path / "policy.toml"
    file.write_text(policy)
    open_up = ("--policy", file, "--network", "host", "--security-opt", "seccomp=unconfined")
    done = sbx("run", *open_up, *words)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[-1] == ["end", "0"], done.stdout
    return {right: int(number) for right, number in lines[:-1]}


def expected(right: str) -> tuple[int, ...]:
    first, refusal = REFUSED[right]
    abi = attempt("landlock").value
    assert isinstance(abi, int)
    return (refusal,) if abi >= first else FREE.get(right, (0,))


def test_the_root_is_read_and_executed(sbx: Sbx, root: Path, tmp_path: Path, name: str) -> None:
    found = rights(sbx, tmp_path, ALONE, root, "/probe", "/data", name)
    assert set(found) == {*READ, *REFUSED}
    assert {right: found[right] for right in READ} == dict.fromkeys(READ, 0)
    wrong = {right: found[right] for right in REFUSED if found[right] not in expected(right)}
    assert wrong == {}


def test_without_landlock_all_of_it_is_allowed(
    sbx: Sbx, root: Path, tmp_path: Path, name: str
) -> None:
    """So what the other test sees refused is refused by Landlock."""
    found = rights(sbx, tmp_path, OFF, root, "/probe", "/data", name)
    assert {r: n for r, n in found.items() if n not in FREE.get(r, (0,))} == {}


def test_writable_mounts_are_written(
    sbx: Sbx, root: Path, nothing: Path, tmp_path: Path, name: str
) -> None:
    data = furnish(tmp_path / "volume", nothing)
    found = rights(sbx, tmp_path, ALONE, "-v", f"{data}:/mnt", root, "/probe", "/mnt", name)
    files = {right: number for right, number in found.items() if right not in NOT_FILES}
    assert {r: n for r, n in files.items() if n not in FREE.get(r, (0,))} == {}
    assert (data / "other/moves").exists()


def test_read_only_mounts_are_not(
    sbx: Sbx, root: Path, nothing: Path, tmp_path: Path, name: str
) -> None:
    data = furnish(tmp_path / "volume", nothing)
    found = rights(sbx, tmp_path, ALONE, "-v", f"{data}:/mnt:ro", root, "/probe", "/mnt", name)
    written = {r: n for r, n in found.items() if r in REFUSED and r not in NOT_FILES}
    assert [r for r, n in written.items() if n not in (errno.EACCES, errno.EROFS)] == []
    assert (data / "folder/moves").exists()


def test_writing_goes_no_further_than_the_mount(
    sbx: Sbx, root: Path, nothing: Path, tmp_path: Path, name: str
) -> None:
    """A link in a writable folder to the root gives no right there."""
    data = tmp_path / "volume"
    furnish(data, nothing)
    (data / "file").unlink()
    (data / "file").symlink_to("/data/file")
    found = rights(sbx, tmp_path, ALONE, "-v", f"{data}:/mnt", root, "/probe", "/mnt", name)
    assert (found["write_file"], found["make_reg"]) == (errno.EACCES, 0)
