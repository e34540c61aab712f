"""Run one command in a guest and show what it prints.

python -m tests.vm.show [--system FOLDER --user NAME] -- WORD...
"""

import argparse
import os
import pwd
import shutil
import sys
import tempfile
from pathlib import Path

from tests.vm.guest import INSIDE, LEAF, Command, GuestDied, boot_on_host, boot_system, missing

DEADLINE_S = 900


def main() -> int:
    """The command's exit status, 1 when the guest dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", default="")
    parser.add_argument("--user", default=pwd.getpwuid(os.getuid()).pw_name)
    parser.add_argument("words", nargs="+")
    given = parser.parse_args()
    if problem := missing(given.system):
        sys.stderr.write(f"{problem}\n")
        return 1
    folder = Path(tempfile.mkdtemp(prefix="sbx-vm-"))
    env = {"HOME": "/tmp", "USER": given.user, "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    env |= {k: v for k, v in os.environ.items() if k.startswith("BENCH_")}
    if given.system:
        env["XDG_RUNTIME_DIR"] = f"/run/user/{pwd.getpwnam(given.user).pw_uid}"
    (folder / "shown").touch()
    (folder / "shown").chmod(0o666)
    words = ["sh", "-c", f'"$@" >{INSIDE}/shown 2>&1', "sh", *given.words]
    command = Command(words, given.user, env, Path.cwd(), "" if given.system else LEAF)
    guest = (
        boot_system(folder, Path(given.system), command)
        if given.system
        else boot_on_host(folder, command)
    )
    try:
        for line in guest.lines("shown", DEADLINE_S, DEADLINE_S):
            sys.stdout.write(f"{line}\n")
        return guest.status or 0
    except GuestDied as death:
        sys.stderr.write(f"{death}\n{guest.last_words()}\n")
        return 1
    finally:
        guest.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
