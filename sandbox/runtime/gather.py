"""Looks up on the host what one run needs, so that the compiler can stay pure."""

from __future__ import annotations

import errno
import os
import resource
import stat

from sandbox.errors import PolicyError, RootfsError
from sandbox.host.accounts import find_account
from sandbox.host.inroot import read_file
from sandbox.linux.paths import (
    below,
    cache_dir,
    config_dir,
    networks_dir,
    private_dir,
    state_dir,
)
from sandbox.plan.identity import default_user
from sandbox.plan.ops import RLIMITS
from sandbox.plan.request import Request, Source
from sandbox.runtime.places import check_places
from sandbox.seccomp import build
from sandbox.services.cgroup import find_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.host.facts import HostFacts
    from sandbox.host.network import NetworkFacts
    from sandbox.plan.request import Shared
    from sandbox.policy.model import Mount, Policy

_FILE_BYTES = 1 << 16


def _source(path: str) -> tuple[Source, str]:
    """What is at `path`, and its path without links: both of one file, whatever is exchanged."""
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        found = os.fstat(opened)
        real = os.readlink(f"/proc/self/fd/{opened}")
    finally:
        os.close(opened)
    return Source(path, found.st_dev, found.st_ino, found.st_mode), real


def _rootfs(path: str) -> tuple[Source, str]:
    absolute = os.path.abspath(path)
    try:
        return _source(absolute)
    except OSError as error:
        raise RootfsError(
            f"cannot use {path} as the root file system",
            cause=(error.strerror or "").lower(),
            hint="name a directory that holds one",
        ) from error


def _bind_sources(policy: Policy) -> list[tuple[Mount, Source, str]]:
    """Every bind source as it is now; all that cannot be used are named together."""
    found, problems = [], []
    for mount in policy.filesystem.binds:
        try:
            source, real = _source(mount.source)
            found.append((mount, source, real))
            device = stat.S_ISCHR(source.mode) or stat.S_ISBLK(source.mode)
            if mount.source in policy.filesystem.devices and not device:
                problems.append(f"{mount.source}: is no device")
        except OSError as error:
            if mount.optional and error.errno == errno.ENOENT:
                continue
            problems.append(f"{mount.source}: {(error.strerror or '').lower()}")
    if problems:
        raise PolicyError(
            "cannot use these mount sources",
            problems=tuple(problems),
            hint="create them on the host, or mark the mounts optional",
        )
    return found


def _own_folders(
    keep: str | None, bound: list[tuple[str, str, bool]]
) -> tuple[tuple[str, ...], tuple[tuple[Source, str, bool], ...]]:
    """Where bound folders would show sbx's own: a sandbox that could write there could choose the
    policy or the filter of the next one. They are made first, so as to be there to be covered.

    `bound`: (path without links, place inside, read-only). Returns the places inside and, parents
    first, the folders on the way to them.
    """
    hidden: list[str] = []
    pinned: dict[str, tuple[Source, str, bool]] = {}
    ours = [cache_dir(), config_dir(), state_dir()]
    if not os.geteuid():
        ours.append(networks_dir())
    for own in (*ours, *((keep,) if keep else ())):
        real = os.path.realpath(own)
        for place in _places(real, bound):
            for source, target, read_only in bound:
                if target and below(source, place) and _same(place, real):
                    raise PolicyError(
                        f"cannot bind {source}",
                        cause=f"it belongs to sbx itself: {own}",
                        hint="bind another folder",
                    )
                if place == source or not below(place, source):
                    continue
                if own != keep:
                    private_dir(own)
                elif not os.path.isdir(own):
                    continue
                if not _same(place, real):
                    continue
                parts = os.path.relpath(place, source).split("/")
                hidden.append("/".join((target, *parts)))
                if not target:
                    continue
                for depth in range(1, len(parts)):
                    way = "/".join((target, *parts[:depth]))
                    folder, _ = _source("/".join((source.rstrip("/"), *parts[:depth])))
                    pinned.setdefault(way, (folder, way, read_only))
        _refuse_links(own, bound)
    return tuple(hidden), tuple(pinned.values())


def _places(real: str, bound: list[tuple[str, str, bool]]) -> list[str]:
    if not any(target for _, target, _ in bound):
        return [real]
    from sandbox.linux.ways import places

    return places(real)


def _same(one: str, other: str) -> bool:
    try:
        return one == other or os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def _refuse_links(own: str, bound: list[tuple[str, str, bool]]) -> None:
    """A link cannot be made a mount point: whoever may write beside it can put another there, and
    so a folder of sbx's own for the next run. Raises PolicyError."""
    writable = [source for source, target, read_only in bound if target and not read_only]
    if not writable:
        return
    from sandbox.linux.ways import links, places

    for link in links(own):
        folder, name = os.path.split(link)
        for source in writable:
            if any(below(place, source) for place in places(folder)):
                raise PolicyError(
                    f"cannot bind {source} writable",
                    cause=f"{name} in {folder} is a link on the way to {own}, which is sbx's own",
                    hint="bind it read-only, or a folder below it",
                )


def _hard_limits() -> tuple[tuple[str, int | None], ...]:
    limits = []
    for name, number in RLIMITS.items():
        hard = resource.getrlimit(number)[1]
        limits.append((name, None if hard == resource.RLIM_INFINITY else hard))
    return tuple(limits)


def _owners(root: str) -> tuple[int, ...]:
    """Who owns the root file system, as far as its top shows."""
    found = [os.stat(root).st_uid]
    try:
        found.append(os.lstat(f"{root}/usr").st_uid)
    except OSError:
        pass
    return tuple(found)


def _network(policy: Policy) -> NetworkFacts | None:
    if policy.network.mode != "user":
        return None
    from sandbox.host.network import network_facts

    return network_facts()


def _network_files(policy: Policy) -> tuple[tuple[str, bytes], ...]:
    """What names are resolved with, for a network that the host's name servers are reached by."""
    if policy.network.mode == "user":
        from sandbox.plan.endpoints import files

        return files()
    if policy.network.mode != "host":
        return ()
    found = []
    for path in ("/etc/resolv.conf", "/etc/hosts"):
        try:
            found.append((path, read_file("/", path, _FILE_BYTES)))
        except OSError:
            continue
    return tuple(found)


def _accounts(root: str) -> tuple[bytes, bytes]:
    found = []
    for path in ("/etc/passwd", "/etc/group"):
        try:
            found.append(read_file(root, path, _FILE_BYTES))
        except OSError:
            found.append(b"")
    return found[0], found[1]


def _limits_matter(policy: Policy) -> bool:
    """Whether somebody asked for a limit, or for a policy that does not go without them."""
    keys = (f"resources.{name}" for name, _ in policy.resources)
    return policy.refuses("cgroup") or any(map(policy.asked, keys))


def _devices(policy: Policy) -> tuple[tuple[str, str], ...]:
    """The numbers of the block devices that are to be limited."""
    found = []
    for entry in policy.resources.io_max:
        path = entry.rpartition(":")[0]
        if not path.startswith("/"):
            continue
        try:
            status = os.stat(path)
            cause = "" if stat.S_ISBLK(status.st_mode) else "not a block device"
        except OSError as error:
            cause = (error.strerror or "").lower()
        if cause:
            raise PolicyError(
                f"cannot limit {path}",
                cause=f"{cause}, from {policy.origin('resources.io_max')}",
                hint="name a disk, such as /dev/sda or 8:0; lsblk lists them",
            )
        found.append((path, f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"))
    return tuple(found)


def _identity(folder: str) -> tuple[int, int]:
    """Device and inode; (0, 0) for none."""
    try:
        found = os.stat(folder) if folder else None
    except OSError:  # a plan that is only shown: the folder is made for a run
        return 0, 0
    return (found.st_dev, found.st_ino) if found else (0, 0)


def _shared(policy: Policy) -> Shared | None:
    if not policy.shared:
        return None
    from sandbox.runtime.sharing import find_shared

    return find_shared(policy)


def gather(
    policy: Policy,
    facts: HostFacts,
    rootfs: str,
    argv: tuple[str, ...],
    *,
    env: Mapping[str, str],
    storage: str,
    upper: str = "",
    pass_fds: tuple[int, ...] = (),
    files: tuple[tuple[str, bytes], ...] = (),
) -> Request:
    """The Request for one run; makes at most sbx's own folders. `files` come with its network.

    Raises RootfsError and PolicyError.
    """
    root, real = _rootfs(rootfs)
    if policy.filesystem.persist:
        from sandbox.services.storage.layer import check_place

        check_place(policy.filesystem.persist, root.path)
    user = policy.identity.user
    if user is None:
        user = default_user(policy, facts)
    sources = _bind_sources(policy)
    check_places(policy, real, sources, bind=storage == "bind")
    bound = [(real, "", False)] if storage != "copy" else []
    bound += [(path, mount.target, mount.read_only) for mount, _, path in sources]
    hidden, pinned = _own_folders(policy.filesystem.persist, bound)
    compiled = build(
        policy.seccomp,
        nested=policy.namespaces.nested,
        capabilities=policy.capabilities.keep,
        cache_dir=cache_dir(),
        landlock_tcp=policy.landlock.tcp,
    )
    account = find_account(root.path, user, policy.identity.group)
    return Request(
        rootfs=root,
        argv=argv,
        account=account,
        sources=tuple(source for _, source, _ in sources),
        hidden=hidden,
        pinned=pinned,
        warnings=compiled.warnings,
        env=tuple(env.items()),
        pass_fds=pass_fds,
        hard_limits=_hard_limits(),
        storage=storage,
        upper=upper,
        upper_id=_identity(policy.filesystem.persist or upper),
        program=compiled.filter,
        owners=_owners(root.path),
        files=(*_network_files(policy), *files),
        accounts=(b"", b"") if account.name else _accounts(root.path),
        cgroup=find_group(policy.resources.driver, asked=_limits_matter(policy)),
        devices=_devices(policy),
        shared=_shared(policy),
        network=_network(policy),
    )
