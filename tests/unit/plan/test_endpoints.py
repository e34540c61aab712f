"""The network of user mode in the plan, with and without what the host has for it."""

from __future__ import annotations

import pytest

from sandbox.errors import HostError
from sandbox.host.network import NetworkFacts
from sandbox.linux import netlink
from sandbox.plan import ops
from sandbox.plan.endpoints import addresses, endpoint_steps, names
from sandbox.plan.request import Degradation
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Policy

ALL = NetworkFacts("", "", "")
NO_TUN = ALL.replace(tun_error="/dev/net/tun: no such file or directory")
NO_IPV6 = ALL.replace(ipv6_error="IPv6: operation not supported")


def policy(name: str = "default", **network: object) -> Policy:
    data = {"network": {"mode": "user", **network}}
    return build_policy([*load_policy(name), Layer("options", data, {"network.mode": "--network"})])


def steps(
    facts: NetworkFacts, wanted: Policy | None = None
) -> tuple[list[ops.Op], list[Degradation]]:
    lost: list[Degradation] = []
    found = [step.op for step in endpoint_steps(wanted or policy(), facts, lost)]
    return found, lost


@pytest.mark.parametrize("facts", [ALL, NO_TUN, NO_IPV6, NO_TUN.replace(ipv6_error="no")])
def test_every_name_has_its_descriptor_in_order(facts: NetworkFacts) -> None:
    made = [op for op in steps(facts)[0] if isinstance(op, ops.Tun | ops.Socket)]
    kinds = {(1, 0): "seed", (1, 4096): "tcp", (3, 0): "raw", (2, 0): "dns"}
    words = [
        "tun"
        if isinstance(op, ops.Tun)
        else kinds[op.kind, op.backlog] + ("4" if op.family == 2 else "6") + "u" * (op.kind == 2)
        for op in made
    ]
    assert tuple(words) == names(facts)
    assert len(words) <= 10  # MAX_HELD, helpers/launcher/launch.h


def test_without_ipv6_nothing_of_it_is_made() -> None:
    found, lost = steps(NO_IPV6)
    assert [one.quiet for one in lost] == [True]
    assert not any("6" in name for name in names(NO_IPV6))
    assert addresses(NO_IPV6)[3:] == (b"", b"", b"")
    (ways,) = [op for op in found if isinstance(op, ops.Netlink) and op.protocol == netlink.ROUTE]
    assert ways.answers == 5


def test_a_missing_device_is_a_loss_that_strict_refuses() -> None:
    _, lost = steps(NO_TUN)
    assert [(one.layer, one.cause) for one in lost] == [("network", NO_TUN.tun_error)]
    with pytest.raises(HostError, match="cannot make a TUN device"):
        steps(NO_TUN, policy("strict"))


def test_without_the_rules_there_is_no_network() -> None:
    with pytest.raises(HostError, match="user mode") as caught:
        steps(ALL.replace(tproxy_error="nf_tables with tproxy: no such file or directory"))
    assert "nf_tables" in (caught.value.cause or "")


def test_the_size_of_packets_is_the_policys() -> None:
    (ways, _) = [op for op in steps(ALL, policy(mtu=1500))[0] if isinstance(op, ops.Netlink)]
    first = next(netlink.split(ways.batch))
    assert netlink.attributes(first[2][16:])[4] == (1500).to_bytes(4, "little")


@pytest.mark.parametrize("name", ["strict", "default"])
def test_the_rules_take_the_place_of_a_built_in_refusal(name: str) -> None:
    wanted = policy(name)
    assert not wanted.landlock.tcp
    assert wanted.origin("landlock.tcp") == ("--network" if name == "strict" else "default.toml")
    assert {"inet", "inet6"} <= set(wanted.seccomp.sockets)


def test_what_a_policy_of_ones_own_refuses_stays_refused() -> None:
    own = Layer("own.toml", {"landlock": {"tcp": True}, "seccomp": {"sockets": ["unix"]}})
    mode = Layer("options", {"network": {"mode": "user"}}, {"network.mode": "--network"})
    wanted = build_policy([*load_policy("strict"), own, mode])
    assert wanted.landlock.tcp
    assert set(wanted.seccomp.sockets) == {"unix", "inet", "inet6"}
