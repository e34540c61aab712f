"""A guest with a kernel of its own: boots, is watched, ends. Knows nothing of pytest.

It is a process of the caller, so not even its root reaches a file that the caller does not. Three
kinds: User-Mode Linux on this host's own files, mounted read-only, by a normal user; the same on a
system of its own with systemd as process 1, by root; and a machine with two processors, emulated,
on this host's files, by a normal user. Of the host all write one folder alone.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

KERNEL = "linux.uml"
MACHINE = "qemu-system-x86_64"
DISK = "/mnt/disk"  # an ext4 of the user's own: neither hostfs nor an old tmpfs can take an overlay
DISK_BYTES = 1 << 30
SWAP_BYTES = 128 << 20
SHOWN = "/var/lib/sbx-dev"  # what a system of its own sees of the host, read-only
INIT = Path(__file__).with_name("init.sh")
MEMORY_MB = 2048
SYSTEM_MEMORY_MB = 1536
PROCESSORS = 2
LEAF = "/sys/fs/cgroup/user/command"  # of the user's own control groups, init.sh
INSIDE = "/mnt/results"  # where the guest sees the folder of results
POLL_S = 0.1


class GuestDied(Exception):
    """The guest ended, or went silent, before its command was done; str() says which."""


def missing(system: str = "", machine: str = "") -> str:
    """Why no guest can be booted here; "" when one can. For the folders see boot_…."""
    if system and os.getuid() != 0:
        return "a guest with a system of its own is booted by root: its files are root's"
    if not system and os.getuid() == 0:
        return "a guest is booted by a normal user: the files of its root are those of its caller"
    for program in (MACHINE if machine else KERNEL, "modprobe", "mkfs.ext4"):
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


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or name


def _sparse(path: Path, size: int, *words: str) -> None:
    """A sparse file that a program fills with a file system or the like."""
    with path.open("wb") as file:
        file.truncate(size)
    path.chmod(0o600)
    command = [_program(words[0]), *words[1:], str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


class Command:
    """What runs inside: `words` as `user`, with this environment alone, in `cwd`.

    `group`: the control group that it begins in. Root's own processes may not be there: nobody else
    could change the processors of those.
    """

    def __init__(
        self, words: list[str], user: str, env: dict[str, str], cwd: Path, group: str = ""
    ) -> None:
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        become += ["--inh-caps=-all", "env", "-i", *(f"{k}={v}" for k, v in env.items())]
        if group:
            enter = f'echo $$ >{group}/cgroup.procs && exec "$@"'
            become = ["sh", "-c", enter, "sh", *become]
        self.line = f"cd {shlex.quote(str(cwd))} && {shlex.join([*become, *words])}"


def boot_on_host(folder: Path, *commands: Command) -> "Guest":
    """A guest on the host's files; commands of the user's begin in LEAF.

    The path of `folder` crosses on the kernel's command line: no spaces, no quotes, no commas.
    """
    _fill(folder)
    line = f"rootflags=/ ro mem={MEMORY_MB}M ubd0={folder}/disk ubd1={folder}/swap"
    return Guest(folder, _uml(folder, f"{line} init={folder}/init"), commands)


def _fill(folder: Path) -> None:
    owner = f"root_owner={os.getuid()}:{os.getgid()},lazy_itable_init=1,lazy_journal_init=1"
    _sparse(folder / "disk", DISK_BYTES, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", owner)
    _sparse(folder / "swap", SWAP_BYTES, "mkswap")
    (folder / "init").write_text(INIT.read_text())
    (folder / "init").chmod(0o755)
    (folder / "owner").write_text(f"{os.getuid()}:{os.getgid()}\n")


def _uml(folder: Path, line: str) -> list[str]:
    line += " root=/dev/root rootfstype=hostfs quiet con=null con0=null,fd:1"
    return [KERNEL, *line.split(), f"uml_dir={folder}/uml/", f"results={folder}"]


def boot_machine(folder: Path, kernel: Path, *commands: Command) -> "Guest":
    """The same on an emulated machine; tests/vm/kernel.sh has made the folder `kernel`."""
    _fill(folder)
    words = [MACHINE, "-accel", "tcg,thread=multi", "-smp", str(PROCESSORS), "-m", str(MEMORY_MB)]
    words += ["-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none"]
    words += ["-no-reboot", "-kernel", f"{kernel}/vmlinuz", "-initrd", f"{kernel}/initrd"]
    told = f"console=ttyS0 quiet panic=-1 modules={kernel} results={folder}"
    words += ["-append", told]
    shared = "mount_tag={},security_model=none,multidevs=remap"
    words += ["-virtfs", f"local,path=/,readonly=on,{shared.format('host')}"]
    words += ["-virtfs", f"local,path={folder},{shared.format('results')}"]
    for name in ("disk", "swap"):
        words += ["-drive", f"file={folder}/{name},format=raw,if=virtio"]
    return Guest(folder, words, commands)


def boot_system(folder: Path, system: Path, *commands: Command) -> "Guest":
    """A guest on a folder that tests/vm/system.sh has made, with systemd as process 1."""
    folder.chmod(0o711)
    line = f"rootflags={system} rw mem={SYSTEM_MEMORY_MB}M systemd.unit=multi-user.target"
    return Guest(folder, _uml(folder, line), commands)


class Guest:
    """One boot: `words` start it; `folder` it may write."""

    def __init__(self, folder: Path, words: list[str], commands: tuple[Command, ...]) -> None:
        self.folder = folder
        self._console = folder / "console"
        script = ["status=0", *(f"({command.line}) || status=$?" for command in commands)]
        (folder / "command").write_text("\n".join([*script, "exit $status", ""]))
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                words,
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
        """Each line of `batches`."""
        for batch in self.batches(name, deadline_s, silence_s):
            yield from batch

    def batches(self, name: str, deadline_s: float, silence_s: float) -> Iterator[list[str]]:
        """Yield what lines of a file of results are new, often, until the guest has halted.

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
            yield whole
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
