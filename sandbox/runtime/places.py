"""Whether what is wanted inside can be there: looked at before anything is made.

The launcher looks again, for a root file system and a volume may change meanwhile. Refused here
is only what is certain: where a link leads into another mount or a folder cannot be searched, the
launcher has the word.
"""

from __future__ import annotations

import stat

from sandbox.errors import PolicyError
from sandbox.host.inroot import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.plan.request import Source
    from sandbox.policy.model import Mount, Policy

    Bound = list[tuple[Mount, Source, str]]
    Problem = tuple[str, str, str]  # what, cause, hint

_KERNEL = ("/proc", "/dev", "/sys")
_ON_THE_WAY = -1  # in place of an st_mode: what should be a folder above it is none


class _Inside:
    """What will be where. `mounts`: target → (st_mode, source, read-only), no source for a tmpfs.

    `fixed`: nothing can be made in the root. `known`: the root is what is looked at.
    """

    def __init__(self, policy: Policy, root: str, bound: Bound, *, bind: bool) -> None:
        files = policy.filesystem
        self._root = root
        self.fixed = bind and (root == "/" or (files.root == "bind" and files.read_only))
        self._known = not files.persist
        self.mounts = {entry.target: (stat.S_IFDIR, "", False) for entry in files.tmpfs}
        self.mounts |= {
            mount.target: (source.mode, path, mount.read_only) for mount, source, path in bound
        }

    def look(self, path: str) -> tuple[str, int] | None:
        """(the mount that `path` lies in, "" for the root; what is there, 0 for nothing), or None
        where that cannot be told."""
        holder = next((above for above in _above(path) if above in self.mounts), "")
        if any(_lies_in(path, kernel) for kernel in _KERNEL):
            return None
        mode, source, _ = self.mounts.get(holder, (stat.S_IFDIR, self._root, False))
        if not stat.S_ISDIR(mode) or not (holder or self._known):
            return None
        if not source:
            return holder, 0
        rest = path[len(holder) :]
        try:
            real, found = resolve(source, rest)
        except NotADirectoryError:
            return holder, _ON_THE_WAY
        except OSError:
            return None
        others = (*_KERNEL, *self.mounts)
        if real != rest and (holder or any(_lies_in(real, other) for other in others)):
            return None
        return holder, found


def check_places(policy: Policy, root: str, bound: Bound, *, bind: bool) -> None:
    """Refuse mounts and a working directory that cannot be. `bound`: the mounts whose sources are
    there, with these and their paths without links; `bind`: the root itself is shown.

    Raises one PolicyError that names all that is wrong.
    """
    inside = _Inside(policy, root, bound, bind=bind)
    found = [*_mounts(policy, inside, bound), *_workdir(policy, inside)]
    if len(found) == 1:
        raise PolicyError(found[0][0], cause=found[0][1], hint=found[0][2])
    if found:
        raise PolicyError(
            f"{len(found)} places inside cannot be used",
            problems=tuple(f"{what}: {cause}" for what, cause, _ in found),
            hint="a file goes on a file, a folder on a folder; what is missing is made elsewhere",
        )


def _mounts(policy: Policy, inside: _Inside, bound: Bound) -> Iterator[Problem]:
    wanted = [(mount.target, mount.source, source.mode, "mounts") for mount, source, _ in bound]
    wanted += [(e.target, "", stat.S_IFDIR, "tmpfs") for e in policy.filesystem.tmpfs]
    for target, source, mode, kind in wanted:
        seen = inside.look(target)
        problem = _misfit(inside, target, source, mode, seen) if seen else None
        if problem:
            where = policy.origin(f"filesystem.{kind}.{target}")
            what = f"cannot mount {source or 'a tmpfs'} on {target}"
            yield what, f"{problem[0]}, from {where}", problem[1]


def _misfit(
    inside: _Inside, target: str, source: str, mode: int, seen: tuple[str, int]
) -> tuple[str, str] | None:
    """(cause, hint) of a mount that does not fit what is seen at its target."""
    holder, found = seen
    if found == _ON_THE_WAY:
        return "what lies above it inside is not a folder", "choose another place inside"
    if not found and holder and inside.mounts[holder][2]:
        rest = target[len(holder) :]
        place = f"{inside.mounts[holder][1]}{rest}"
        cause = f"{holder} is a read-only volume, which has no {rest[1:]}"
        return cause, f"make {place} on the host, or leave :ro out"
    if not found and not holder and inside.fixed:
        return "it is not there, and this root is shown read-only", "choose a place that is there"
    if not found or stat.S_ISDIR(found) == stat.S_ISDIR(mode):
        return None
    if stat.S_ISDIR(found):
        name = source.rpartition("/")[2]
        return "a folder is there, the source is a file", f"choose a file, such as {target}/{name}"
    cause = "a file is there, the source is a folder" if source else "a file is there"
    return cause, "choose a folder, or a place that does not exist yet"


def _workdir(policy: Policy, inside: _Inside) -> Iterator[Problem]:
    cwd = (policy.process.cwd or "/").rstrip("/")
    # Where something is mounted on or below it, it is there or will be made.
    if not cwd or any(_lies_in(target, cwd) and target != cwd for target in inside.mounts):
        return
    own = inside.mounts.get(cwd)
    seen = ("", own[0]) if own else inside.look(cwd)
    if seen and not stat.S_ISDIR(max(seen[1], 0)):
        cause = "it is not a folder" if seen[1] else "there is no such folder inside"
        where = policy.origin("process.cwd")
        hint = "choose a folder that is there; -v and --tmpfs make theirs"
        yield f"cannot start in {cwd}", f"{cause}, from {where}", hint


def _above(path: str) -> Iterator[str]:
    """The folders above a path, the nearest first, without "/"."""
    while path := path.rpartition("/")[0]:
        yield path


def _lies_in(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")
