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
# What root could change, and read, of the host; every kernel of today has these.
LOCKED = ("/proc/sys/vm/overcommit_memory", "/proc/irq/default_smp_affinity")
MASKED = ("/proc/timer_list", "/proc/kallsyms")


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
    # Opened for writing, never written: a lock that is missing must not change the host.
    script = (
        f"cat /proc/self/status; mount -t tmpfs mine /tmp; for file in {' '.join(LOCKED)}; do "
        "true > $file; done; grep -c ^mine /proc/self/mounts; "
        f"for file in {' '.join(MASKED)}; do head -c 1 $file | wc -c; done"
    )
    done = sbx("run", "--policy", policy, rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert caps(done.stdout) == DEFAULT_CAPS
    assert "Seccomp:\t2" in done.stdout
    said = done.stderr.splitlines()
    assert any(line.startswith("mount: /tmp: ") for line in said), said
    for file in LOCKED:
        assert any(f"{file}: Read-only file system" in line for line in said), said
    assert done.stdout.split()[-1 - len(MASKED) :] == ["0"] * (1 + len(MASKED))
    for file in MASKED:
        assert Path(file).read_bytes(), f"{file} is empty on the host too"
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
    ("options", "code", "words"),
    [
        (("--device", "/dev/nosuch"), 125, "no such file"),
        (("--device", "/dev/fd"), 125, "is no device"),
        (("--device", "/etc/passwd"), 2, "must be a device in /dev"),
        (("--device", "/dev/../etc/passwd"), 2, 'without ".."'),
        (("--device", "/dev/fuse:/dev/null"), 2, "keeps its name"),
        (("--policy", "strict", "--privileged"), 125, "identity.privileged is false"),
        (("--policy", "strict", "--device", "/dev/fuse"), 125, "identity.privileged is false"),
        (("--policy", "strict", "--cap-add", "ALL"), 125, "identity.privileged is false"),
    ],
)
def test_what_is_refused(
    sbx: Sbx, rootfs: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    done = sbx("run", *options, rootfs, "true")
    assert done.returncode == code, done
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
