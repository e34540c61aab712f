"""Limits of the whole sandbox: what the launcher writes, and what is said where it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.errors import HostError, PolicyError
from sandbox.host.facts import HostFacts
from sandbox.plan import ops
from sandbox.plan.compile import compile_plan
from sandbox.plan.join import Entry, join_plan
from sandbox.plan.request import Available, Plan
from sandbox.policy.load import load_policy
from sandbox.policy.merge import Layer, build_policy
from sandbox.policy.model import Policy

from .conftest import make_request

ALL = ("cpu", "memory", "pids", "io", "cpuset")
WHOLE = Available("delegated", ALL, "/sys/fs/cgroup/mine", "0-3")
NONE = Available("", cause="no unified control groups", cure="see the doctor")


def asked(name: str = "default", **resources: Any) -> Policy:
    """A policy with flags on top."""
    origins = {f"resources.{key}": f"--{key}" for key in resources}
    return build_policy([*load_policy(name), Layer("options", {"resources": resources}, origins)])


def plan_of(policy: Policy, facts: HostFacts, group: Available | None, **more: Any) -> Plan:
    return compile_plan(policy, facts, make_request(cgroup=group, **more))


def limits(plan: Plan) -> dict[str, tuple[str, int]]:
    found = [step.op for step in plan.steps]
    return {op.file: (op.value, op.optional) for op in found if isinstance(op, ops.CgroupLimit)}


def test_every_limit_is_written(facts: HostFacts) -> None:
    policy = asked(
        memory="64M",
        memory_swap="96M",
        memory_reservation="32M",
        cpus=1.5,
        cpu_weight=400,
        cpuset="0-1",
        pids=32,
        io_max=["/dev/sda:rbps=1M,wiops=5", "8:16:wbps=1K"],
        io_weight=50,
    )
    plan = plan_of(policy, facts, WHOLE, devices=(("/dev/sda", "8:0"),))
    assert limits(plan) == {
        "memory.max": ("67108864", 0),
        "memory.swap.max": ("33554432", 0),
        "memory.low": ("33554432", 0),
        "cpu.max": ("150000 100000", 0),
        "cpu.weight": ("400", 0),
        "cpuset.cpus": ("0-1", 0),
        "pids.max": ("32", 0),
        "io.max": ("8:16 wbps=1024", 0),
        "io.weight": ("default 50", 1),
    }
    values = [step.op.value for step in plan.steps if isinstance(step.op, ops.CgroupLimit)]
    assert "8:0 rbps=1048576 wiops=5" in values
    assert "cgroup" in plan.layers
    assert plan.cgroup == WHOLE
    assert plan.degradations == ()


def test_limits_come_before_the_clone(facts: HostFacts) -> None:
    names = [type(step.op).__name__ for step in plan_of(asked(), facts, WHOLE).steps]
    assert names[:3] == ["Namespaces", "IdMap", "Cgroup"]
    assert names.index("CgroupLimit") < names.index("Private")


def test_swap_is_refused_unless_asked_for(facts: HostFacts) -> None:
    # A kernel without swap accounting has no such file: optional unless somebody wants it.
    found = limits(plan_of(asked(memory="64M"), facts, WHOLE))
    assert found["memory.swap.max"] == ("0", 1)
    found = limits(plan_of(asked(memory="64M", memory_swap=-1), facts, WHOLE))
    assert found["memory.swap.max"] == ("max", 0)


def test_nobody_looked(facts: HostFacts) -> None:
    plan = plan_of(asked(), facts, None)
    assert limits(plan) == {}
    assert plan.cgroup is None
    assert plan.degradations == ()


@pytest.mark.parametrize("name", ["strict", "default", "ci", "permissive"])
def test_what_nobody_asked_for_is_lost_quietly(name: str, facts: HostFacts) -> None:
    plan = plan_of(build_policy(load_policy(name)), facts, NONE)
    (lost,) = plan.degradations
    assert (lost.layer, lost.quiet) == ("cgroup", True)
    assert lost.cause.startswith(f"{NONE.cause}; RLIMIT_NPROC bounds all its processes to ")
    assert "processes" in lost.lost
    assert "Cgroup" not in {type(step.op).__name__ for step in plan.steps}
    assert "cgroup" not in plan.layers


def test_rlimits_stand_in(facts: HostFacts) -> None:
    policy = asked(pids=32, memory="64M", cpus=1)
    flags = Layer("options", {"rlimits": {"as": "1G"}}, {"rlimits.as": "--ulimit"})
    both = build_policy(
        [
            *load_policy("default"),
            Layer("options", {"resources": {"pids": 32, "memory": "64M"}}, {}),
            flags,
        ]
    )

    def process_limits(plan: Plan) -> list[tuple[int, str]]:
        return [(s.op.limit, s.origin) for s in plan.steps if isinstance(s.op, ops.ProcessLimit)]

    assert process_limits(plan_of(policy, facts, NONE)) == [(32, "--pids")]
    assert process_limits(plan_of(policy, facts, WHOLE)) == [(4096, "default.toml")]
    causes = [lost.cause for lost in plan_of(both, facts, NONE).degradations]
    words = "RLIMIT_NPROC bounds all its processes to 32; RLIMIT_AS bounds each process"
    assert causes == [f"{NONE.cause}; {words}"]
    policy = asked(pids=32, memory="64M")
    (lost,) = plan_of(policy, facts, WHOLE.replace(controllers=("pids",), cause="no")).degradations
    assert lost.cause == "no; no rlimit stands in"


def test_what_was_asked_for_is_lost_aloud(facts: HostFacts) -> None:
    first, second = plan_of(asked(cpus=0.5), facts, NONE).degradations
    assert (first.quiet, "0.5 cpus" in first.lost) == (False, True)
    assert (second.quiet, "memory" in second.lost) == (True, True)


def test_strict_refuses_what_was_asked_for(facts: HostFacts) -> None:
    with pytest.raises(HostError, match="cannot limit the whole sandbox to 64M of memory") as error:
        plan_of(asked("strict", memory="64M"), facts, NONE)
    assert (error.value.cause, error.value.hint) == (NONE.cause, NONE.cure)
    assert plan_of(asked("strict"), facts, NONE).degradations[0].quiet


def test_required_refuses_all(facts: HostFacts) -> None:
    with pytest.raises(HostError, match="cannot limit the whole sandbox to 8G of memory"):
        plan_of(asked(required=True), facts, NONE)


def test_a_controller_is_missing(facts: HostFacts) -> None:
    some = WHOLE.replace(controllers=("memory", "pids"), cause="io and cpu are not given")
    plan = plan_of(asked(cpus=0.5, memory="64M"), facts, some)
    (lost,) = plan.degradations
    assert lost.lost == "limits of the whole sandbox: 0.5 cpus"
    assert set(limits(plan)) == {"memory.max", "memory.swap.max", "pids.max"}
    with pytest.raises(HostError, match=r"0\.5 cpus"):
        plan_of(asked("strict", cpus=0.5), facts, some)


def test_processors_that_do_not_exist(facts: HostFacts) -> None:
    with pytest.raises(PolicyError, match='cannot use processors "2-5"') as error:
        plan_of(asked(cpuset="2-5"), facts, WHOLE)
    assert error.value.cause == "there is no 4, 5 among 0-3"


def test_who_joins_begins_in_the_group(facts: HostFacts) -> None:
    stored = tuple(step.op for step in plan_of(asked(), facts, WHOLE).steps)
    joined = join_plan(stored, Entry(("id",)))
    assert [type(op).__name__ for op in joined[:2]] == ["Join", "Cgroup"]
    assert not any(isinstance(op, ops.CgroupLimit) for op in joined)
    outside = tuple(step.op for step in plan_of(asked(), facts, NONE).steps)
    assert not any(isinstance(op, ops.Cgroup) for op in join_plan(outside, Entry(("id",))))
