"""Copy a root file system into a user's own ids, as root: 0 becomes the user, n its n-th subid.

Arguments: SOURCE TARGET USER. The result looks to the user like one that it unpacked itself.
"""

import os
import pwd
import shutil
import stat
import subprocess
import sys


def first_subid(path: str, user: str) -> tuple[int, int]:
    """The first range of `user` in a subid file."""
    with open(path) as lines:
        for line in lines:
            name, start, count = line.strip().split(":")
            if name == user:
                return int(start), int(count)
    raise SystemExit(f"{path} has no line for {user}")


def shift(number: int, own: int, subids: tuple[int, int]) -> int:
    """The outer number of an inner one."""
    start, count = subids
    return own if number == 0 else start + min(number, count) - 1


def shift_tree(top: str, user: str) -> None:
    """Change the owner of everything below `top`, once for each file, keeping its mode."""
    account = pwd.getpwnam(user)
    uids, gids = first_subid("/etc/subuid", user), first_subid("/etc/subgid", user)
    seen: set[int] = set()
    paths = [top]
    for folder, folders, files in os.walk(top):
        paths += [os.path.join(folder, name) for name in folders + files]
    for path in paths:
        found = os.lstat(path)
        if found.st_ino in seen:
            continue
        seen.add(found.st_ino)
        uid, gid = (
            shift(found.st_uid, account.pw_uid, uids),
            shift(found.st_gid, account.pw_gid, gids),
        )
        os.lchown(path, uid, gid)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(path, stat.S_IMODE(found.st_mode))


def main() -> None:
    """Copy beside the target first, so that a half-made one is never used."""
    source, target, user = sys.argv[1:]
    partial = target + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.mkdir(partial, 0o755)
    reader = ["tar", "-C", source, "--exclude=./dev/*", "--xattrs", "-cf", "-", "."]
    writer = ["tar", "-C", partial, "--xattrs", "--numeric-owner", "-xpf", "-"]
    with subprocess.Popen(reader, stdout=subprocess.PIPE) as tar:
        subprocess.run(writer, stdin=tar.stdout, check=True, timeout=600)
    if tar.returncode:
        raise SystemExit(tar.returncode)
    shift_tree(partial, user)
    os.rename(partial, target)


if __name__ == "__main__":
    main()
