"""What is seen of the root file system, volumes and temporary folders, and what stays unchanged."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.conftest import Sbx


def checksum(top: Path) -> str:
    """Names, kinds, modes, owners, times and content of everything below `top`."""
    seen = hashlib.sha256()
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted([*folders, *files, "."]):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            seen.update(
                repr(
                    (
                        path,
                        found.st_mode,
                        found.st_uid,
                        found.st_gid,
                        found.st_mtime_ns,
                        found.st_nlink,
                    )
                ).encode()
            )
            if os.path.islink(path):
                seen.update(os.readlink(path).encode())
            elif os.path.isfile(path) and os.access(path, os.R_OK):
                seen.update(Path(path).read_bytes())
    return seen.hexdigest()


@pytest.mark.parametrize("storage", ["overlay", "copy"])
def test_the_root_is_never_written(sbx: Sbx, rootfs: Path, storage: str) -> None:
    before = checksum(rootfs)
    script = (
        "echo new > /etc/passwd && touch /new && mkdir /dir && rm -f /etc/group && "
        "cat /etc/passwd && ls -d /new /dir"
    )
    done = sbx("run", "--storage", storage, "-u", "0", rootfs, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "new\n/dir\n/new\n"), done.stderr
    assert checksum(rootfs) == before


def test_the_second_run_starts_afresh(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", "-u", "0", rootfs, "touch", "/mark").returncode == 0
    assert sbx("run", "-u", "0", rootfs, "test", "-e", "/mark").returncode == 1


def test_read_only(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run",
        "--read-only",
        "-u",
        "0",
        rootfs,
        "sh",
        "-c",
        "touch /x; touch /tmp/y && echo tmp works",
    )
    assert "Read-only file system" in done.stderr
    assert done.stdout == "tmp works\n"


def test_volume(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from outside\n")
    done = sbx(
        "run",
        "-v",
        f"{tmp_path}:/data",
        rootfs,
        "sh",
        "-c",
        "cat /data/in; echo inside > /data/out",
    )
    assert (done.returncode, done.stdout) == (0, "from outside\n"), done.stderr
    assert (tmp_path / "out").read_text() == "inside\n"
    assert (tmp_path / "out").stat().st_uid == os.getuid()


def test_read_only_volume(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from outside\n")
    done = sbx(
        "run", "-v", f"{tmp_path}:/data:ro", rootfs, "sh", "-c", "cat /data/in; echo x > /data/out"
    )
    assert done.stdout == "from outside\n"
    assert (done.returncode, "Read-only file system" in done.stderr) == (2, True), done
    assert not (tmp_path / "out").exists()


def test_a_read_only_volume_cannot_be_made_writable(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    for policy in ("default", "permissive"):
        done = sbx(
            "run",
            "--policy",
            policy,
            "-u",
            "0",
            "-v",
            f"{tmp_path}:/data:ro",
            rootfs,
            "sh",
            "-c",
            "mount -o remount,rw,bind /data 2>&1; umount /data 2>&1; touch /data/x",
        )
        assert done.returncode != 0
        assert not (tmp_path / "x").exists()


def test_file_volume(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1\n")
    done = sbx("run", "-v", f"{tmp_path}/one:/etc/one:ro", rootfs, "cat", "/etc/one")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_mount_in_words(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("words\n")
    done = sbx(
        "run",
        "--mount",
        f"type=bind,source={tmp_path},target=/data,readonly",
        "--mount",
        "type=tmpfs,target=/scratch,size=1M",
        rootfs,
        "sh",
        "-c",
        "cat /data/in; touch /data/x || echo ro; "
        "dd if=/dev/zero of=/scratch/f bs=64k count=32 2>/dev/null || echo full",
    )
    assert done.stdout == "words\nro\nfull\n", done.stderr


def test_tmpfs(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run",
        "--tmpfs",
        "/scratch",
        rootfs,
        "sh",
        "-c",
        "echo x > /scratch/f && cat /scratch/f && grep -c ' /scratch tmpfs' /proc/mounts",
    )
    assert (done.returncode, done.stdout) == (0, "x\n1\n"), done.stderr


def test_volume_source_through_a_symlink(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("real\n")
    (tmp_path / "link").symlink_to("real")
    done = sbx("run", "-v", f"{tmp_path}/link:/data", rootfs, "cat", "/data/f")
    assert (done.returncode, done.stdout) == (0, "real\n"), done.stderr


def test_odd_names_of_volumes(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b,c\\d"
    odd.mkdir()
    (odd / "f").write_text("odd\n")
    done = sbx("run", "-v", f"{odd}:/da ta", rootfs, "cat", "/da ta/f")
    assert (done.returncode, done.stdout) == (0, "odd\n"), done.stderr


def test_persist(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    assert (
        sbx("run", "-u", "0", "--persist", kept, rootfs, "sh", "-c", "echo 1 > /mark").returncode
        == 0
    )
    done = sbx("run", "-u", "0", "--persist", kept, rootfs, "sh", "-c", "cat /mark; rm /mark")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert sbx("run", "-u", "0", "--persist", kept, rootfs, "test", "-e", "/mark").returncode == 1
    assert not (rootfs / "mark").exists()


def test_rootfs_given_relatively_and_through_a_link(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(rootfs)
    assert sbx("run", "./link", "true", cwd=tmp_path).returncode == 0
    assert sbx("run", ".", "true", cwd=rootfs).returncode == 0


def test_the_writable_layer_is_bounded(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    policy = tmp_path / "small.toml"
    policy.write_text('extends = "default"\n[filesystem]\nsize = "4M"\ninodes = 200\n')
    script = (
        "dd if=/dev/zero of=/f bs=64k count=128 2>/dev/null || echo full; rm -f /f; "
        "i=0; while [ $i -lt 400 ] && : > /n$i; do i=$((i+1)); done; [ $i -lt 300 ] && echo inodes"
    )
    done = sbx("run", "--policy", policy, "-u", "0", rootfs, "sh", "-c", script)
    assert "full" in done.stdout, done.stderr
    assert "No space left" in done.stderr


def test_devices(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run",
        rootfs,
        "sh",
        "-c",
        "ls /dev; echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; "
        "cat /dev/zero > /dev/full",
    )
    names = set(done.stdout.split())
    assert {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "pts",
        "shm",
        "ptmx",
        "fd",
        "stdin",
        "stdout",
        "stderr",
    } <= names
    assert not {"sda", "vda", "mem", "kmsg", "kvm", "fuse"} & names
    assert "No space left" in done.stderr


def test_hosts_files_are_out_of_reach(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    done = sbx(
        "run", rootfs, "sh", "-c", f"cat {secret}; cat /proc/1/root{secret}; cat /../../..{secret}"
    )
    assert done.returncode != 0
    assert done.stdout == ""


def test_nothing_is_made_in_a_volume_over_etc(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "hosts").write_text("mine\n")
    for options in ((), ("--network", "host"), ("--user", "4321")):
        done = sbx("run", *options, "-v", f"{tmp_path}/etc:/etc", rootfs, "ls", "-A", "/etc")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert list((tmp_path / "etc").iterdir()) == []
    done = sbx("run", "-v", f"{tmp_path}/hosts:/etc/hosts", rootfs, "cat", "/etc/hosts")
    assert (done.returncode, done.stdout) == (0, "mine\n")


def test_a_root_of_somebody_else_is_told(
    sbx: Sbx, debian: Path, debian_own: Path, tmp_path: Path
) -> None:
    what = "the root file system can hardly be changed inside"
    report = tmp_path / "report"
    done = sbx("run", "-u", "0", "--report", report, debian, "touch", "/usr/made")
    assert done.returncode != 0
    assert f"sbx: warning: {what}" in done.stderr
    assert [note["what"] for note in json.loads(report.read_text())["notes"]] == [what]
    assert sbx("explain", debian, "true").stdout.count(what) == 1
    for words in ((debian_own,), ("--read-only", debian), ("--policy", "strict", debian)):
        assert what not in sbx("run", *words, "true").stderr


@pytest.mark.slow
def test_a_copy_of_a_root_of_somebody_else_can_be_changed(sbx: Sbx, debian: Path) -> None:
    words = ("sh", "-c", "touch /usr/made && rm /usr/bin/gcc && echo changed")
    done = sbx("run", "-u", "0", "--storage", "copy", debian, *words)
    assert (done.returncode, done.stdout) == (0, "changed\n"), done.stderr


def test_the_hosts_own_root_is_read_only_aloud(sbx: Sbx) -> None:
    done = sbx("run", "/", "true")
    assert done.returncode == 0
    assert "the root is read-only in this run" in done.stderr
    assert "read-only in this run" not in sbx("run", "--read-only", "/", "true").stderr
