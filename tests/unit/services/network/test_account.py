"""The counters of a sandbox's network: what they say, and that they stay small."""

import json
import socket

from sandbox.services.network.user.account import Account

V4 = socket.inet_aton("198.51.100.7")
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7")


def test_a_destination_is_one_row_however_often_it_is_used() -> None:
    account = Account()
    account.opened("tcp", V4, 443).sent += 10
    account.opened("tcp", V4, 443, name="a.example").received += 5
    account.opened("tcp", V6, 443)
    rows = account.as_dict()["destinations"]
    assert [row["address"] for row in rows] == ["198.51.100.7", "2001:db8::7"]
    assert rows[0] == {
        "protocol": "tcp",
        "address": "198.51.100.7",
        "port": 443,
        "name": "a.example",
        "connections": 2,
        "failed": 0,
        "sent_bytes": 10,
        "received_bytes": 5,
    }


def test_denials_and_refusals_are_counted() -> None:
    account = Account()
    for _ in range(3):
        account.denied("udp", V4, 53, "not listed")
        account.refused("x.example")
    account.dropped("flows")
    found = account.as_dict()
    assert found["denied"][0]["count"] == 3
    assert found["refused_names"] == [{"name": "x.example", "count": 3}]
    assert found["dropped"] == {"flows": 1}


def test_what_a_sandbox_invents_does_not_make_the_report_long() -> None:
    account = Account(rows=8)
    for number in range(1000):
        account.opened("tcp", V4, number).sent += 1
        account.denied("tcp", V4, number, "r", "n" * 10_000)
        account.refused(f"{number}" + "x" * 10_000)
    found = account.as_dict()
    assert len(found["destinations"]) == len(found["denied"]) == len(found["refused_names"]) == 8
    assert found["others"]["connections"] == found["others"]["sent_bytes"] == 992
    assert found["denied_others"] == found["refused_names_others"] == 992
    assert len(json.dumps(found)) < 10_000
