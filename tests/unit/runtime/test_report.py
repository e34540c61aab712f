"""The report: reasons, codes, its forms, and how it is written."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from typing import Any

import pytest

from sandbox.errors import SetupError
from sandbox.launcher import events
from sandbox.launcher.events import Event
from sandbox.plan.request import Degradation
from sandbox.runtime.report import Report, StatusLines, conclude
from sandbox.runtime.supervise import Outcome
from sandbox.services.cgroup.account import Account
from tests.support.schema import violations


def outcome(**changes: Any) -> Outcome:
    base = Outcome(None, None, None, None, (), (), 0, False, False, 0.0)
    return base.replace(**changes)


def exited(status: int) -> Event:
    return Event(events.EXITED, status=status)


def done(status: int) -> Event:
    return Event(events.DONE, status=status)


REPORT = Report(
    name="box",
    reason="exited",
    exit_code=3,
    code=3,
    signal=None,
    wall_s=1.25,
    cpu_user_s=0.5,
    cpu_system_s=0.25,
    peak_rss_bytes=3 << 20,
    output_bytes=10,
    output_dropped_bytes=0,
    layers=("user namespace", "seccomp"),
    degradations=(Degradation("time", "own clocks", "no time namespaces"),),
    storage="overlay",
    storage_reason="",
    network="none",
    policy="strict",
    identity="range",
    pid=77,
)


@pytest.mark.parametrize(
    ("found", "has_init", "reason"),
    [
        (outcome(exited=exited(0)), True, "exited"),
        (outcome(exited=exited(9)), True, "signalled"),
        (outcome(exited=exited(signal.SIGSYS)), True, "policy-killed"),
        (outcome(exited=exited(signal.SIGSYS | 0x80)), True, "policy-killed"),
        (outcome(exited=exited(0), timed_out=True), True, "timeout"),
        (outcome(timed_out=True, killed=True), True, "timeout"),
        (outcome(done=done(9), killed=True), True, "signalled"),
        (outcome(done=done(9)), True, "launcher-killed"),
        (outcome(), True, "launcher-killed"),
        (outcome(done=done(5 << 8)), False, "exited"),
        (outcome(done=done(9)), False, "signalled"),
    ],
)
def test_reasons(found: Outcome, has_init: bool, reason: str) -> None:
    assert conclude(found, dropped=False, has_init=has_init)[0] == reason


def test_dropped_output_is_a_reason_that_keeps_the_status() -> None:
    found = conclude(outcome(exited=exited(4 << 8)), dropped=True, has_init=True)
    assert found == ("output-limit", 4 << 8)


def test_lost_output_is_a_reason_that_keeps_the_status() -> None:
    found = conclude(outcome(exited=exited(4 << 8)), dropped=True, lost=True, has_init=True)
    assert found == ("output-lost", 4 << 8)


def test_json_has_its_schema_and_every_field() -> None:
    read = json.loads(REPORT.replace(signal=9, code=None).to_json())
    assert read["schema"] == "sbx.report/1"
    assert read["signal_name"] == "SIGKILL"
    assert read["degradations"] == [
        {"layer": "time", "lost": "own clocks", "cause": "no time namespaces"}
    ]
    assert set(read) == {"schema", "signal_name", "figures", *dict(REPORT)}


def test_a_full_file_system_is_a_reason_that_keeps_the_status() -> None:
    found = outcome(exited=exited(1 << 8), full="/tmp")
    assert conclude(found, dropped=True, has_init=True) == ("disk-full", 1 << 8)
    report = REPORT.replace(reason="disk-full", disk_full="/tmp")
    assert "disk-full: exit code 3, no room left on /tmp" in report.people()[0]


def test_how_sure_the_figures_are() -> None:
    lost = (Degradation("cgroup", "limits", "no unified control groups"),)
    alone = REPORT.replace(degradations=lost, written_bytes=512).figures()
    assert {name: row["sure"] for name, row in alone.items()} == {
        "wall_s": "exact", "cpu": "at-least", "peak_rss_bytes": "at-least",
        "memory_peak_bytes": "unknown", "pids_peak": "unknown", "written_bytes": "at-least",
        "oom_kills": "unknown",
    }  # fmt: skip
    assert alone["pids_peak"]["why"].endswith("control group counts it: no unified control groups")
    group = ACCOUNT.replace(cpu=(("usage_usec", 1),), pids_peak=None)
    grouped = REPORT.replace(cgroup=group, memory_peak_bytes=1, oom_kills=0).figures()
    assert {name for name, row in grouped.items() if row["sure"] == "exact"} == {
        "wall_s", "cpu", "memory_peak_bytes", "oom_kills"
    }  # fmt: skip
    assert "does not count" in grouped["pids_peak"]["why"]
    failed = REPORT.replace(error=SetupError("no"), reason="setup-failed").figures()
    assert {row["sure"] for row in failed.values()} == {"exact", "unknown"}


ACCOUNT = Account(
    memory_peak_bytes=64 << 20,
    memory_events=(("max", 9), ("oom_kill", 2)),
    pids_peak=7,
    pids_events=(("max", 0),),
    io=(("rbytes", 1), ("wbytes", 2)),
)


@pytest.mark.parametrize(
    "report",
    [
        REPORT,
        REPORT.replace(reason="oom", signal=9, code=None, oom_kills=2, cgroup=ACCOUNT),
        REPORT.replace(error=SetupError("no"), reason="setup-failed", phase="clone"),
        REPORT.replace(notes=(("what", "why"),), output_error="no space left on device"),
    ],
)
def test_every_report_is_as_the_schema_says(report: Report) -> None:
    assert violations(json.loads(report.to_json())) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("reason", "bored"), ("code", -1), ("code", "1"), ("exit_code", 256), ("schema", "2"),
     ("layers", [1]), ("cgroup", {}), ("more", 1), ("wall_s", True), ("degradations", [{}])],
)  # fmt: skip
def test_the_schema_refuses_others(key: str, value: object) -> None:
    report = json.loads(REPORT.to_json())
    assert violations({**report, key: value})
    assert violations({name: report[name] for name in report if name != "reason"})


@pytest.mark.parametrize(
    ("account", "status", "found"),
    [
        (ACCOUNT, 9, ("oom", 9)),
        (ACCOUNT, 0, ("oom", 0)),  # a child was killed, the command went on
        (ACCOUNT.replace(memory_events=(("oom_kill", 0),)), 9, ("signalled", 9)),
        (
            Account(pids_events=(("max", 3),)),
            1 << 8,
            ("pids-limit", 1 << 8),
        ),
        (None, 9, ("signalled", 9)),
    ],
)
def test_what_the_group_counted_is_a_reason(
    account: Account | None, status: int, found: tuple[str, int]
) -> None:
    ended = outcome(exited=exited(status))
    assert conclude(ended, dropped=False, has_init=True, account=account) == found


def test_an_init_that_was_killed_for_memory() -> None:
    ended = outcome(done=done(9))
    assert conclude(ended, dropped=False, has_init=True, account=ACCOUNT) == ("oom", 9)


def test_people_hear_of_it() -> None:
    report = REPORT.replace(reason="oom", oom_kills=2, memory_peak_bytes=64 << 20, pids_peak=7)
    assert report.people()[:2] == [
        "result  oom: exit code 3, 2 killed for want of memory",
        "used    1.25 s wall, 0.75 s cpu, 64.0 MiB peak, 7 processes at most, 10 bytes of output",
    ]


def test_an_error_is_in_the_json() -> None:
    failed = REPORT.replace(error=SetupError("no", cause="why", errno=1), reason="setup-failed")
    assert json.loads(failed.to_json())["error"]["cause"] == "why"
    assert failed.people()[0] == "result  setup-failed: no"


def test_a_few_aligned_lines() -> None:
    assert REPORT.people() == [
        "result  exited: exit code 3",
        "used    1.25 s wall, 0.75 s cpu, 3.0 MiB peak, 10 bytes of output",
        "under   policy strict, overlay storage, network none, range ids",
        "layers  user namespace, seccomp",
        "lost    own clocks (no time namespaces)",
    ]


ACCOUNTED = {
    "ports": [],
    "lost": "",
    "destinations": [
        {"protocol": "tcp", "address": "198.51.100.7", "port": 443, "name": "example.org"},
        {"protocol": "udp", "address": "2001:db8::7", "port": 53, "name": ""},
    ],
    "published": [{"protocol": "tcp", "address": "127.0.0.1", "port": 8080}],
    "others": {"connections": 0},
    "denied": [
        {
            "protocol": "icmp",
            "address": "192.0.2.1",
            "port": 0,
            "name": "",
            "rule": "not listed",
            "count": 2,
        }
    ],
    "denied_others": 0,
    "refused_names": [{"name": "\x1b[31mx.example", "count": 1}],
    "refused_names_others": 3,
    "dropped": {"flows": 2},
}


def test_people_hear_what_the_network_did() -> None:
    assert REPORT.replace(network_account=ACCOUNTED).people()[4:-1] == [
        "reached example.org 198.51.100.7:443/tcp, [2001:db8::7]:53/udp",
        "served  127.0.0.1:8080/tcp",
        "denied  192.0.2.1/icmp 2 times (not listed), the name \\x1b[31mx.example, 3 more",
        "dropped 2 for flows",
    ]


def test_people_hear_of_a_network_that_was_lost() -> None:
    account = {**ACCOUNTED, "lost": "its process has ended"}
    lines = REPORT.replace(network_account=account).people()
    assert lines[4] == "network was lost: its process has ended"


def test_a_long_account_is_cut_short_for_people() -> None:
    many = [{"protocol": "tcp", "address": "192.0.2.1", "port": n, "name": ""} for n in range(20)]
    account = {**ACCOUNTED, "destinations": many, "others": {"connections": 5}}
    reached = REPORT.replace(network_account=account).people()[4]
    assert reached.endswith("192.0.2.1:7/tcp, 17 more")


# ---- status lines ---------------------------------------------------------------------------


def test_each_event_is_a_line() -> None:
    reading, writing = os.pipe()
    lines = StatusLines(writing)
    lines.send("started", pid=5)
    lines.send("running")
    os.close(writing)
    with os.fdopen(reading) as file:
        assert [json.loads(line) for line in file] == [
            {"event": "started", "pid": 5},
            {"event": "running"},
        ]


def test_a_reader_that_does_not_read_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.runtime.report._PATIENCE_S", 0.05)
    reading, writing = os.pipe()
    size = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    StatusLines(writing).send("exited", text="x" * size * 3)
    assert os.get_blocking(writing)
    os.close(reading)
    os.close(writing)


def test_a_reader_that_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lines = StatusLines(writing)
    lines.send("started")
    lines.send("running")
    os.close(writing)


def test_no_descriptor_is_no_line() -> None:
    StatusLines(None).send("started")
