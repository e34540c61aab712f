"""Without a user namespace, with devices of the host: what root gets who asks, and only then."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.linux.capabilities import NAMES, capability_mask
from tests.conftest import Sbx

SETTINGS = ("max_user_namespaces", "max_inotify_instances", "max_inotify_watches")
DEFAULT_CAPS = 0x800000FB


def of_the_host() -> list[str]:
    """What a sandbox without a user namespace could change by mistake."""
    found = [Path(f"/proc/sys/user/{name}").read_text() for name in SETTINGS]
    found.append(Path("/proc/self/mountinfo").read_text())
    return [*found, os.uname().nodename, str(sorted(os.listdir("/dev")))]


@pytest.fixture(autouse=True)
def _host() -> Iterator[None]:
    """The host is as it was."""
    before = of_the_host()
    yield
    assert of_the_host() == before


def caps(text: str) -> int:
    line = next(line for line in text.splitlines() if line.startswith("CapEff"))
    return int(line.split()[1], 16)


def test_privileged(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    script = (
        "cat /proc/self/status; readlink /proc/self/ns/user; ls -1 /dev; "
        "mount -t tmpfs mine /tmp && grep -c ^mine /proc/self/mounts; id -u"
    )
    done = sbx("run", "--privileged", "--report", report, rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    host = caps(Path("/proc/self/status").read_text())
    assert caps(done.stdout) == host & capability_mask(NAMES)
    assert os.readlink("/proc/self/ns/user") in done.stdout
    assert done.stdout.split()[-2:] == ["1", "0"]
    assert not any(name.startswith(("sd", "loop", "mem", "kmsg")) for name in done.stdout.split())
    for words in ("without user namespaces", "without masked and locked", "a read-only /sys"):
        assert words in done.stderr
    found = json.loads(report.read_text())
    assert {"user", "proc", "sys"} <= {entry["layer"] for entry in found["degradations"]}
    assert "user namespace" not in found["layers"]
    assert found["identity"] == "none"


def test_without_a_user_namespace_the_rest_of_the_policy_holds(
    sbx: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text('extends = "default"\n[identity]\nmap = "none"\n')
    script = (
        "cat /proc/self/status; mount -t tmpfs x /tmp 2>&1; "
        "echo 1 > /proc/sys/vm/overcommit_memory; "
        "cat /proc/kcore; echo x > /proc/sysrq-trigger; true"
    )
    done = sbx("run", "--policy", policy, rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert caps(done.stdout) == DEFAULT_CAPS
    assert "Seccomp:\t2" in done.stdout
    assert "/tmp" in done.stdout  # refused
    assert done.stderr.count("cannot create /proc/sys") == 2 or "Read-only" in done.stderr
    other = sbx("run", "--policy", policy, "-u", "1234:1234", rootfs, "sh", "-c", "id -u; id -g")
    assert other.stdout == "1234\n1234\n"


def test_devices_are_shown_one_by_one(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run", "--device", "/dev/fuse", rootfs, "sh", "-c", "stat -c %t:%T /dev/fuse; ls /dev"
    )
    assert done.returncode == 0, done.stderr
    status = os.stat("/dev/fuse")
    numbers = f"{os.major(status.st_rdev):x}:{os.minor(status.st_rdev):x}"
    assert done.stdout.split()[0] == numbers
    assert "kvm" not in done.stdout.split()
    assert "/dev/fuse" in done.stderr
    deeper = sbx("run", "--device", "/dev/net/tun", rootfs, "test", "-c", "/dev/net/tun")
    assert deeper.returncode == 0, deeper.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "/dev/nosuch"), "no such file"),
        (("--device", "/dev/fd"), "is no device"),
        (("--device", "/etc/passwd"), "must be a device in /dev"),
        (("--device", "/dev/../etc/passwd"), 'without ".."'),
        (("--device", "/dev/fuse:/dev/null"), "keeps its name"),
        (("--policy", "strict", "--privileged"), "identity.privileged is false"),
        (("--policy", "strict", "--device", "/dev/fuse"), "identity.privileged is false"),
        (("--policy", "strict", "--cap-add", "ALL"), "identity.privileged is false"),
    ],
)
def test_what_is_refused(sbx: Sbx, rootfs: Path, options: tuple[str, ...], words: str) -> None:
    done = sbx("run", *options, rootfs, "true")
    assert done.returncode in (2, 125), done
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_in_the_background(sbx: Sbx, rootfs: Path) -> None:
    started = sbx("run", "-d", "--privileged", rootfs, "sleep", "1000")
    box = started.stdout.strip()
    try:
        assert started.returncode == 0, started.stderr
        inside = sbx("exec", box, "sh", "-c", "cat /proc/self/status; cat /proc/1/comm")
        assert caps(inside.stdout) == caps(Path("/proc/self/status").read_text())
        assert inside.stdout.endswith("init\n")
        for words in (("cp", f"{box}:/etc", "/nonexistent"), _sharing(box, rootfs)):
            refused = sbx(*words)
            assert refused.returncode == 125, refused
            assert "user namespace" in refused.stderr
        init = int(json.loads(sbx("inspect", box).stdout)[0]["init_pid"])
        keeper = int(json.loads(sbx("inspect", box).stdout)[0]["pid"])
        os.kill(keeper, 9)
        end = time.monotonic() + 20
        while os.path.exists(f"/proc/{init}"):
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        sbx("rm", "-f", box)


def _sharing(box: str, rootfs: Path) -> tuple[str, ...]:
    return ("run", f"--network=container:{box}", str(rootfs), "true")
