"""The sandbox that a new one shares namespaces with: found, asked whether it may be, and entered.

Nothing inside it is trusted: its plan is what was stored at its start, its namespaces come from its
launcher and are checked to belong together, and to this user.
"""

from __future__ import annotations

from sandbox.errors import PolicyError, StateError
from sandbox.plan import ops
from sandbox.plan.request import Shared
from sandbox.plan.wire import decode
from sandbox.policy.model import CONTAINER, NO_MAP
from sandbox.runtime import keeper, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.policy.model import Policy

_PLACES = {"net": keeper.NET, "ipc": keeper.IPC, "uts": keeper.UTS, "pid": keeper.PID}
_FILES = ("/etc/hosts", "/etc/resolv.conf")


def find_shared(policy: Policy) -> Shared:
    """The one sandbox that policy.shared names. Raises StateError and PolicyError."""
    names = {key: policy.value(key).removeprefix(CONTAINER) for key in policy.shared.values()}
    first, *others = dict.fromkeys(names.values())
    folder = registry.find(first)
    try:
        for other in others:
            with_it = registry.find(other)
            with_it.close()
            if with_it.id != folder.id:
                raise PolicyError(
                    f"cannot share namespaces with both {first} and {other}",
                    cause="one user namespace must own them all",
                    hint=f"share with one of them: if {other} shares with {first}, name {other}",
                )
        return _shared(policy, folder)
    finally:
        folder.close()


def _shared(policy: Policy, folder: registry.Folder) -> Shared:
    known = folder.description
    refused = [kind for kind in policy.shared if kind not in known.shareable]
    if refused:
        raise PolicyError(
            f"cannot share namespaces with sandbox {known.name}",
            cause=f"its policy {known.policy} does not let others share: {', '.join(refused)}",
            hint="start it with a policy whose namespaces.shareable names them",
        )
    if not folder.lives():
        raise StateError(
            f"sandbox {known.name} is not running",
            cause="its namespaces have ended with it",
            hint=f"see how it ended with: sbx inspect {known.id}",
        )
    if known.identity == NO_MAP:
        raise PolicyError(
            f"cannot share namespaces with sandbox {known.name}",
            cause="it has no user namespace of its own: the host's root owns them",
            hint='start it without --privileged and without identity.map = "none"',
        )
    if "net" in policy.shared and known.network == "host":
        raise PolicyError(
            f"cannot share the network of sandbox {known.name}",
            cause="it has none of its own: it is on the host's",
            hint="use --network host, with what that means",
        )
    stored = decode(folder.read("plan"))
    maps = next(op for op in stored if isinstance(op, ops.IdMap))
    limits = [op.value for op in stored if isinstance(op, ops.ProcWrite) and op.path == ops.NESTING]
    limits += [op.room for op in stored if isinstance(op, ops.Share)]
    files = [(op.path, op.content) for op in stored if isinstance(op, ops.File)]
    return Shared(
        id=known.id,
        name=known.name,
        uids=maps.uids,
        gids=maps.gids,
        deny_setgroups=bool(maps.deny_setgroups),
        room=next(iter(limits), ""),
        files=tuple(f for f in files if f[0] in _FILES) if "net" in policy.shared else (),
    )


def open_shared(identity: str, kinds: Iterable[str]) -> dict[int, int]:
    """Descriptors by place of the namespaces to share, and of the user namespace that owns them;
    the caller's to close. Raises StateError."""
    folder = registry.find(identity)
    try:
        with keeper.Keeper(folder) as kept:
            found = kept.namespaces()
        places = {keeper.USER, *(_PLACES[kind] for kind in kinds)}
        for place in [place for place in found if place not in places]:
            keeper.close_all((found.pop(place),))
        try:
            keeper.check_owned(found)
        except OSError as error:
            keeper.close_all(found.values())
            raise StateError(
                f"cannot share namespaces with sandbox {folder.name}",
                cause=(error.strerror or str(error)).lower(),
            ) from error
        return found
    finally:
        folder.close()
