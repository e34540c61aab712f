"""A table of odd command lines: each is refused in words of its own, and nothing is created."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx

LONG = "n" * 5000
UNREAD = "neither a regular file nor a pipe"

# Words between `sbx run` and ROOTFS, the exit code, what standard error must say.
OPTIONS: dict[str, tuple[list[str], int, list[str]]] = {
    "long name": (["--name", LONG], 2, ["--name", "1 to 63"]),
    "long host name": (["--hostname", LONG], 2, ["--hostname", "1 to 64"]),
    "long target": (["-v", f"/tmp:/{LONG}"], 2, ["--volume", "4096 bytes"]),
    "long part of a target": (["-v", f"/tmp:/{'x' * 300}"], 2, ["--volume", "255 bytes"]),
    "long policy": (["--policy", LONG], 125, ["no policy", "there are: "]),
    "long policy path": (["--policy", f"/{LONG}"], 125, ["file name too long"]),
    "newline in a target": (["-v", "/tmp:/a\nb"], 2, ["--volume", "newline", "/a\\nb"]),
    "newline in a variable": (["-e", "A\nB=1"], 2, ["--env", "newline", "A\\nB"]),
    "newline in a host name": (["--hostname", "a\nb"], 2, ["--hostname", "newline"]),
    "newline in a name": (["--name", "a\nb"], 2, ["--name", "a\\nb"]),
    "= in a name": (["--name", "a=b"], 2, ["--name", "a=b"]),
    "variable without a name": (["-e", "=1"], 2, ["--env", "NAME=VALUE"]),
    "too many variables": (
        [word for n in range(10_000) for word in ("-e", f"V{n}=x")],
        2,
        ["--env", "10000 entries, the most is 4096"],
    ),
    "too many volumes": (
        [word for n in range(3000) for word in ("-v", f"/tmp:/m{n}")],
        2,
        ["--volume", "3000 items, the most is 512"],
    ),
    "many wrong volumes": (
        [word for n in range(500) for word in ("-v", f"/tmp:m{n}")],
        2,
        ["500 problems", '"m0"', "and 460 more"],
    ),
    "two on one target": (["-v", "/tmp:/a", "--tmpfs", "/a/"], 2, ["--tmpfs", '"/a"', "already"]),
    "dots in a target": (["-v", "/tmp:/a/../b"], 2, ["--volume", '"/a/../b"']),
    "two slashes in a target": (["--tmpfs", "//a"], 2, ["--tmpfs", '"//a"']),
    "relative target": (["--mount", "src=/tmp,dst=a"], 2, ["--mount", "absolute"]),
    "relative folder": (["-w", "tmp"], 2, ["--workdir", "absolute"]),
    "named volume": (["-v", "data:/data"], 2, ["--volume", "named volumes", "./data"]),
    "volume type": (["--mount", "type=volume,src=a,dst=/b"], 2, ["--mount", "named volumes"]),
    "SELinux label": (["-v", "/tmp:/a:ro,Z"], 2, ["--volume", '"Z"', "SELinux"]),
    "near policy": (["--policy", "strct"], 125, ['did you mean "strict"?']),
    "policy in capitals": (["--policy", "STRICT"], 125, ['did you mean "strict"?']),
    "policy with a slash": (["--policy", "./strict"], 125, ["no such file", 'slash: "strict"']),
    "policy that is a folder": (["--policy", "/tmp/"], 125, ["not a regular file"]),
    "policy that is a device": (["--policy", "/dev/zero"], 125, ["not a regular file"]),
    "policy without a name": (["--policy", ""], 2, ["--policy", "empty"]),
    "dots as policy": (["--policy", ".."], 125, ['no policy ".."']),
    "user too large": (["-u", "99999999999"], 2, ["--user", "4294967294"]),
    "user below zero": (["-u", "-1"], 2, ["--user", '"-1"']),
    "user and nothing": (["-u", ":"], 2, ["--user", "USER:GROUP"]),
    "time below zero": (["--timeout", "-1"], 2, ["--timeout", "90s"]),
    "time that is none": (["--timeout", "nan"], 2, ["--timeout", "90s"]),
    "size below zero": (["--output-limit", "-1"], 2, ["--output-limit", "512M"]),
    "limits": (
        ["--ulimit", "nofile=2:1", "--ulimit", "foo=1", "--ulimit", "x"],
        2,
        ["3 problems", '"2:1"', '"foo" is not a limit', "NAME=SOFT"],
    ),
    "capability": (["--cap-add", "sys_amin"], 2, ["--cap-add", 'did you mean "SYS_ADMIN"?']),
    "storage": (["--storage", "overly"], 2, ["--storage", "overlay"]),
    "descriptors": (["--pass-fd", "99", "--status-fd", "x"], 2, ["99 is not open", '"x"']),
    "profile that is missing": (["--security-opt", "seccomp=/nowhere"], 125, ["/nowhere"]),
    "profile that is a device": (["--security-opt", "seccomp=/dev/zero"], 125, [UNREAD]),
    "file of variables that is a device": (["--env-file", "/dev/zero"], 2, [UNREAD]),
    "flag with a value": (["--read-only=true"], 2, ["--read-only", "does not take a value"]),
    "words of others": (
        ["--pull", "never", "--bind", "/a", "/b", "--entrypoint", "sh", "--unshare-all"],
        2,
        ["4 problems", "--pull: ", "--bind: ", "--entrypoint: ", "--unshare-all: "],
    ),
    "much at once": (
        ["-v", "a:b", "--timeout", "x", "--cap-add", "x", "--name", "/", "-u", ":"],
        2,
        ["5 problems", "--volume", "--timeout", "--cap-add", "--name", "--user"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options(sbx: Sbx, rootfs: Path, tmp_path: Path, case: str) -> None:
    words, code, says = OPTIONS[case]
    before = set(os.listdir(sbx.home)) | {"cache", "state"}  # of policies and of host facts
    done = sbx("run", "--persist", tmp_path, *words, rootfs, "true", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("sbx: error: "), done.stderr
    for text in says:
        assert text in done.stderr, done.stderr
    assert len(done.stderr) < 10_000
    assert "internal error" not in done.stderr
    assert os.listdir(tmp_path) == []
    assert set(os.listdir(sbx.home)) <= before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["alpine", "sh"], ["alpine", "images are not pulled"]),
        (["docker.io/library/alpine:3", "sh"], ["alpine:3", "images are not pulled"]),
        (["-", "true"], ["no such file"]),
        ([LONG, "true"], ["file name too long"]),
        (["/dev/null", "true"], ["not a directory"]),
        (["/etc/passwd", "true"], ["not a directory"]),
    ],
)
def test_what_is_no_root(sbx: Sbx, words: list[str], says: list[str]) -> None:
    done = sbx("run", *words)
    assert done.returncode == 125
    for text in says:
        assert text in done.stderr, done.stderr


def test_what_is_odd_and_right(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    """Lines that look wrong and mean something."""
    done = sbx("run", "--", rootfs, "sh", "-c", 'echo "$@"', "sh", "--", "-x")
    assert (done.returncode, done.stdout) == (0, "-- -x\n"), done.stderr
    done = sbx("run", rootfs, "--", "sh", "-c", "echo y")
    assert (done.returncode, done.stdout) == (0, "y\n"), done.stderr
    done = sbx("run", b"-e", b"A=\xff", "-eB=2", rootfs, "sh", "-c", 'echo "$A$B"')
    assert (done.returncode, done.stdout) == (0, "\udcff2\n"), done.stderr
    (tmp_path / "file").write_text("here\n")
    volume = f"--volume={tmp_path}:/a/b:rw"
    done = sbx("run", volume, "--tmpfs=/a", "-ie", "X=1", rootfs, "cat", "/a/b/file")
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr
    done = sbx("run", "--env-file", "/dev/stdin", rootfs, "sh", "-c", "echo $V", input="V=7\n")
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_a_plan_that_cannot_be_shown(sbx: Sbx, rootfs: Path, redirect: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" explain "$1" true {redirect}', sbx.path, rootfs],
        env=sbx.env, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("sbx: error: cannot write to standard output\n"), done.stderr


def test_as_many_volumes_as_may_be(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    words = [word for n in range(512) for word in ("-v", f"{tmp_path}:/a/b/c/d/m{n}")]
    done = sbx("run", *words, rootfs, "sh", "-c", "ls /a/b/c/d | wc -l")
    assert (done.returncode, done.stdout.strip()) == (0, "512"), done.stderr
