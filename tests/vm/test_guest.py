"""The guest itself: what it reaches of the host, and every way in which it can fail is said."""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.guest import INSIDE, LEAF, Command, Guest, GuestDied, boot_on_host, missing

Boot = Callable[[str], Guest]


def belongs(path: Path, guest: Guest) -> bool:
    """The command line in that file names the guest's folder."""
    with contextlib.suppress(OSError):
        return str(guest.folder).encode() in path.read_bytes()
    return False


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """Boots a guest with a shell script as its command."""
    if missing():
        pytest.skip(missing())
    guests: list[Guest] = []

    def one(script: str) -> Guest:
        (tmp_path / "results").mkdir()
        user = pwd.getpwuid(os.getuid()).pw_name
        command = Command(["sh", "-c", script], user, {"PATH": os.environ["PATH"]}, Path("/"), LEAF)
        guests.append(boot_on_host(tmp_path / "results", command))
        return guests[-1]

    yield one
    for guest in guests:
        guest.end()


def test_what_a_guest_is(boot: Boot) -> None:
    """Another kernel, this user, a subtree of control groups, and files that stay the host's."""
    guest = boot(f"""exec >{INSIDE}/said
        uname -r; id -u
        test -d /sys/fs/cgroup/user/command && mkdir /sys/fs/cgroup/user/mine && echo delegated
        grep -o memory /sys/fs/cgroup/user/cgroup.controllers
        cd {INSIDE}/.. && for place in /etc /usr /var/tmp/../lib "$HOME"; do touch $place/x; done
        exit 3""")
    lines = list(guest.lines("said", deadline_s=100, silence_s=100))
    release, uid, *rest = lines
    assert release != os.uname().release
    assert (int(uid), rest) == (os.getuid(), ["delegated", "memory"])
    assert guest.status == 3
    assert guest.last_words().count("Read-only file system") == 4


def test_a_guest_that_dies(boot: Boot) -> None:
    guest = boot(f"echo alive >{INSIDE}/said; sync {INSIDE}/said; sleep 100")
    lines = guest.lines("said", deadline_s=100, silence_s=100)
    assert next(lines) == "alive"
    os.kill(guest.pid, signal.SIGKILL)
    with pytest.raises(GuestDied, match="halted before its command"):
        list(lines)


def test_a_guest_that_says_nothing(boot: Boot) -> None:
    guest = boot(f"echo alive >{INSIDE}/said; sync {INSIDE}/said; echo words; sleep 100")
    lines = guest.lines("said", deadline_s=100, silence_s=30)
    assert next(lines) == "alive"
    with pytest.raises(GuestDied, match="said nothing for 30 s"):
        list(lines)


def test_a_guest_that_never_ends(boot: Boot) -> None:
    guest = boot(f"while echo more; do sync {INSIDE}/said; sleep 0.2; done >{INSIDE}/said")
    with pytest.raises(GuestDied, match="was not done after 5 s"):
        list(guest.lines("said", deadline_s=5, silence_s=100))


def test_a_guest_whose_init_fails(
    boot: Boot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "init.sh"
    broken.write_text("#!/bin/sh\necho the init gives up\n")
    monkeypatch.setattr("tests.vm.guest.INIT", broken)
    guest = boot("true")
    with pytest.raises(GuestDied, match="halted before"):
        list(guest.lines("said", deadline_s=100, silence_s=100))
    assert "the init gives up" in guest.last_words()


def test_nothing_of_it_outlives_its_caller(boot: Boot) -> None:
    """The caller's death closes the pipe on which the guard waits."""
    guest = boot("sleep 100")
    guest.guard.communicate()
    with pytest.raises(GuestDied, match="halted before"):
        list(guest.lines("said", deadline_s=100, silence_s=100))
    end = time.monotonic() + 30
    while left := [path for path in Path("/proc").glob("[0-9]*/cmdline") if belongs(path, guest)]:
        assert time.monotonic() < end, left


def pytest_in_a_guest(*options: str) -> subprocess.CompletedProcess[str]:
    """One pytest whose tests run in a guest."""
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.vm.plugin"]
    return subprocess.run(
        [*words, "--vm-guests=1", *options, "tests/vm/cgroup/test_limits.py"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_a_guest_that_hangs_fails_loudly() -> None:
    """One test fails with the console, and the session with it."""
    if missing():
        pytest.skip(missing())
    done = pytest_in_a_guest("--vm-deadline=3")
    assert done.returncode == 1, done.stdout
    assert "the guest was not done after 3 s" in done.stdout
    assert "--- console" in done.stdout
    assert "1 failed" in done.stdout


def test_a_guest_that_panics_fails_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing():
        pytest.skip(missing())
    (tmp_path / "init.sh").write_text("#!/bin/sh\necho the init gives up\n")
    text = "from pathlib import Path\nfrom tests.vm import guest\n"
    text += "guest.INIT = Path(__file__).with_name('init.sh')\n"
    (tmp_path / "broken_guest.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    done = pytest_in_a_guest("-p", "broken_guest")
    assert done.returncode == 1, done.stdout
    assert "the guest halted before its command" in done.stdout
    assert "the init gives up" in done.stdout
    assert "Kernel panic - not syncing: Attempted to kill init!" in done.stdout
    assert "1 failed" in done.stdout
