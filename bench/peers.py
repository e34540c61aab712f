"""Other sandboxes and container engines, each with the command that does nearly the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.clock import Entry, spawn
from bench.payload import CODE

NAMESPACES = ("user", "mount", "pid", "uts", "ipc", "network", "cgroup")


def bwrap(root: Path, env: dict[str, str]) -> Entry | None:
    """All namespaces, own /proc, /dev and /tmp; no overlay, no system call filter."""
    path = shutil.which("bwrap")
    if not path:
        return None
    words = f"--unshare-all --bind {root} / --proc /proc --dev /dev --tmpfs /tmp /bin/payload"
    return Entry("bwrap", spawn([path, *words.split()], env), CODE)


def firejail(root: Path, env: dict[str, str]) -> Entry | None:
    """Without a profile: it keeps the host's root file system and network."""
    path = shutil.which("firejail")
    if not path:
        return None
    words = ["--quiet", "--noprofile", str(root / "bin/payload")]
    return Entry("firejail --noprofile", spawn([path, *words], env), CODE, every=5)


def podman(root: Path, env: dict[str, str]) -> Entry | None:
    """Rootless, from the same folder."""
    path = shutil.which("podman")
    if not path:
        return None
    words = "run --rm --network none --cgroups=disabled --log-driver none --rootfs"
    command = [path, *words.split(), str(root), "/bin/payload"]
    return Entry("podman run", spawn(command, env), CODE, every=20)


def crun(root: Path, folder: Path, env: dict[str, str]) -> Entry | None:
    """With one id and no cgroup; a pure cgroup2 is put around it, for it refuses hybrid hosts."""
    path = shutil.which("crun")
    if not path:
        return None
    bundle = folder / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(_spec(root)))
    inner = [sys.executable, "-m", "bench.driver", path, "--cgroup-manager=disabled"]
    inner += ["--root", str(folder / "crun"), "run", "--bundle", str(bundle), "bench"]
    script = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    around = ["unshare", "--user", "--map-root-user", "--mount", "--cgroup", "sh", "-c", script]
    driver = subprocess.Popen(
        [*around, "sh", *inner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
        text=True,
        cwd=Path(__file__).parents[1],
    )

    def run() -> int:
        if driver.stdin is None or driver.stdout is None:
            return -1
        try:
            print(file=driver.stdin, flush=True)
            return int(driver.stdout.readline() or -1)
        except BrokenPipeError:
            return -1

    return Entry("crun run (1 id, no cgroup)", run, CODE)


def _spec(root: Path) -> dict[str, object]:
    def mount(target: str, kind: str, *options: str) -> dict[str, object]:
        return {"destination": target, "type": kind, "source": kind, "options": list(options)}

    one = [{"containerID": 0, "hostID": 0, "size": 1}]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/payload"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
        },
        "root": {"path": os.fspath(root), "readonly": False},
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", "nosuid", "mode=755"),
            mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666"),
            mount("/tmp", "tmpfs", "nosuid", "nodev"),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "uidMappings": one,
            "gidMappings": one,
        },
    }


def all_peers(root: Path, folder: Path, env: dict[str, str]) -> list[Entry]:
    """Those that are installed, bwrap first: the ratios are to it."""
    found = (bwrap(root, env), crun(root, folder, env), firejail(root, env), podman(root, env))
    return [entry for entry in found if entry]
