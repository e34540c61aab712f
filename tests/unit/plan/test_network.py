"""Network modes: one table for the plan, and a driver for each mode that holds the sandbox."""

from __future__ import annotations

import pytest

from sandbox.plan import network
from sandbox.plan.request import Degradation
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import NETWORK_MODES, Policy
from sandbox.services.network import DRIVERS


def policy(mode: str, **more: object) -> Policy:
    return build_policy(
        [*load_policy("default"), Layer("test", {"network": {"mode": mode, **more}}, {})]
    )


def test_every_mode_has_its_row_and_every_service_its_driver() -> None:
    assert set(network.MODES) == set(NETWORK_MODES)
    assert {name for name, mode in network.MODES.items() if mode.service} == set(DRIVERS)


def test_the_host_network_is_a_degradation() -> None:
    lost: list[Degradation] = []
    assert network.network_steps(policy("host"), lost) == []
    assert [(one.layer, one.quiet) for one in lost] == [("network", False)]
    asked = Layer("options", {"network": {"mode": "host"}}, {"network.mode": "--network"})
    network.network_steps(build_policy([*load_policy("default"), asked]), lost)
    assert lost[1].quiet


@pytest.mark.parametrize("loopback", [True, False])
def test_an_own_network_has_a_loopback_where_it_is_wanted(loopback: bool) -> None:
    lost: list[Degradation] = []
    steps = network.network_steps(policy("none", loopback=loopback), lost)
    assert [step.op.describe() for step in steps] == ["bring the loopback interface up"] * loopback
    assert lost == []


def test_only_a_service_holds_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network.hold_steps(policy("none")) == []
    monkeypatch.setitem(network.MODES, "none", network.Mode(namespace=True, service=True))
    (step,) = network.hold_steps(policy("none"))
    assert step.op.opcode == 32
