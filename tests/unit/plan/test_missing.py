"""Each layer that a host may lack, taken away by itself: refused, or said aloud."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.errors import HostError
from sandbox.host.facts import HostFacts
from sandbox.plan.compile import choose_storage, compile_plan
from sandbox.plan.request import DISK_OVERLAY
from sandbox.policy import model
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Policy

from .conftest import make_request

LACKS: dict[str, list[dict[str, Any]]] = {
    "subids": [
        {"subuids": ()},
        {"subgids": ()},
        {"newuidmap": ""},
        {"newgidmap": ""},
        {"subuids": (), "groups": (1000, 27)},
    ],
    "overlay": [
        {"overlay_error": "operation not permitted"},
        {"upper_memory_error": "input/output error"},
        {"upper_memory_error": "input/output error", "upper_disk_error": "read-only file system"},
    ],
    "landlock": [{"landlock_abi": 0}],
    "seccomp": [{"seccomp": False}],
    "time": [{"time_namespace": False}],
    "proc": [{"proc_error": "operation not permitted"}],
}
CASES = [(layer, lack) for layer, lacks in LACKS.items() for lack in lacks]


def said(policy: Policy, facts: HostFacts) -> list[tuple[str, str, str]]:
    """What is told of a run: (layer, what was lost, why)."""
    storage, reason = choose_storage(policy, facts)
    request = make_request(storage=storage)
    if storage == DISK_OVERLAY:
        request = make_request(upper="/cache/runs/1")
    plan = compile_plan(policy, facts, request)
    lost = [(d.layer, d.lost, d.cause) for d in plan.degradations]
    return lost + ([("overlay", storage, reason)] if storage != "overlay" else [])


def wants(policy: Policy, layer: str, lack: dict[str, Any]) -> bool:
    """Whether a policy asks for a layer at all."""
    if "upper_memory_error" in lack:
        return not policy.filesystem.read_only
    if layer == "time":
        return policy.namespaces.time
    wanted = policy.landlock
    return layer != "landlock" or wanted.fs != "none" or wanted.tcp or bool(wanted.scopes)


def test_every_layer_is_here() -> None:
    # Control groups are test_resources' own, and networks test_endpoints': their lack matters to
    # those who asked.
    assert {*LACKS, "cgroup", "network"} == set(model.LAYERS)


@pytest.mark.parametrize(("layer", "lack"), CASES)
@pytest.mark.parametrize("answer", model.ON_MISSING)
def test_a_missing_layer(
    policy: Policy, facts: HostFacts, layer: str, lack: dict[str, Any], answer: str
) -> None:
    assert said(policy, facts) == []
    wanted = policy.replace(on_missing=((layer, answer),))
    poor = facts.replace(**lack)
    if not wants(policy, layer, lack):
        assert said(wanted, poor) == []
    elif answer == "refuse":
        with pytest.raises(HostError) as refusal:
            said(wanted, poor)
        assert refusal.value.cause
        assert refusal.value.hint
    else:
        found = said(wanted, poor)
        assert {entry[0] for entry in found} == {layer}
        assert all(lost and cause for _, lost, cause in found)


@pytest.mark.parametrize(("layer", "lack"), CASES)
def test_strict_refuses_all_but_a_copy(facts: HostFacts, layer: str, lack: dict[str, Any]) -> None:
    strict = build_policy(load_policy("strict"))
    assert strict.refuses(layer) == (layer != "overlay")
    if layer == "overlay":
        found = [entry[0] for entry in said(strict, facts.replace(**lack))]
        assert found == (["overlay"] if "overlay_error" in lack else [])
    else:
        with pytest.raises(HostError):
            said(strict, facts.replace(**lack))
