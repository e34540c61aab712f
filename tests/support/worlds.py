"""Network namespaces for the tests of root's networks: a host, and a world beyond it.

Nothing of this machine is touched: the host of a test is a namespace with a /var/lib/sbx of its
own, and the world another one at the end of a cable.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/sbx")
HOST4, WORLD4 = "192.0.2.1", "192.0.2.2"
HOST6, WORLD6 = "2001:db8::1", "2001:db8::2"

_HOLD = "mount -t tmpfs none /var/lib/sbx && mount -t tmpfs none /run && echo ready && exec cat"


class Namespace:
    """A network namespace with what runs in it, by a process that holds it."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.started: list[subprocess.Popen[str]] = []
        self.holder = subprocess.Popen(
            ["unshare", "-n", "-m", "--propagation", "private", "sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "ready\n"
        self("ip", "link", "set", "lo", "up")

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.holder.pid), "-n", "-m"]

    def try_to(self, *words: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever it comes to."""
        return subprocess.run(
            [*self._enter, *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.env,
            timeout=timeout,
            check=False,
        )

    def __call__(self, *words: object, timeout: float = 60) -> str:
        """Run a command that has to succeed; what it printed."""
        done = self.try_to(*words, timeout=timeout)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start a command, which ends with the namespace at the latest."""
        found = subprocess.Popen(
            [*self._enter, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
        )
        self.started.append(found)
        return found

    def python(self, script: str, *words: object, timeout: float = 60) -> str:
        """Run a script with this machine's Python."""
        return self("/usr/bin/python3", "-c", script, *words, timeout=timeout)

    def serve(self, script: str, *words: object) -> subprocess.Popen[str]:
        """Start a script that prints a line once it is ready."""
        found = self.start("/usr/bin/python3", "-u", "-c", script, *words)
        assert found.stdout is not None
        line = found.stdout.readline()
        assert line, found.communicate()[1]
        return found

    def close(self) -> None:
        """End everything in it."""
        for each in self.started:
            each.kill()
            each.communicate()
        inode = os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino
        for pid in members(inode):
            if pid != self.holder.pid:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
        self.holder.kill()
        self.holder.communicate()


def members(inode: int) -> list[int]:
    """The processes in a network namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.stat(entry / "ns/net").st_ino == inode:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


class Host(Namespace):
    """A host with sbx, a cable to the world, and root file systems to run."""

    def __init__(self, sbx: str, root: Path, home: Path) -> None:
        folders = {f"XDG_{n}_HOME": str(home / n.lower()) for n in ("CACHE", "CONFIG", "STATE")}
        self.sbx_path = sbx
        self.root = root
        super().__init__(
            {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **folders}
        )
        self.world = Namespace(dict(self.env))
        self("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1")
        self("ip", "link", "set", "wan1", "netns", self.world.holder.pid)
        for space, link, four, six in (
            (self, "wan0", HOST4, HOST6),
            (self.world, "wan1", WORLD4, WORLD6),
        ):
            space("ip", "address", "add", f"{four}/24", "dev", link)
            space("ip", "address", "add", f"{six}/64", "dev", link, "nodad")
            # No address that comes a second later by itself.
            space("ip", "link", "set", link, "addrgenmode", "none")
            space("ip", "link", "set", link, "up")

    def sbx(self, *words: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run sbx to its end, whatever it comes to."""
        return self.try_to(self.sbx_path, *words, timeout=timeout)

    def good(self, *words: object, timeout: float = 60) -> str:
        """Run sbx, which has to succeed; what it printed."""
        return self(self.sbx_path, *words, timeout=timeout)

    def box(self, *options: object, script: str, words: tuple[object, ...] = ()) -> str:
        """Run a Python script in a sandbox, to its end; what it printed."""
        return self.good("run", *options, self.root, "python3", "-u", "-c", script, *words)

    def detach(self, name: str, *options: object, script: str = "") -> None:
        """Start a sandbox in the background; with a script, wait for its first line."""
        argv = ["python3", "-u", "-c", script] if script else ["sleep", "600"]
        self.good("run", "-d", "-q", "--name", name, *options, self.root, *argv)
        until = time.monotonic() + 30
        while script and not self.good("logs", name):
            assert time.monotonic() < until, self.sbx("logs", name).stderr
            time.sleep(0.02)

    def network(self, name: str = "bridge") -> dict[str, Any]:
        """What is known of a network."""
        found: dict[str, Any] = json.loads(self.good("network", "inspect", name))[0]
        return found

    def address(self, name: str, network: str = "bridge", family: int = 4) -> str:
        """The address of a sandbox."""
        for each in self.network(network)["sandboxes"]:
            if each["name"] == name:
                found: str = each["addresses"][0 if family == 4 else 1]
                return found
        raise AssertionError(f"{name} is not on {network}")

    def picture(self) -> dict[str, str]:
        """Everything that networks change, as text."""
        settings = self("sh", "-c", "cd /proc/sys/net && grep -rs . ipv4/conf ipv6/conf || true")
        return {
            "links": self("ip", "-br", "link"),
            "addresses": self("ip", "-br", "address"),
            "routes": self("ip", "route", "show", "table", "all")
            + self("ip", "-6", "route", "show", "table", "all"),
            "rules": self("nft", "list", "ruleset"),
            "settings": "\n".join(sorted(settings.splitlines())),
            "files": self("find", "/var/lib/sbx", "!", "-name", ".lock", "!", "-type", "d"),
        }

    def close(self) -> None:
        """End host and world, and every sandbox that is left."""
        self.sbx("network", "prune")
        listed = self.sbx("ps", "-a", "-q")
        if names := listed.stdout.split():
            self.sbx("rm", "-f", *names)
        super().close()
        self.world.close()
