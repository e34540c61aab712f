"""Files into and out of a living sandbox, whatever lies there and whatever its processes do."""

from __future__ import annotations

import io
import os
import signal
import stat
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.errors import (
    SandboxFileError,
    SandboxFileNotFound,
    SandboxIsADirectory,
    SandboxNotADirectory,
    SandboxPermissionError,
    SbxError,
    StateError,
)
from sandbox.runtime.files import Bounds, Files, copy_in, copy_out, read_file, write_file
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import Folder
from tests.conftest import Sbx
from tests.support.living import living, shell


@pytest.fixture
def box(rootfs: Path) -> Iterator[Folder]:
    with living(rootfs) as folder:
        yield folder


@pytest.fixture
def debian_box(debian: Path) -> Iterator[Folder]:
    with living(debian, identity={"user": "0", "map": "range"}) as folder:
        yield folder


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the host, where a link that is followed on the host would lead."""
    file = tmp_path / "canary"
    file.write_text("secret")
    return file


def below(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def test_a_file_goes_in_and_comes_back(box: Folder) -> None:
    data = os.urandom(300_000)
    write_file(box, "/tmp/data", data, mode=0o640)
    assert read_file(box, "/tmp/data") == data
    assert shell(box, "stat -c '%a %u %g %s' /tmp/data; id -u").split() == [
        "640",
        str(os.getuid()),
        str(os.getgid()),
        "300000",
        str(os.getuid()),
    ]


def test_the_errors_are_those_of_files(box: Folder) -> None:
    with Files(box) as files:
        with pytest.raises(SandboxFileNotFound) as missing:
            files.read("/nothing")
        assert isinstance(missing.value, FileNotFoundError)
        with pytest.raises(SandboxIsADirectory):
            files.read("/etc")
        with pytest.raises(SandboxNotADirectory):
            files.read("/etc/passwd/x")
        with pytest.raises(SandboxIsADirectory):
            files.write("/etc", b"")
        with pytest.raises(SandboxFileNotFound):
            files.write("/no/folder", b"")
        assert files.read("/etc/passwd")  # and it goes on


def test_a_command_copies_both_ways(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "file").write_text("content")
    (source / "link").symlink_to("deep/er/file")
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o4755)
    name = sbx("run", "-d", rootfs, "sleep", "1000").stdout.strip()
    try:
        tree = ["deep", "deep/er", "deep/er/file", "link", "run"]
        for arguments in (
            ("cp", source, f"{name}:/tmp"),
            ("cp", source, f"{name}:/tmp/new"),
            ("cp", f"{source}/.", f"{name}:/tmp/source"),
            ("cp", f"{name}:/tmp/new", tmp_path / "back"),
            ("cp", f"{name}:/tmp/source", tmp_path / "back"),
            ("cp", f"{name}:/tmp/source/.", tmp_path / "back" / "deep"),
        ):
            done = sbx(*arguments)
            assert (done.returncode, done.stderr) == (0, ""), arguments
        found = below(tmp_path / "back")
        assert found == sorted(
            [*tree, "source", *(f"source/{p}" for p in tree), *(f"deep/{p}" for p in tree)]
        )
        assert stat.S_IMODE((tmp_path / "back" / "run").stat().st_mode) == 0o755
        assert (tmp_path / "back" / "link").is_symlink()
        assert sbx("cp", f"{name}:/tmp/new/link", tmp_path / "l").returncode == 0
        assert sbx("cp", "-L", f"{name}:/tmp/new/link", tmp_path / "f").returncode == 0
        assert os.readlink(tmp_path / "l") == "deep/er/file"
        assert (tmp_path / "f").read_text() == "content"
    finally:
        end(sbx, name)


def end(sbx: Sbx, name: str) -> None:
    from sandbox.runtime import registry

    with pytest.MonkeyPatch.context() as patch:
        for key, value in sbx.env.items():
            patch.setenv(key, value)
        folder = registry.find(name)
    with Keeper(folder) as kept:
        kept.kill()
        assert kept.wait(10)
    assert folder.remove()
    folder.close()


def test_tar_streams(sbx: Sbx, rootfs: Path) -> None:
    name = sbx("run", "-d", rootfs, "sleep", "1000").stdout.strip()
    try:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            archive.addfile(entry("a/b", size=3), io.BytesIO(b"abc"))
            archive.addfile(entry("a", kind=tarfile.DIRTYPE, mode=0o750))
        assert sbx("cp", "-", f"{name}:/tmp", input=stream.getvalue()).returncode == 0
        done = sbx("cp", f"{name}:/tmp/a", "-")
        data = done.stdout.encode("utf-8", "surrogateescape")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            assert archive.getnames() == ["a", "a/b"]
            assert archive.extractfile("a/b").read() == b"abc"  # type: ignore[union-attr]
        assert sbx("cp", "-", f"{name}:/tmp", input=b"no archive" * 100).returncode == 1
        assert sbx("cp", "-", f"{name}:/nothing", input=stream.getvalue()).returncode == 1
        assert sbx("cp", "a", "b").returncode == 2
        assert sbx("cp", f"{name}:/a", f"{name}:/b").returncode == 2
    finally:
        end(sbx, name)


def entry(
    name: str, *, kind: bytes = tarfile.REGTYPE, size: int = 0, mode: int = 0o644, link: str = ""
) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.size, found.mode, found.linkname = kind, size, mode, link
    found.uid = found.gid = 0
    return found


def archive_of(*entries: tarfile.TarInfo) -> int:
    """A descriptor of an archive whose files hold zeros."""
    fd = os.memfd_create("archive")
    with os.fdopen(fd, "wb", closefd=False) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for info in entries:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/../out"])
def test_an_archive_does_not_lead_out_of_its_folder(box: Folder, name: str) -> None:
    source = archive_of(entry("before"), entry(name))
    with Files(box) as files, pytest.raises(SandboxFileError, match="leads out"):
        files.unpack(source, "/tmp")
    os.close(source)
    assert shell(box, "ls /tmp /").split().count("out") == 0


def test_an_archive_does_not_go_through_its_own_links(box: Folder, tmp_path: Path) -> None:
    for link in (str(tmp_path), "/etc"):
        name = link.replace("/", "_")
        source = archive_of(entry(name, kind=tarfile.SYMTYPE, link=link), entry(f"{name}/planted"))
        with Files(box) as files, pytest.raises(SandboxNotADirectory):
            files.unpack(source, "/tmp")
        os.close(source)
    assert below(tmp_path) == []
    assert "planted" not in shell(box, "ls /etc")


def test_odd_entries_of_an_archive_are_left_out(box: Folder) -> None:
    source = archive_of(
        entry("pipe", kind=tarfile.FIFOTYPE),
        entry("disk", kind=tarfile.BLKTYPE),
        entry("hard", kind=tarfile.LNKTYPE, link="/etc/passwd"),
        entry("/absolute", mode=0o6755),
    )
    with Files(box) as files:
        files.unpack(source, "/tmp")
        assert len(files.notes()) == 3
    os.close(source)
    assert shell(box, "cd /tmp; stat -c '%n %a' *") == "absolute 755\n"


# ---- what lies there -----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{canary}", "../../../../../../../../..{canary}"])
def test_links_mean_what_they_mean_inside(
    box: Folder, canary: Path, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "out"
    target = text.format(canary=canary)
    shell(box, f"ln -s {target} /tmp/file; ln -s {os.path.dirname(target)} /tmp/folder")
    for path in ("/tmp/file", "/tmp/folder/canary"):
        with pytest.raises(SandboxFileNotFound):
            read_file(box, path)
        with pytest.raises(SandboxFileNotFound):
            copy_out(box, path, str(out), follow=True)
    with pytest.raises(SandboxFileNotFound):
        write_file(box, "/tmp/folder/new", b"x")
    with pytest.raises(SandboxFileNotFound):
        write_file(box, "/tmp/file", b"x")
    copy_out(box, "/tmp", str(out))
    assert os.readlink(out / "file") == target
    assert (canary.read_text(), below(tmp_path)) == (
        "secret",
        ["canary", "out", "out/file", "out/folder"],
    )


def test_links_of_the_caller_are_not_followed_below_a_destination(
    box: Folder, canary: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").symlink_to(canary)
    (out / "folder").symlink_to(tmp_path)
    shell(box, "cd /tmp; mkdir a a/folder; echo x >a/file; echo x >a/folder/planted")
    with pytest.raises(SandboxNotADirectory):
        copy_out(box, "/tmp/a/.", str(out))
    assert canary.read_text() == "secret"
    assert (out / "file").read_text() == "x\n"
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    "path", ["/proc/version", "/proc/self/environ", "/proc/1/root/etc/passwd", "/dev/null"]
)
def test_what_the_kernel_makes_up_is_refused(box: Folder, tmp_path: Path, path: str) -> None:
    shell(box, f"ln -s {path} /tmp/link")
    for name in (path, "/tmp/link"):
        with pytest.raises(SandboxFileError):
            read_file(box, name)
        with pytest.raises(SandboxFileError):
            copy_out(box, name, str(tmp_path / "out"), follow=True)
        with pytest.raises(SandboxFileError):
            write_file(box, name, b"x")
    assert below(tmp_path) == []


def test_nothing_is_written_to_proc_sys_and_dev(box: Folder) -> None:
    for path in ("/proc/new", "/dev/new", "/dev/pts/new"):
        with pytest.raises(SandboxPermissionError):
            write_file(box, path, b"")
    source = archive_of(entry("proc/sys/kernel/core_pattern"), entry("dev/new"))
    with Files(box) as files, pytest.raises(SandboxPermissionError):
        files.unpack(source, "/")
    os.close(source)
    assert "new" not in shell(box, "ls /dev")


def test_special_files_are_neither_opened_nor_copied(debian_box: Folder, tmp_path: Path) -> None:
    shell(
        debian_box,
        "cd /tmp; mkdir t; mkfifo t/fifo; echo x >t/file; "
        "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local=>q(t/socket),Listen=>1) or die'",
    )
    for name in ("fifo", "socket"):
        with pytest.raises(SandboxFileError):
            read_file(debian_box, f"/tmp/t/{name}")
        with pytest.raises(SandboxFileError):
            copy_out(debian_box, f"/tmp/t/{name}", str(tmp_path / "out"))
    notes = copy_out(debian_box, "/tmp/t", str(tmp_path / "out"))
    assert (len(notes), below(tmp_path / "out")) == (2, ["file"])


def test_bounds(box: Folder, tmp_path: Path) -> None:
    shell(
        box,
        "cd /tmp; dd of=huge bs=1 count=0 seek=10G 2>&1; mkdir wide; cd wide; touch $(seq 50); "
        "mkdir ../deep; cd ../deep; for i in $(seq 230); do mkdir d; cd d; done",
    )
    out = str(tmp_path / "out")
    with pytest.raises(SandboxFileError, match="more than"):
        read_file(box, "/tmp/huge")
    with pytest.raises(SandboxFileError, match="more than 8589934592 bytes"):
        copy_out(box, "/tmp/huge", out)
    with pytest.raises(SandboxFileError, match="more than 50 entries"):
        copy_out(box, "/tmp/wide", out, Bounds(entries=50))
    with pytest.raises(SandboxFileError, match="200 folders"):
        copy_out(box, "/tmp/deep", out)
    assert copy_out(box, "/tmp/wide", str(tmp_path / "wide"), Bounds(entries=51)) == []


def test_holes_stay_holes(box: Folder, tmp_path: Path) -> None:
    shell(box, "cd /tmp; dd of=sparse bs=1 count=0 seek=64M 2>&1; echo end >>sparse")
    copy_out(box, "/tmp/sparse", str(tmp_path / "sparse"))
    found = (tmp_path / "sparse").stat()
    assert (found.st_size, found.st_blocks < 4096) == ((64 << 20) + 4, True)
    copy_in(box, str(tmp_path / "sparse"), "/tmp/again")
    assert shell(box, "cd /tmp; cmp sparse again || true; stat -c %s again").split()[-1] == str(
        found.st_size
    )


NAMES = [
    b"\xff\xfe",
    b"a\nb",
    b"\x1b[31mred",
    b" ",
    b"-rf",
    b"...",
    b"\\x",
    "ü".encode(),
    b"n" * 255,
]


def test_odd_names_stay_as_they_are(box: Folder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in NAMES:
        (source / os.fsdecode(name)).write_bytes(name)
    os.symlink(b"\xff\n", os.fsencode(source / "link"))
    copy_in(box, str(source), "/tmp/odd")
    copy_out(box, "/tmp/odd", str(tmp_path / "back"))
    back = os.fsencode(tmp_path / "back")
    assert sorted(os.listdir(back)) == sorted([*NAMES, b"link"])
    assert all((Path(os.fsdecode(back)) / os.fsdecode(n)).read_bytes() == n for n in NAMES)
    assert os.readlink(back + b"/link") == b"\xff\n"


def test_files_of_other_ids_come_out_as_the_caller_s(debian_box: Folder, tmp_path: Path) -> None:
    shell(
        debian_box,
        "cd /tmp; mkdir -m 700 t; echo x >t/f; chmod 4600 t/f; chown -R 1234:5678 t; "
        "echo y >u; chown 65534 u; chmod 0 u",
    )
    assert read_file(debian_box, "/tmp/t/f") == b"x\n"
    assert read_file(debian_box, "/tmp/u") == b"y\n"
    copy_out(debian_box, "/tmp/t", str(tmp_path / "t"))
    found = (tmp_path / "t" / "f").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.getuid(), 0o600)
    write_file(debian_box, "/tmp/t/mine", b"", user="games")
    copy_in(debian_box, str(tmp_path / "t"), "/tmp/in", keep_owners=False)
    owners = shell(debian_box, "stat -c '%u:%g' /tmp/t/mine /tmp/in/f; id -u games; id -g games")
    mine, back, *games = owners.split()
    assert (mine, back) == (":".join(games), "0:0")
    source = archive_of(entry("kept"))
    with Files(debian_box) as files:
        files.unpack(source, "/tmp", keep_owners=True)
    os.close(source)
    assert shell(debian_box, "stat -c %u:%g /tmp/kept") == "0:0\n"


# ---- what is mounted there -----------------------------------------------------------------


def test_mounts_stay_mounted(rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("outside")
    (tmp_path / "folder").mkdir()
    mounts = [
        {"source": str(tmp_path / "file"), "target": "/srv/file"},
        {"source": str(tmp_path / "folder"), "target": "/srv/folder", "read_only": True},
    ]
    with living(rootfs, filesystem={"mounts": mounts}) as box:
        with pytest.raises(SandboxFileError, match="something is mounted there"):
            write_file(box, "/srv/file", b"new")
        source = archive_of(entry("srv/file"))
        with Files(box) as files, pytest.raises(SandboxFileError, match="something is mounted"):
            files.unpack(source, "/")
        os.close(source)
        with pytest.raises(SandboxFileError, match="read-only file system"):
            write_file(box, "/srv/folder/new", b"new")
        assert read_file(box, "/srv/file") == b"outside"
        assert shell(box, "cat /srv/file; cat /proc/self/mountinfo").count("/srv/") == 2
    assert (tmp_path / "file").read_text() == "outside"
    assert below(tmp_path) == ["file", "folder"]


def test_a_masked_path_stays_masked(rootfs: Path) -> None:
    with living(rootfs, filesystem={"masked": ["/etc/passwd"]}) as box:
        assert read_file(box, "/etc/passwd") == b""
        with pytest.raises(SandboxFileError, match="something is mounted there"):
            write_file(box, "/etc/passwd", b"x")
        assert shell(box, "cat /etc/passwd") == ""


def test_a_read_only_sandbox(rootfs: Path) -> None:
    with living(rootfs, filesystem={"read_only": True, "root": "bind"}) as box:
        with pytest.raises(SandboxFileError, match="read-only file system"):
            write_file(box, "/new", b"")
        assert read_file(box, "/etc/passwd")


# ---- what its processes do meanwhile -------------------------------------------------------

SWAP = """
cd /tmp; mkdir real; echo inside >real/file; ln -s {host} aside
while :; do
    mv -T real was; mv -T aside real; mv -T real aside; rm -rf real; mv -T was real
done 2>/dev/null
"""


def test_folders_that_become_links_lead_nowhere(rootfs: Path, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "file").write_text("secret")
    with living(rootfs, "sh", "-c", SWAP.format(host=host)) as box, Files(box) as files:
        source = tmp_path / "source"
        source.mkdir()
        (source / "planted").write_text("x")
        reads: set[bytes] = set()
        end = time.monotonic() + 4
        for turn in range(1000):
            if time.monotonic() > end:
                break
            with suppress(SandboxFileError):
                reads.add(files.read("/tmp/real/file"))
            with suppress(SandboxFileError):
                files.write("/tmp/real/planted", b"x")
            with suppress(SandboxFileError):
                files.copy_in(f"{source}/.", "/tmp/real")
            with suppress(SandboxFileError):
                files.copy_out("/tmp", f"{tmp_path}/out{turn}")
        assert below(host) == ["file"]
        assert reads == {b"inside\n"}
        contents = {
            p.read_text() for p in tmp_path.glob("out*/*/file") if not p.parent.is_symlink()
        }
        assert contents <= {"inside\n"}


def test_a_file_is_there_whole_or_not_at_all(rootfs: Path) -> None:
    script = "while :; do wc -c </tmp/file >>/tmp/seen; done 2>/dev/null"
    with living(rootfs, "sh", "-c", script) as box, Files(box) as files:
        for _ in range(20):
            files.write("/tmp/file", b"a" * 3_000_000)
            files.write("/tmp/file", b"b" * 10)
        assert set(files.read("/tmp/seen").split()) <= {b"3000000", b"10"}
        assert shell(box, "ls -A /tmp").split() == ["file", "seen"]


def test_a_full_disk(rootfs: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3 << 20))
    with living(rootfs, filesystem={"size": "8M"}) as box:
        write_file(box, "/srv-old", b"old")
        shell(box, "dd if=/dev/zero of=/fill bs=64k 2>/dev/null || true")
        for attempt in (
            lambda: write_file(box, "/srv-old", big.read_bytes()),
            lambda: copy_in(box, str(big), "/srv-old"),
            lambda: copy_in(box, str(big), "/srv-new"),
        ):
            with pytest.raises(SandboxFileError, match="no space left on device"):
                attempt()
        assert read_file(box, "/srv-old") == b"old"
        assert shell(box, "ls -A / | grep -v sbx-rootfs | grep -c sbx- || true") == "0\n"


def test_a_paused_sandbox_is_read_and_a_dead_one_is_not(rootfs: Path) -> None:
    with living(rootfs) as box:
        with Keeper(box) as kept:
            kept.freeze()
        with Files(box) as files:
            files.write("/tmp/x", b"x")
            assert files.read("/tmp/x") == b"x"
            with Keeper(box) as kept:
                kept.kill()
                assert kept.wait(10)
            with pytest.raises(StateError):
                files.read("/tmp/x")
        with pytest.raises(StateError):
            read_file(box, "/tmp/x")


FILLING = """
import os, time
try:
    while os.fork():
        pass
except OSError:
    with open("/tmp/filling", "w") as file:
        file.write("full")
    os.rename("/tmp/filling", "/tmp/full")
time.sleep(1000)
"""


def test_files_are_copied_where_no_further_process_fits(debian: Path) -> None:
    with (
        living(debian, "python3", "-c", FILLING, resources={"pids": 16}) as box,
        Files(box) as early,
    ):
        deadline = time.monotonic() + 60
        while not early.mode("/tmp/full"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert early.read("/tmp/full") == b"full"
        with Files(box) as late:
            assert late.read("/tmp/full") == b"full"


def test_what_works_inside_can_be_killed_by_others(box: Folder) -> None:
    with Files(box) as files:
        assert files.mode("/tmp")
        pid = files._pid
        os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text()), signal.SIGKILL)
        with pytest.raises(SbxError, match="cannot reach the files"):
            files.mode("/tmp")


def test_a_copy_that_is_killed_leaves_nothing(sbx: Sbx, rootfs: Path) -> None:
    name = sbx("run", "-d", rootfs, "sleep", "1000").stdout.strip()
    try:
        for number in (signal.SIGKILL, signal.SIGINT):
            copying = sbx.start("cp", "-", f"{name}:/tmp")
            assert copying.stdin
            head = entry("file", size=1 << 30).tobuf()
            copying.stdin.write(head + bytes(1 << 20))
            copying.stdin.flush()
            deadline = time.monotonic() + 20
            while ".sbx-" not in sbx("exec", name, "ls", "-A", "/tmp").stdout:
                assert time.monotonic() < deadline
            copying.send_signal(number)
            copying.communicate(timeout=20)
            while sbx("exec", name, "ls", "-A", "/tmp").stdout:
                assert time.monotonic() < deadline
    finally:
        end(sbx, name)
