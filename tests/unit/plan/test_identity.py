"""Which ids exist inside, and what happens when the host cannot give them."""

from __future__ import annotations

import pytest

from sandbox.errors import HostError, PolicyError
from sandbox.host.accounts import Account
from sandbox.host.facts import HostFacts
from sandbox.plan.identity import choose_ids
from sandbox.policy.model import Identity, Policy

from .conftest import strict


def _with(policy: Policy, **identity: object) -> Policy:
    return policy.replace(identity=policy.identity.replace(**identity))


def test_keep_id_makes_the_payload_the_caller(facts: HostFacts) -> None:
    ids, lost = choose_ids(strict(), facts, Account(1000))
    assert (ids.uid, ids.gid, lost) == (1000, 1000, [])
    assert ids.outer_uids == ((0, 1000, 1), (1, 100000, 65535))
    assert ids.outer_uid(1000) == 0
    assert ids.outer_uid(0) == 1
    assert ids.helpers
    assert not ids.deny_setgroups


def test_another_number_is_still_the_caller(facts: HostFacts) -> None:
    ids, _ = choose_ids(strict(), facts, Account(33))
    assert (ids.uid, ids.gid) == (33, 33)
    assert ids.outer_uid(33) == ids.outer_gid(33) == 0


def test_range_gives_other_numbers_to_subordinate_ids(facts: HostFacts) -> None:
    policy = _with(strict(), map="range", root=True)
    ids, _ = choose_ids(policy, facts, Account(33))
    assert ids.outer_uid(0) == 0
    assert ids.outer_uid(33) == 33


def test_strict_refuses_user_zero(facts: HostFacts) -> None:
    with pytest.raises(PolicyError, match="user id 0"):
        choose_ids(strict(), facts, Account(0))


def test_root_is_never_the_payload_unless_asked(facts: HostFacts) -> None:
    as_root = facts.replace(uid=0, gid=0, groups=(0,), user_name="root", subuids=(), subgids=())
    ids, _ = choose_ids(strict(), as_root, Account(1000))
    assert ids.outer_uid(1000) == 1000
    assert ids.outer_uids[1][1] >= 0x70000000
    assert not ids.helpers


@pytest.mark.parametrize("lack", [{"subuids": ()}, {"subgids": ()}, {"newuidmap": ""}])
def test_missing_ranges_refuse_or_degrade(facts: HostFacts, lack: dict[str, object]) -> None:
    poor = facts.replace(**lack)
    with pytest.raises(HostError):
        choose_ids(strict(), poor, Account(1000))
    lenient = strict().replace(on_missing=(("subids", "degrade"),))
    ids, lost = choose_ids(lenient, poor, Account(1000))
    assert ids.kind == "single"
    assert ids.inner_uids == ((1000, 0, 1),)
    assert [d.layer for d in lost] == ["subids"]


def test_unreadable_ranges_are_told_apart_from_missing_ones(facts: HostFacts) -> None:
    why = "cannot read /etc/subuid: permission denied"
    with pytest.raises(HostError) as caught:
        choose_ids(strict(), facts.replace(subuids=(), subids_error=why), Account(1000))
    assert caught.value.cause == why


def test_single_with_more_groups_is_refused_by_strict(facts: HostFacts) -> None:
    policy = _with(strict(), map="single")
    choose_ids(policy, facts, Account(1000))
    with pytest.raises(HostError, match="groups"):
        choose_ids(policy, facts.replace(groups=(1000, 27)), Account(1000))


def test_ids_beyond_the_range_are_refused(facts: HostFacts) -> None:
    policy = _with(strict(), map="range", root=True)
    with pytest.raises(PolicyError, match="cannot exist"):
        choose_ids(policy, facts, Account(70000))


def test_identity_defaults() -> None:
    assert Identity().map == "keep-id"
