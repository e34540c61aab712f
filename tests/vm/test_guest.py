"""The guest itself: what it reaches of the host, and every way in which it can fail is said."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.guest import INSIDE, Guest, GuestDied, missing

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
        words = ["sh", "-c", script]
        guests.append(Guest(tmp_path / "results", words, tmp_path, {"PATH": os.environ["PATH"]}))
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
