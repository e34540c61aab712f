"""User mode where the host has no TUN device, or no IPv6: what is left works, and it is said."""

from __future__ import annotations

import pytest

from sandbox.host.network import NetworkFacts
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.session import RunOptions, run_session
from sandbox.runtime.task import Task
from tests.e2e.test_network_user import ASK, PYTHON, closed_port, echo, serving

NO_TUN = NetworkFacts("/dev/net/tun: no such file or directory", "", "")
NO_IPV6 = NetworkFacts("", "", "IPv6: operation not supported")


def run(monkeypatch: pytest.MonkeyPatch, facts: NetworkFacts, code: str, *allow: str) -> list[str]:
    """The lines that Python code prints inside, and last what was told and degraded."""
    monkeypatch.setattr("sandbox.host.network.network_facts", lambda: facts)
    monkeypatch.setattr("sandbox.services.network.user.driver.network_facts", lambda: facts)
    data = {"network": {"mode": "user", "allow": list(allow)}}
    told: list[str] = []
    out = bytearray()
    options = RunOptions(
        stdout=out,
        forward_signals=False,
        notify=lambda what, cause: told.append(f"{what}: {cause}"),
    )
    policy = build_policy([*load_policy("default"), Layer("test", data)])
    report = run_session(policy, Task("/", (*PYTHON, ASK + code)), options)
    assert report.exit_code == 0
    losses = [lost.lost for lost in report.degradations if lost.layer == "network"]
    assert report.network_account is not None
    refused = [row["name"] for row in report.network_account["refused_names"]]
    return [*out.decode().splitlines(), *refused, "; ".join(losses), "; ".join(told)]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_without_a_device_connections_are_accepted_first(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    closed = closed_port()
    four = address == "127.0.0.1"
    gateway, family = ("10.0.2.2", "AF_INET") if four else ("fd00:73:6278::2", "AF_INET6")
    with serving(echo, address) as port:
        lines = run(
            monkeypatch,
            NO_TUN,
            f"f = socket.{family}\n"
            f"shown(ask({gateway!r}, {port}, family=f), ask({gateway!r}, {closed}, family=f))\n"
            "listener = socket.create_server(('127.0.0.1', 8080))\n"
            "shown(socket.create_connection(('127.0.0.1', 8080)).getpeername()[1])\n"
            "try: socket.getaddrinfo('not.listed.example', 80)\n"
            "except socket.gaierror: pass\n",
            *(f"host:{port}", f"host:{closed}"),
        )
    assert lines[0] in ("HELLO ECONNRESET", "HELLO EPIPE")
    assert lines[1] == "8080"
    assert lines[2] == "not.listed.example"  # asked by datagram, and answered
    assert "UDP but for DNS" in lines[3]
    assert "without the difference between refused and accepted" in lines[4]


def test_without_ipv6_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo) as port:
        lines = run(
            monkeypatch,
            NO_IPV6,
            f"shown(ask('10.0.2.2', {port}), ask('host', {port}))\n"
            "shown([line[:4] for line in open('/proc/net/if_inet6') if line[:2] == 'fd'])\n",
            f"host:{port}",
        )
    assert lines[:2] == ["HELLO HELLO", "[]"]
    assert lines[2] == "IPv6 inside"
    assert "IPv6" not in lines[3]
