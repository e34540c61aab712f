"""What the doctor says of bridges, with a faked nft."""

from __future__ import annotations

import json

import pytest

from sandbox.host import checks_network, cures

DOCKER = [
    {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"},
    {"family": "ip", "table": "filter", "name": "DOCKER-USER"},
]


def both(command: str) -> str:
    """A command for each way."""
    return "\n".join(f"{command} -{way} sbx+ -j ACCEPT" for way in "io")


def found(
    monkeypatch: pytest.MonkeyPatch, chains: list[dict[str, str]], said: str = ""
) -> tuple[str, str]:
    """(verdict and detail, fix) for these chains."""
    text = said or json.dumps({"nftables": [{"metainfo": {}}, *({"chain": c} for c in chains)]})
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(checks_network, "find_program", lambda _name: "/usr/sbin/nft")
    monkeypatch.setattr(checks_network, "run_program", lambda *_words: (int(bool(said)), text))
    finding = checks_network.check_bridges()
    return f"{finding.verdict}: {finding.detail}", finding.fix


def test_nothing_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"family": "inet", "table": "sbx", "name": "forward", "hook": "forward"}
    accepting = {**DOCKER[0], "policy": "accept"}
    said, fix = found(monkeypatch, [{**own, "policy": "drop"}, accepting])
    assert said.startswith("ok: ")
    assert not fix


@pytest.mark.parametrize(
    ("chains", "fix"),
    [
        (
            DOCKER,
            both("iptables -I DOCKER-USER"),
        ),
        (
            DOCKER[:1],
            both("iptables -I FORWARD"),
        ),
        (
            [{**DOCKER[0], "family": "inet", "table": "firewalld", "name": "filter_FORWARD"}],
            "firewall-cmd --permanent --zone=trusted --add-interface=sbx0 && firewall-cmd --reload",
        ),
        (
            [{**DOCKER[0], "family": "inet", "table": "mine", "name": "fwd"}],
            'nft insert rule inet mine fwd iifname "sbx*" accept\n'
            'nft insert rule inet mine fwd oifname "sbx*" accept',
        ),
    ],
)
def test_who_drops(monkeypatch: pytest.MonkeyPatch, chains: list[dict[str, str]], fix: str) -> None:
    said, cure = found(monkeypatch, chains)
    first = chains[0]
    where = f"{first['family']} {first['table']} {first['name']}"
    assert said == f"warn: {where} drops what is forwarded: bridges of sbx have no way out"
    assert cure == fix


def test_nft_is_missing_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = found(monkeypatch, [], "nope\n")
    assert said == "warn: nope; needed by sbx network only"
    monkeypatch.setattr(checks_network, "find_program", lambda _name: None)
    monkeypatch.setattr(cures, "_exists", lambda name: name == "apk")
    finding = checks_network.check_bridges()
    assert finding.verdict == "warn"
    assert finding.fix == "sudo apk add nftables"


def test_others_are_not_bothered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert checks_network.check_bridges().verdict == "ok"
