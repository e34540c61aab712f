"""Beside firewalls of others: what the doctor says is true, and its cure works."""

from __future__ import annotations

import json

from tests.kernel.privileged.test_bridge import ECHO, REFUSED, ask
from tests.support.worlds import HOST4, WORLD4, Host


def test_the_cure_for_a_firewall_that_drops(host: Host) -> None:
    host.world.serve(ECHO, 8080)
    assert ask(host, WORLD4, 8080) == HOST4
    assert _finding(host)["verdict"] == "ok"
    host("nft", "add", "table", "inet", "mine")
    chain = "{ type filter hook forward priority 0; policy drop; }"
    host("nft", "add", "chain", "inet", "mine", "onward", chain)
    assert ask(host, WORLD4, 8080) in REFUSED
    finding = _finding(host)
    assert finding["verdict"] == "warn"
    assert "inet mine onward drops what is forwarded" in finding["detail"]
    for line in finding["fix"].splitlines():
        host("sh", "-c", line)
    assert ask(host, WORLD4, 8080) == HOST4


def _finding(host: Host) -> dict[str, str]:
    said = host.sbx("doctor", "--json", timeout=100).stdout
    found: dict[str, str] = next(f for f in json.loads(said)["findings"] if f["name"] == "bridges")
    return found
