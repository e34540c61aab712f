"""Looks up on the host what one run needs, so that the compiler can stay pure."""

from __future__ import annotations

import errno
import os
import resource

from sandbox.errors import PolicyError, RootfsError
from sandbox.host.accounts import find_account
from sandbox.linux.paths import cache_dir, config_dir, private_dir, state_dir
from sandbox.plan.identity import default_user
from sandbox.plan.ops import RLIMITS
from sandbox.plan.request import Request, Source
from sandbox.seccomp import program as compile_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.host.facts import HostFacts
    from sandbox.policy.model import Policy


def _source(path: str) -> Source:
    found = os.stat(path)
    return Source(path, found.st_dev, found.st_ino, found.st_mode)


def _rootfs(path: str) -> Source:
    absolute = os.path.abspath(path)
    try:
        return _source(absolute)
    except OSError as error:
        raise RootfsError(
            f"cannot use {path} as the root file system",
            cause=(error.strerror or "").lower(),
            hint="name a directory that holds one",
        ) from error


def _bind_sources(policy: Policy) -> tuple[Source, ...]:
    """Every bind source as it is now; all that cannot be used are named together."""
    found, problems = [], []
    for mount in policy.filesystem.mounts:
        try:
            found.append(_source(mount.source))
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
    return tuple(found)


def _check_persist(policy: Policy) -> None:
    keep = policy.filesystem.persist
    if keep and not os.path.isdir(keep):
        raise PolicyError(
            f"cannot keep changes in {keep}",
            cause="it is not a directory",
            hint=f"make it first: mkdir -p {keep}",
        )


def _hidden(policy: Policy) -> tuple[str, ...]:
    """Where bound folders would show sbx's own: a sandbox that could write there could choose the
    policy or the filter of the next one. Made first, so that they are there to be covered.
    """
    hidden = []
    for mount in policy.filesystem.mounts:
        source = os.path.realpath(mount.source)
        for own in (cache_dir(), config_dir(), state_dir()):
            real = os.path.realpath(own)
            if source == real or source.startswith(f"{real}/"):
                raise PolicyError(
                    f"cannot bind {mount.source}",
                    cause=f"it belongs to sbx itself: {own}",
                    hint="bind another folder",
                )
            if real.startswith(f"{source.rstrip('/')}/"):
                private_dir(own)
                hidden.append(f"{mount.target}/{os.path.relpath(real, source)}")
    return tuple(hidden)


def _hard_limits() -> tuple[tuple[str, int | None], ...]:
    limits = []
    for name, number in RLIMITS.items():
        hard = resource.getrlimit(number)[1]
        limits.append((name, None if hard == resource.RLIM_INFINITY else hard))
    return tuple(limits)


def gather(
    policy: Policy,
    facts: HostFacts,
    rootfs: str,
    argv: tuple[str, ...],
    *,
    env: Mapping[str, str],
    storage: str,
    pass_fds: tuple[int, ...] = (),
) -> Request:
    """The Request for one run. Raises RootfsError and PolicyError; changes nothing."""
    root = _rootfs(rootfs)
    _check_persist(policy)
    user = policy.identity.user
    if user is None:
        user = default_user(policy, facts)
    return Request(
        rootfs=root,
        argv=argv,
        account=find_account(root.path, user, policy.identity.group),
        sources=_bind_sources(policy),
        hidden=_hidden(policy),
        env=tuple(env.items()),
        pass_fds=pass_fds,
        hard_limits=_hard_limits(),
        storage=storage,
        program=compile_filter(
            policy.seccomp,
            nested=policy.namespaces.nested,
            capabilities=policy.capabilities.keep,
            cache_dir=cache_dir(),
            landlock_tcp=policy.landlock.tcp,
        ),
    )
