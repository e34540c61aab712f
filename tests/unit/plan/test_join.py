"""A sandbox that is kept, and the plan that joins it: the stored profile, whole and in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import SbxError, UsageError
from sandbox.host.accounts import Account
from sandbox.plan import ops, wire
from sandbox.plan.compile import compile_plan
from sandbox.plan.join import PAYLOAD_PHASE, SCOPE_SIGNAL, Entry, join_plan
from sandbox.plan.keep import keep
from sandbox.plan.request import Plan
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Policy
from tests.unit.plan.conftest import FACTS, make_request

KEEP = ops.Keep(ops.KEEP_DETACHED, 0, 1 << 20, 0, 0, (110,))


def compiled(policy: Policy, **changes: object) -> Plan:
    return compile_plan(policy, FACTS, make_request(**changes))


def named(name: str, **sections: dict[str, object]) -> Policy:
    return build_policy([*load_policy(name), Layer("test", sections, {})])


def operations(plan: Plan) -> tuple[ops.Op, ...]:
    return tuple(step.op for step in plan.steps)


def test_what_was_stored_is_read_back(policy: Policy) -> None:
    made = operations(keep(compiled(policy), KEEP))
    assert wire.decode(wire.encode(made)) == made


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_damaged_plan_is_refused(noise: bytes, at: int) -> None:
    message = wire.encode(operations(compiled(named("strict"))))
    damaged = message[:at] + noise
    if damaged == message:
        return
    with pytest.raises(SbxError):
        wire.decode(damaged)


def test_keep_comes_before_anything_is_set_up(policy: Policy) -> None:
    plan = compiled(policy)
    kinds = [type(op) for op in operations(keep(plan, KEEP))]
    assert kinds[kinds.index(ops.IdMap) + 1] is ops.Keep
    assert [op for op in operations(keep(plan, KEEP)) if op is not KEEP] == list(operations(plan))


def test_an_idle_sandbox_has_an_init_and_no_command() -> None:
    last = operations(keep(compiled(named("default", process={"init": False})), KEEP, idle=True))[
        -1
    ]
    assert isinstance(last, ops.Exec)
    assert last.flags & ops.EXEC_INIT
    assert last.flags & ops.EXEC_IDLE
    assert last.argv == ()


def test_the_profile_of_a_joining_command_is_the_stored_one(policy: Policy) -> None:
    stored = operations(keep(compiled(policy), KEEP))
    joined = join_plan(stored, Entry(("id", "-u")))
    assert isinstance(joined[0], ops.Join)
    kept = (
        ops.Keyring,
        ops.SetRlimit,
        ops.Ids,
        ops.SetCapabilities,
        ops.NoNewPrivs,
        ops.LandlockPath,
    )
    for kind in (*kept, ops.LandlockPath, ops.Workdir, ops.Seccomp):
        of_kind = [op for op in stored if isinstance(op, kind)]
        assert [op for op in joined if isinstance(op, kind)] == of_kind, kind
    assert ops.ProcWrite("self/oom_score_adj", "500", 1) in joined
    kinds = [type(op) for op in joined if op.opcode >= PAYLOAD_PHASE]
    assert kinds == [type(op) for op in stored if type(op) in kinds]
    assert joined[-1] == stored[-1].replace(flags=ops.EXEC_INIT, argv=("id", "-u"))
    left = join_plan(stored, Entry(("id",), leave=True))[-1]
    assert left == stored[-1].replace(flags=ops.EXEC_INIT | ops.EXEC_LEAVE, argv=("id",))


def rulesets(made: tuple[ops.Op, ...]) -> list[ops.LandlockRuleset]:
    return [op for op in made if isinstance(op, ops.LandlockRuleset)]


def test_a_scope_that_a_namespace_draws_too_does_not_part_commands() -> None:
    stored = operations(compiled(named("strict")))
    assert rulesets(stored)[0].scoped == 3
    ruleset = rulesets(join_plan(stored, Entry(("true",))))[0]
    assert ruleset == rulesets(stored)[0].replace(scoped=0)


def test_on_the_hosts_network_abstract_sockets_stay_apart() -> None:
    stored = operations(compiled(named("default", network={"mode": "host"})))
    scoped = rulesets(join_plan(stored, Entry(("true",))))[0].scoped
    assert scoped == rulesets(stored)[0].scoped & ~SCOPE_SIGNAL != 0


def test_a_ruleset_of_scopes_alone_goes_as_a_whole() -> None:
    stored = operations(compiled(named("ci")))
    assert rulesets(stored)
    joined = join_plan(stored, Entry(("true",)))
    assert not any(isinstance(op, ops.LandlockRuleset | ops.LandlockEnforce) for op in joined)


def test_another_user_must_be_mapped() -> None:
    single = operations(compiled(named("default", identity={"map": "single"})))
    with pytest.raises(UsageError, match="cannot run as user 4242"):
        join_plan(single, Entry(("id",), account=Account(4242)))
    ranged = operations(compiled(named("default", identity={"map": "range"})))
    joined = join_plan(
        ranged, Entry(("id",), account=Account(7, 8, "g", "/home/g"), capabilities=2)
    )
    ids = next(op for op in joined if isinstance(op, ops.Ids))
    assert (ids.uid, ids.gid, ids.groups) == (7, 8, (8,))
    assert ops.SetCapabilities(2) in joined
    assert "HOME=/home/g" in joined[-1].env  # type: ignore[attr-defined]


def test_the_group_of_the_first_command_stays_where_none_is_named() -> None:
    for how, set_groups in (("range", 1), ("single", 0)):
        stored = operations(compiled(named("default", identity={"map": how})))
        first = next(op for op in stored if isinstance(op, ops.Ids))
        joined = join_plan(stored, Entry(("id",), account=Account(first.uid)))
        ids = next(op for op in joined if isinstance(op, ops.Ids))
        assert (ids.uid, ids.gid, ids.set_groups) == (first.uid, first.gid, set_groups)
        assert ids.groups == ((first.gid,) if set_groups else ())


def test_the_environment_is_the_first_commands_and_what_is_added() -> None:
    stored = operations(compiled(named("default", process={"env": {"A": "1", "B": "2"}})))
    env = join_plan(stored, Entry(("env",), env=(("B", ""), ("C", "3"))))[-1].env  # type: ignore[attr-defined]
    assert {"A=1", "B=", "C=3"} <= set(env)
    assert "B=2" not in env


def test_descriptors_of_the_first_command_are_not_kept_open() -> None:
    stored = operations(compiled(named("default"), pass_fds=(7,)))
    joined = join_plan(stored, Entry(("true",), pass_fds=(9,)))
    closing = next(op for op in joined if isinstance(op, ops.CloseDescriptors))
    assert closing.keep == (9, ops.CHANNEL, ops.EXEC_PIPE)


def test_a_terminal_belongs_to_the_commands_user() -> None:
    stored = operations(compiled(named("default", identity={"map": "keep-id"})))
    inner = next(op for op in stored if isinstance(op, ops.InnerUser))
    assert (0, 1) == inner.uids[1][:2] == inner.gids[1][:2]  # the caller is 0 outside
    joined = join_plan(stored, Entry(("sh",), account=Account(5, 6), terminal=True))
    assert ops.Terminal(6, 7) in joined
    plain = join_plan(stored, Entry(("sh",), account=Account(5, 6)))
    assert not any(isinstance(op, ops.Terminal) for op in plain)
