"""A stored Plan + a further command → the Plan that runs it in the living sandbox. Pure.

The profile is taken over from the stored plan as it is: the same limits, ids, capabilities,
Landlock rules and filter, in the same order.
"""

from __future__ import annotations

from sandbox.errors import UsageError
from sandbox.plan import ops
from sandbox.policy.units import quote
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from sandbox.host.accounts import Account

    T = TypeVar("T", bound=ops.Op)

CLONE_NEWNET, CLONE_NEWPID = 0x40000000, 0x20000000
SCOPE_SOCKET = 1
SCOPE_SIGNAL = 2
PAYLOAD_PHASE = 40  # the first opcode of the payload's phase, helpers/launcher/plan.h


class Entry(Record):
    """What to run in a living sandbox.

    `env` is added to the first command's environment; `cwd` "" is that command's. `account`
    None is its user. `capabilities`: the mask that the account may keep. `argv` is empty for a
    check that something can be entered. `leave`: once it runs, the command is the sandbox's.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    account: Account | None = None
    capabilities: int | None = None
    terminal: bool = False
    pass_fds: tuple[int, ...] = ()
    leave: bool = False


def join_plan(stored: tuple[ops.Op, ...], entry: Entry) -> tuple[ops.Op, ...]:
    """Raises UsageError for a user that the sandbox's id map does not contain, and for a folder
    to start in that is not absolute."""
    if entry.cwd and not entry.cwd.startswith("/"):
        raise UsageError(f"cannot start in {quote(entry.cwd)}", cause="it is not an absolute path")
    id_map, inner = _find(stored, ops.IdMap), inner_of(stored)
    ids, first = _find(stored, ops.Ids), _find(stored, ops.Exec)
    if entry.account is not None:
        ids = _ids(entry.account, ids, inner)
    made: list[ops.Op] = [ops.Join(id_map.deny_setgroups, _last(id_map.uids))]
    made += [op for op in stored if isinstance(op, ops.Cgroup)]
    made += [op for op in stored if isinstance(op, ops.ProcWrite) and op.path.startswith("self/")]
    if entry.terminal:
        # The outer user namespace sets it up: its numbers.
        owner = _translate(ids.uid, inner.uids), _translate(ids.gid, inner.gids)
        made.append(ops.Terminal(*owner))
    payload = [op for op in stored if op.opcode >= PAYLOAD_PHASE]
    made += [_replace(op, entry, ids, first) for op in _unscoped(payload, stored)]
    return tuple(made)


def _last(extents: tuple[tuple[int, int, int], ...]) -> int:
    """The highest number: a command is the caller's, or one of the first."""
    return max(start + count - 1 for start, _, count in extents)


def _unscoped(payload: list[ops.Op], stored: tuple[ops.Op, ...]) -> list[ops.Op]:
    """Without the scopes that namespaces draw as well.

    A second Landlock domain is foreign to the first: with a scope of its own the command could
    not signal what an earlier one left running (landlock(7)). Signals end at the pid namespace
    anyway, and abstract sockets at a network namespace of the sandbox's own.
    """
    own = _find(stored, ops.Namespaces).flags
    drawn = SCOPE_SOCKET * bool(own & CLONE_NEWNET) | SCOPE_SIGNAL * bool(own & CLONE_NEWPID)
    found = []
    empty = False
    for op in payload:
        if isinstance(op, ops.LandlockRuleset):
            scopes = op.scoped & ~drawn
            empty = not (op.handled_fs or op.handled_net or scopes)
            op = op.replace(scoped=scopes)
        # A ruleset that handles nothing is refused by the kernel.
        if not (empty and isinstance(op, ops.LandlockRuleset | ops.LandlockEnforce)):
            found.append(op)
    return found


def inner_of(stored: Iterable[ops.Op]) -> ops.InnerUser:
    """The payload's maps; without a user namespace, those of all ids."""
    every = ((0, 0, 2**32 - 1),)
    own = next((op for op in stored if isinstance(op, ops.InnerUser)), None)
    return own or ops.InnerUser(0, 0, every, every)


def _find(stored: tuple[ops.Op, ...], kind: type[T]) -> T:
    return next(op for op in stored if isinstance(op, kind))


def _replace(op: ops.Op, entry: Entry, ids: ops.Ids, first: ops.Exec) -> ops.Op:
    if isinstance(op, ops.Ids):
        return ids
    if isinstance(op, ops.SetCapabilities) and entry.capabilities is not None:
        return ops.SetCapabilities(entry.capabilities)
    if isinstance(op, ops.CloseDescriptors):
        keep = sorted({*entry.pass_fds, ops.CHANNEL, ops.EXEC_PIPE})
        return ops.CloseDescriptors(tuple(keep))
    if isinstance(op, ops.Exec):
        flags = ops.EXEC_INIT | ops.EXEC_LEAVE * entry.leave
        return ops.Exec(flags, entry.argv, _environment(entry, first), entry.cwd or first.cwd)
    return op


def _environment(entry: Entry, first: ops.Exec) -> tuple[str, ...]:
    env = dict(word.partition("=")[::2] for word in first.env)
    if entry.account is not None:
        env |= {"HOME": entry.account.home or "/tmp", "USER": entry.account.name}
        env |= {"LOGNAME": entry.account.name, "SHELL": entry.account.shell}
    env |= dict(entry.env)
    return tuple(
        f"{name}={value}" for name, value in env.items() if value or name in dict(entry.env)
    )


def _ids(account: Account, ids: ops.Ids, inner: ops.InnerUser) -> ops.Ids:
    gid = ids.gid if account.gid is None else account.gid
    for what, number, extents in (("user", account.uid, inner.uids), ("group", gid, inner.gids)):
        if not any(start <= number < start + count for start, _, count in extents):
            raise UsageError(
                f"cannot run as {what} {number}",
                cause=f"this sandbox has no {what} of that number",
                hint='start it with identity.map = "range" in its policy',
            )
    groups = (gid,) if ids.set_groups else ()
    return ops.Ids(account.uid, gid, ids.set_groups, groups)


def _translate(number: int, extents: tuple[tuple[int, int, int], ...]) -> int:
    for start, outside, count in extents:
        if start <= number < start + count:
            return outside + number - start
    return number
