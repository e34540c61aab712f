"""The doctor's check of what root's networks need of the host, and of what stands in their way."""

from __future__ import annotations

import os

from sandbox.host import cures
from sandbox.host.finding import Finding
from sandbox.linux.programs import find_program, run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OWN_TABLE = ("inet", "sbx")
_LINKS = "sbx*"


def check_bridges() -> Finding:
    """nft, and firewalls of others that drop what a bridge sends out: every one has to consent."""
    name = "bridges"
    if os.geteuid():
        return Finding(name, "ok", "bridges of the host's are for root, and not looked at")
    program = find_program("nft")
    if program is None:
        detail = "the program nft is missing; needed by sbx network only"
        return Finding(name, "warn", detail, cures.package("nftables"))
    code, said = run_program(program, "-j", "list", "chains")
    if code:
        reason = said.strip().splitlines()[:1] or [f"nft exits with {code}"]
        return Finding(name, "warn", f"{reason[0]}; needed by sbx network only")
    chains = _chains(said)
    dropping = [
        chain
        for chain in chains
        if (chain.get("hook"), chain.get("policy")) == ("forward", "drop")
        and (chain.get("family"), chain.get("table")) != OWN_TABLE
    ]
    if not dropping:
        return Finding(name, "ok", "nft is there, and no firewall drops what is forwarded")
    places = ", ".join(f"{c['family']} {c['table']} {c['name']}" for c in dropping)
    fixes = dict.fromkeys(line for chain in dropping for line in _let_through(chain, chains))
    detail = f"{places} drops what is forwarded: bridges of sbx have no way out"
    return Finding(name, "warn", detail, "\n".join(fixes))


def _chains(said: str) -> list[dict[str, Any]]:
    import json

    try:
        rows = json.loads(said)["nftables"]
    except (ValueError, KeyError, TypeError):
        return []
    return [row["chain"] for row in rows if isinstance(row, dict) and "chain" in row]


def _let_through(chain: dict[str, Any], chains: list[dict[str, Any]]) -> list[str]:
    """Commands that have one of these chains let our bridges through."""
    table = chain["table"]
    if table == "firewalld":
        add = "firewall-cmd --permanent --zone=trusted --add-interface=sbx0"
        return [f"{add} && firewall-cmd --reload"]
    if chain["family"] in ("ip", "ip6") and table == "filter":
        program = "iptables" if chain["family"] == "ip" else "ip6tables"
        names = {c["name"] for c in chains if c["family"] == chain["family"]}
        into = "DOCKER-USER" if "DOCKER-USER" in names else "FORWARD"
        return [f"{program} -I {into} -{way} sbx+ -j ACCEPT" for way in "io"]
    where = f"{chain['family']} {table} {chain['name']}"
    return [f'nft insert rule {where} {way}name "{_LINKS}" accept' for way in ("iif", "oif")]
