"""A User-Mode Linux guest on this host's own files: boots, is watched, ends.

Its kernel is a process of the caller, so not even its root reaches a file that the caller does not.
Besides, the guest mounts the host's files read-only and writes one folder alone.
Knows nothing of pytest.
"""

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

KERNEL = "linux.uml"
DISK = "/mnt/disk"  # an ext4 of the user's own: neither hostfs nor an old tmpfs can take an overlay
DISK_BYTES = 1 << 30
INIT = Path(__file__).with_name("init.sh")
MEMORY_MB = 2048
INSIDE = "/mnt/results"  # where the guest sees the folder of results
POLL_S = 0.1


class GuestDied(Exception):
    """The guest ended, or went silent, before its command was done; str() says which."""


def missing() -> str:
    """Why no guest can be booted here; "" when one can."""
    if os.getuid() == 0:
        return "a guest is booted by a normal user: the files of its root are those of its caller"
    for program in (KERNEL, "modprobe", "mkfs.ext4"):
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            return f"{program} is not installed"
    return ""


def memory_folder() -> str:
    """A folder whose files can be the guest's memory: room enough, and mapped for execution."""
    for folder in ("/dev/shm", "/tmp", "/var/tmp"):
        found = os.statvfs(folder)
        room_mb = found.f_bavail * found.f_frsize >> 20
        if not found.f_flag & os.ST_NOEXEC and room_mb > MEMORY_MB:
            return folder
    raise GuestDied(f"no folder has {MEMORY_MB} MiB for the guest's memory and allows execution")


def make_disk(path: Path) -> None:
    """A sparse file with an empty file system whose top belongs to this user."""
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    owner = f"root_owner={os.getuid()}:{os.getgid()},lazy_itable_init=1,lazy_journal_init=1"
    path_variable = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    mkfs = shutil.which("mkfs.ext4", path=path_variable) or "mkfs.ext4"
    words = [mkfs, "-q", "-F", "-m", "0", "-E", owner, str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class Guest:
    """One boot. `command` runs as the caller's user in `cwd`; `folder` is what it may write.

    The path of `folder` crosses on the kernel's command line: no spaces, no quotes, no commas.
    """

    def __init__(self, folder: Path, command: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self._console = folder / "console"
        user = pwd.getpwuid(os.getuid())
        words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
        words += ["--inh-caps=-all", "env", "-i", *(f"{k}={v}" for k, v in env.items()), *command]
        make_disk(folder / "disk")
        (folder / "init").write_text(INIT.read_text())
        (folder / "init").chmod(0o755)
        (folder / "owner").write_text(f"{user.pw_uid}:{user.pw_gid}\n")
        (folder / "command").write_text(f"cd {shlex.quote(str(cwd))}\nexec {shlex.join(words)}\n")
        line = "root=/dev/root rootfstype=hostfs rootflags=/ ro quiet con=null con0=null,fd:1"
        line += f" mem={MEMORY_MB}M ubd0={folder}/disk uml_dir={folder}/uml/"
        line += f" init={folder}/init results={folder}"
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                [KERNEL, *line.split()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                process_group=0,
                # Without HOME this kernel panics.
                env={"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": memory_folder()},
            )

        # The kernel has helper processes that outlive it: when the caller dies, all of them go.
        self.guard = subprocess.Popen(
            ["sh", "-c", "read _; kill -KILL 0"],
            stdin=subprocess.PIPE,
            process_group=self._process.pid,
        )

    def lines(self, name: str, deadline_s: float, silence_s: float) -> Iterator[str]:
        """Yield each line of a file of results as it is written, until the guest has halted.

        Raises GuestDied after `deadline_s` in all, after `silence_s` without a new line, and when
        the guest halts with no exit status of its command.
        """
        start = heard = time.monotonic()
        seen, rest = 0, ""
        while True:
            halted = self._process.poll() is not None
            text = self._read(name, seen)
            seen += len(text)
            *whole, rest = (rest + text.decode("utf-8", "replace")).split("\n")
            yield from whole
            now = time.monotonic()
            heard = now if whole else heard
            if halted:
                break
            if now - start > deadline_s:
                raise GuestDied(f"the guest was not done after {deadline_s:.0f} s")
            if now - heard > silence_s:
                raise GuestDied(f"the guest said nothing for {silence_s:.0f} s")
            time.sleep(POLL_S)
        if self.status is None:
            raise GuestDied(f"the guest halted before its command (status {self._process.wait()})")

    def _read(self, name: str, offset: int) -> bytes:
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    @property
    def pid(self) -> int:
        """The process of the guest's kernel, and the group of all that belongs to it."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status of the command; None as long as it has none."""
        text = self._read("status", 0).strip()
        return int(text) if text.isdigit() else None

    def last_words(self, limit: int = 8000) -> str:
        """The end of the console, and of what the command printed."""
        parts = [("console", self._console.name), ("output", "output")]
        return "\n".join(
            f"--- {title}\n{self._read(name, 0)[-limit:].decode('utf-8', 'replace')}"
            for title, name in parts
        )

    def end(self) -> None:
        """Kill what is left of the guest: its kernel and the processes that carry its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.guard.communicate()
