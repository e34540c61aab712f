"""From the wanted identity and the caller's ranges to the two id maps."""

from __future__ import annotations

from sandbox.errors import HostError, PolicyError
from sandbox.host.subids import ROOT_RANGE, inner_map, range_map
from sandbox.plan.request import Degradation, give_up
from sandbox.policy.model import NO_MAP
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.accounts import Account
    from sandbox.host.facts import HostFacts
    from sandbox.plan.ops import Extents
    from sandbox.policy.model import Policy

ALL_IDS = ((0, 0, 2**32 - 1),)


class Ids(Record):
    """The outer maps, the inner maps, and the payload's ids in the inner namespace."""

    uid: int
    gid: int
    outer_uids: Extents
    outer_gids: Extents
    inner_uids: Extents
    inner_gids: Extents
    helpers: bool
    deny_setgroups: bool
    kind: str

    def outer_uid(self, uid: int) -> int | None:
        """The outer namespace's number of an inner user id; None when it has none."""
        return _translate(self.inner_uids, uid)

    def outer_gid(self, gid: int) -> int | None:
        """The outer namespace's number of an inner group id; None when it has none."""
        return _translate(self.inner_gids, gid)


def _translate(extents: Extents, inside: int) -> int | None:
    for start, outside, count in extents:
        if start <= inside < start + count:
            return outside + inside - start
    return None


def _missing_ranges(facts: HostFacts) -> tuple[str, str, str] | None:
    """What keeps this caller from mapping a range: (what, cause, hint), None when nothing."""
    name = facts.user_name or str(facts.uid)
    if facts.uid == 0:  # maps without helpers
        hint = "run sbx in a container that has more ids, and lets its root map them"
        return ("cannot map other ids", facts.subids_error, hint) if facts.subids_error else None
    for kind, ranges in (("uid", facts.subuids), ("gid", facts.subgids)):
        if not ranges:
            return (
                f'no subordinate {"user" if kind == "uid" else "group"} ids for "{name}"',
                facts.subids_error or f'/etc/sub{kind} has no line for "{name}" or {facts.uid}',
                'run "sbx doctor" for the command that gives a free range; '
                'or set identity.map = "single" in the policy',
            )
    for path, helper in ((facts.newuidmap, "newuidmap"), (facts.newgidmap, "newgidmap")):
        if not path:
            return (
                f"cannot use {helper}",
                "it is not installed as a set-user-ID program of root, or can gain no rights here "
                "(no_new_privs, nosuid)",
                'run "sbx doctor" to see which; it comes with the package uidmap or shadow-utils',
            )
    return None


def _single(uid: int, gid: int, facts: HostFacts) -> Ids:
    return Ids(
        uid=uid,
        gid=gid,
        outer_uids=((0, facts.uid, 1),),
        outer_gids=((0, facts.gid, 1),),
        inner_uids=((uid, 0, 1),),
        inner_gids=((gid, 0, 1),),
        helpers=False,
        deny_setgroups=True,
        kind="single",
    )


def _ranged(kind: str, uid: int, gid: int, facts: HostFacts) -> Ids:
    as_root = facts.uid == 0
    subuids = facts.subuids or (ROOT_RANGE if as_root else ())
    subgids = facts.subgids or (ROOT_RANGE if as_root else ())
    outer_uids = range_map(facts.uid, subuids)
    outer_gids = range_map(facts.gid, subgids)
    # The host's root is never the payload, unless root inside was asked for by number.
    inner = "range" if as_root and uid != 0 else kind
    return Ids(
        uid=uid,
        gid=gid,
        outer_uids=outer_uids,
        outer_gids=outer_gids,
        inner_uids=inner_map(inner, uid, outer_uids),
        inner_gids=inner_map(inner, gid, outer_gids),
        helpers=not as_root,
        deny_setgroups=False,
        kind=kind,
    )


def _payload_ids(policy: Policy, facts: HostFacts, account: Account) -> tuple[int, int]:
    uid = account.uid
    gid = account.gid
    if gid is None:
        gid = facts.gid if uid == facts.uid and policy.identity.map != "range" else uid
    return uid, gid


def default_user(policy: Policy, facts: HostFacts) -> int:
    """The payload's user id when the policy names none."""
    if policy.identity.map == "range" and policy.identity.root:
        return 0
    return facts.uid or (0 if policy.identity.root else 1000)


def choose_ids(policy: Policy, facts: HostFacts, account: Account) -> tuple[Ids, list[Degradation]]:
    """Decide the maps. Raises HostError where the policy refuses what this host lacks."""
    uid, gid = _payload_ids(policy, facts, account)
    if uid == 0 and not policy.identity.root:
        raise PolicyError(
            "the policy allows no user id 0 inside",
            cause=f"identity.root is false (from {policy.origin('identity.root')})",
            hint="choose another user with --user, or another policy",
        )
    if policy.identity.map == NO_MAP:
        maps = (ALL_IDS, ALL_IDS)
        return Ids(uid, gid, *maps, *maps, False, False, NO_MAP), []
    lost: list[Degradation] = []
    missing = _missing_ranges(facts)
    if policy.identity.map != "single" and not missing:
        ids = _ranged(policy.identity.map, uid, gid, facts)
        if ids.outer_uid(uid) is None or ids.outer_gid(gid) is None:
            raise PolicyError(
                f"user {uid}, group {gid} cannot exist inside",
                cause=f"the id map has {sum(e[2] for e in ids.inner_uids)} user ids",
                hint="choose a smaller number, or ask an administrator for a larger range",
            )
        return ids, lost
    if policy.identity.map != "single" and missing:
        what, cause, hint = missing
        if policy.refuses("subids"):
            raise HostError(what, cause=cause, hint=hint)
        lost.append(Degradation("subids", "all user ids inside but one", f"{what}: {cause}"))
    return _single(uid, gid, facts), lost + _kept_groups(policy, facts)


def _kept_groups(policy: Policy, facts: HostFacts) -> list[Degradation]:
    """A single-id map cannot drop the caller's groups (user_namespaces(7), setgroups)."""
    kept = [group for group in facts.groups if group != facts.gid]
    if not kept:
        return []
    numbers = " ".join(map(str, kept))
    cause = f"with a single id mapped, groups {numbers} stay with the payload"
    groups = Degradation("subids", "dropping the caller's groups", cause)
    what = "cannot drop the caller's supplementary groups"
    hint = 'use identity.map = "keep-id" with subordinate ids, or a policy that allows it'
    return [give_up(policy, groups, what, hint)]
