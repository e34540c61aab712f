"""Profiles in Docker's and the OCI's JSON: their meaning, and every way to get them wrong."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from sandbox.errors import PolicyError
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.oci import from_oci, kernel_version
from sandbox.seccomp.rules import ALLOW, KILL_PROCESS, KILL_THREAD, LOG, TRAP, errno
from sandbox.seccomp.syscalls_x86_64 import NUMBERS
from tests.support import bpf

SAMPLE = os.path.join(os.path.dirname(__file__), "engine_profile.json")
EPERM, ENOSYS = errno(1), errno(38)
FULL = (1 << 64) - 1


class Profile:
    """A profile's filter, asked by name."""

    def __init__(
        self, data: Any, capabilities: tuple[str, ...] = (), kernel: tuple[int, int] = (6, 1)
    ) -> None:
        text = data if isinstance(data, bytes) else json.dumps(data).encode()
        spec, self.warnings = from_oci(
            text, name="p.json", capabilities=capabilities, kernel=kernel
        )
        self._program = bpf.decode(compile_filter(spec))
        bpf.check(self._program)

    def __call__(self, name: str, *args: int) -> int:
        return self.ask(NUMBERS[name], *args)

    def ask(self, number: int, *args: int, arch: int = bpf.X86_64) -> int:
        return bpf.run(self._program, (arch, number, (*args, *(0,) * (6 - len(args)))))


def problems(data: Any) -> tuple[str, ...]:
    with pytest.raises(PolicyError) as caught:
        Profile(data)
    return caught.value.problems


def deny(*rules: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules)}


def allow(name: str, **more: Any) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", **more}


def arg(index: int, op: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}


def sample(**more: Any) -> Profile:
    with open(SAMPLE, "rb") as file:
        return Profile(file.read(), **more)


def test_an_engines_profile() -> None:
    got = sample()
    assert got.warnings == ()
    assert got("read") == got("mseal") == got("ptrace") == got("modify_ldt") == ALLOW
    assert got("mount") == got("chroot") == got("bpf") == EPERM
    assert got("clone3") == ENOSYS
    assert got("clone", 0x3D0F00) == ALLOW
    assert got("clone", 0x10000000) == EPERM
    assert got("socket", 2) == got("socket", 39) == got("socket", 41) == ALLOW
    assert got("socket", 38) == got("socket", 40) == EPERM
    assert got("personality", 0x20008) == ALLOW
    assert got("personality", 0x40000) == EPERM


def test_numbers_newer_than_the_profile_are_enosys() -> None:
    got = sample()
    assert got("mseal") == ALLOW
    assert got("setxattrat") == got.ask(500) == got.ask(0xFFFFFFFF) == ENOSYS
    assert got.ask(400) == ENOSYS
    assert got("file_getattr") == ENOSYS


def test_foreign_abis_are_killed_whatever_the_profile_maps() -> None:
    got = sample()
    assert got.ask(3, arch=bpf.I386) == KILL_PROCESS
    assert got.ask(0x40000000) == KILL_PROCESS


def test_capabilities_choose_rules() -> None:
    for name in ("CAP_SYS_ADMIN", "SYS_ADMIN", "sys_admin"):
        got = sample(capabilities=(name,))
        assert got("mount") == got("clone3") == got("clone", 0x10000000) == ALLOW
        assert got("chroot") == EPERM
    assert sample(capabilities=("CHOWN", "SYS_CHROOT"))("chroot") == ALLOW


def test_all_included_capabilities_are_needed_and_any_excluded_one_suffices() -> None:
    rule = allow("bpf", includes={"caps": ["CAP_BPF", "CAP_PERFMON"]})
    assert Profile(deny(rule), ("BPF",))("bpf") == ENOSYS
    assert Profile(deny(rule, allow("mseal")), ("BPF",))("bpf") == EPERM
    assert Profile(deny(rule), ("BPF", "PERFMON"))("bpf") == ALLOW
    rule = allow("bpf", excludes={"caps": ["CAP_BPF", "CAP_PERFMON"]})
    assert Profile(deny(rule, allow("mseal")), ("BPF",))("bpf") == EPERM
    assert Profile(deny(rule), ("CHOWN",))("bpf") == ALLOW


def test_the_kernel_chooses_rules() -> None:
    assert sample(kernel=(4, 7))("ptrace") == EPERM
    assert sample(kernel=(4, 8))("ptrace") == sample(kernel=(10, 0))("ptrace") == ALLOW
    rule = allow("ptrace", excludes={"minKernel": "5.0"})
    assert Profile(deny(rule), kernel=(4, 19))("ptrace") == ALLOW
    assert Profile(deny(rule, allow("mseal")), kernel=(5, 0))("ptrace") == EPERM


def test_arches_choose_rules() -> None:
    yes = allow("bpf", includes={"arches": ["amd64", "arm64"]})
    no = allow("mseal", excludes={"arches": ["amd64"]})
    got = Profile(deny(yes, no))
    assert got("bpf") == ALLOW
    assert got("mseal") == ENOSYS
    assert Profile(deny(yes, no, allow("setxattrat")))("mseal") == EPERM


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-13-amd64", (6, 1)),
        ("5.15", (5, 15)),
        ("4.8.0", (4, 8)),
        ("6.18-rc3", (6, 18)),
        ("10", (0, 0)),
        ("x.y", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


@pytest.mark.parametrize(
    ("op", "value", "second", "yes", "no"),
    [
        ("EQ", 5, 0, (5,), (4, 6, 5 | 1 << 32)),
        ("NE", 5, 0, (4, 6, 5 | 1 << 32), (5,)),
        ("LT", 1 << 32, 0, (0, (1 << 32) - 1), (1 << 32, (1 << 32) + 1, FULL)),
        ("LE", 1 << 32, 0, (0, 1 << 32), ((1 << 32) + 1, FULL)),
        ("GT", 1 << 32, 0, ((1 << 32) + 1, 1 << 33, FULL), (0, 1 << 32)),
        ("GE", 1 << 32, 0, (1 << 32, FULL), ((1 << 32) - 1, 0)),
        ("MASKED_EQ", 0xF0, 0x50, (0x50, 0x5F, 0x50 | 1 << 60), (0x40, 0x05)),
        ("MASKED_EQ", 0xF0, 0x5F, (0x50,), (0x40,)),
        ("MASKED_EQ", 1 << 40, 1 << 40, (1 << 40, FULL), (0, 1 << 39)),
        ("MASKED_EQ", 0, 0, (0, 1, FULL), ()),
    ],
)
def test_comparisons(
    op: str, value: int, second: int, yes: tuple[int, ...], no: tuple[int, ...]
) -> None:
    got = Profile(deny(allow("write", args=[arg(2, op, value, second)])))
    assert [got("write", 0, 0, one) for one in yes] == [ALLOW] * len(yes)
    assert [got("write", 0, 0, one) for one in no] == [EPERM] * len(no)


def test_conditions_of_one_rule_must_all_hold_and_rules_are_alternatives() -> None:
    got = Profile(
        deny(
            allow("write", args=[arg(0, "EQ", 1), arg(2, "LT", 10)]),
            allow("write", args=[arg(0, "EQ", 2)]),
        )
    )
    assert got("write", 1, 0, 9) == got("write", 2, 0, 99) == ALLOW
    assert got("write", 1, 0, 10) == got("write", 3, 0, 0) == EPERM


def test_two_conditions_on_one_argument_are_alternatives() -> None:
    got = Profile(deny(allow("write", args=[arg(0, "EQ", 1), arg(0, "EQ", 7), arg(2, "EQ", 3)])))
    assert got("write", 1) == got("write", 7) == got("write", 0, 0, 3) == ALLOW
    assert got("write", 2) == EPERM
    assert got.warnings == (
        "syscalls[0]: names one argument twice, so any of its conditions suffices",
    )


def test_the_first_rule_without_conditions_settles_a_call() -> None:
    refuse = {"names": ["write"], "action": "SCMP_ACT_TRAP", "args": [arg(0, "EQ", 1)]}
    got = Profile(deny(refuse, allow("write"), {"names": ["write"], "action": "SCMP_ACT_KILL"}))
    assert got("write", 1) == ALLOW
    assert got.warnings == (
        "syscalls[0]: has no effect on write, which syscalls[1] settles without conditions",
        "syscalls[2]: has no effect on write, which syscalls[1] settles without conditions",
    )


def test_the_severest_of_the_alternatives_that_hold_wins() -> None:
    found = [
        {"names": ["write"], "action": action, "args": [arg(i, "EQ", 1)]}
        for i, action in enumerate(("SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"))
    ]
    got = Profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": found})
    assert got("write", 1, 1, 1) == KILL_PROCESS
    assert got("write", 1, 0, 1) == TRAP
    assert got("write", 1) == LOG
    assert got("write") == ALLOW


def test_a_rule_that_answers_the_default_is_dropped() -> None:
    same = {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    got = Profile(deny(same, allow("write", args=[arg(0, "EQ", 1)])))
    assert got("write", 1) == ALLOW


@pytest.mark.parametrize(
    ("action", "more", "answer"),
    [
        ("SCMP_ACT_KILL", {}, KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", {}, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", {}, KILL_PROCESS),
        ("SCMP_ACT_TRAP", {}, TRAP),
        ("SCMP_ACT_LOG", {}, LOG),
        ("SCMP_ACT_ERRNO", {}, errno(1)),
        ("SCMP_ACT_ERRNO", {"errnoRet": 38}, errno(38)),
        ("SCMP_ACT_ERRNO", {"errnoRet": 0}, errno(0)),
        ("SCMP_ACT_ERRNO", {"errno": "ENOENT"}, errno(2)),
        ("SCMP_ACT_ERRNO", {"errno": "", "errnoRet": 13}, errno(13)),
    ],
)
def test_actions(action: str, more: dict[str, Any], answer: int) -> None:
    rule = {"names": ["write"], "action": action, **more}
    got = Profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    assert got("write") == answer
    assert got("read") == ALLOW
    assert got.ask(400) == ENOSYS


def test_defaults_that_kill_or_log_keep_to_it_for_unknown_numbers() -> None:
    got = Profile({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [allow("read")]})
    assert got.ask(400) == got("file_getattr") == KILL_PROCESS
    got = Profile({"defaultAction": "SCMP_ACT_LOG", "syscalls": None})
    assert got.ask(400) == got("read") == LOG
    got = Profile({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EACCES", "syscalls": []})
    assert got.ask(400) == ENOSYS


def test_the_older_form_with_one_name() -> None:
    rule = {"name": "read", "action": "SCMP_ACT_ALLOW", "args": []}
    data = deny(rule) | {"architectures": ["SCMP_ARCH_X86_64"]}
    assert Profile(data)("read") == ALLOW


def test_unknown_names_are_ignored_aloud_and_those_of_other_abis_silently() -> None:
    rule = allow("read")
    rule["names"] += ["reed", "mmap2", "socketcall", "wr\x1bite"]
    got = Profile(deny(rule))
    assert got.warnings == (r"unknown system calls are ignored: reed, wr\x1bite",)


def test_refusals_that_compare_64_bits_are_warned_of() -> None:
    rule = {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [arg(1, "EQ", 0x5412)]}
    got = Profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    assert got("ioctl", 0, 0x5412) == EPERM
    assert got("ioctl", 0, 0x5412 | 1 << 32) == ALLOW
    assert len(got.warnings) == 1
    assert "refuses ioctl by comparing 64 bits" in got.warnings[0]
    rule["args"] = [arg(1, "MASKED_EQ", 0xFFFFFFFF, 0x5412)]
    got = Profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    assert got("ioctl", 0, 0x5412 | 1 << 32) == EPERM
    assert got.warnings == ()


def test_flags_are_ignored_aloud() -> None:
    got = Profile(deny(allow("read")) | {"flags": ["SECCOMP_FILTER_FLAG_LOG"]})
    assert got.warnings == ("flags: 'SECCOMP_FILTER_FLAG_LOG' is ignored",)


@pytest.mark.parametrize("action", ["SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE"])
def test_supervisors_are_refused(action: str) -> None:
    text = f"{action} needs a supervisor, which sbx does not run"
    found = problems(deny({"names": ["read"], "action": action}) | {"listenerPath": "/run/s"})
    assert found == (
        "listenerPath: needs a supervisor, which sbx does not run",
        f"syscalls[0].action: {text}",
    )
    assert problems({"defaultAction": action}) == (f"defaultAction: {text}",)


def test_all_problems_are_listed_at_once() -> None:
    found = problems(
        {
            "defaultAction": "ERRNO",
            "syscals": [],
            "archMap": [{}],
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": [], "action": "SCMP_ACT_ALLOW"},
                {"names": ["read"], "name": "write", "action": "SCMP_ACT_ALLOW", "errnoRet": 1},
                {"names": ["read", 5], "action": "SCMP_ACT_ERRNO", "errnoRet": 70000},
                {"names": "read", "action": "SCMP_ACT_ERRNO", "errno": "EWHAT"},
                allow("read", args=[{"index": 6, "value": -1, "op": "EQ"}, 7]),
                allow("read", args=[{"index": True, "value": 1.5, "op": "SCMP_CMP_EQ", "x": 1}]),
                allow("read", includes={"caps": "CAP_X", "minKernel": "new", "os": "linux"}),
                "read",
            ],
        }
    )
    actions = "use SCMP_ACT_KILL, SCMP_ACT_KILL_THREAD, SCMP_ACT_KILL_PROCESS, SCMP_ACT_TRAP, "
    actions += "SCMP_ACT_ERRNO, SCMP_ACT_LOG, SCMP_ACT_ALLOW"
    most = "must be a whole number from 0 to"
    ops = "SCMP_CMP_NE, SCMP_CMP_LT, SCMP_CMP_LE, SCMP_CMP_EQ, SCMP_CMP_GE, SCMP_CMP_GT, "
    ops += "SCMP_CMP_MASKED_EQ"
    assert found == (
        "profile: 'syscals' is not a key of the format",
        f"defaultAction: 'ERRNO' is not an action; {actions}",
        "architectures: cannot be given together with archMap",
        "syscalls[0].names: must name at least one system call",
        "syscalls[1].name: cannot be given together with names",
        "syscalls[1].errnoRet: means nothing with SCMP_ACT_ALLOW",
        "syscalls[2].names[1]: must be a string, found 5",
        f"syscalls[2].errnoRet: {most} 4095, found 70000",
        "syscalls[3].names: must be a list, found 'read'",
        "syscalls[3].names: must name at least one system call",
        "syscalls[3].errno: 'EWHAT' is not the name of an error",
        f"syscalls[4].args[0].index: {most} 5, found 6",
        f"syscalls[4].args[0].value: {most} {FULL}, found -1",
        f"syscalls[4].args[0].op: 'EQ' is not an op; use {ops}",
        "syscalls[4].args[1]: must be an object, found 7",
        f"syscalls[4].args[1].index: {most} 5, found None",
        f"syscalls[4].args[1].op: None is not an op; use {ops}",
        "syscalls[5].args[0]: 'x' is not a key of the format",
        f"syscalls[5].args[0].index: {most} 5, found True",
        f"syscalls[5].args[0].value: {most} {FULL}, found 1.5",
        "syscalls[6].includes: 'os' is not a key of the format",
        "syscalls[6].includes.caps: must be a list, found 'CAP_X'",
        "syscalls[6].includes.minKernel: 'new' is not a kernel version",
        "syscalls[7]: must be an object, found 'read'",
    )


def test_duplicate_keys_are_refused() -> None:
    text = b'{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [], "defaultAction": "SCMP_ACT_ALLOW"}'
    assert problems(text) == ("'defaultAction': given twice in one object",)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b"\xff\xfe{", "can't decode"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b'{"defaultAction": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_what_is_not_json(text: bytes, cause: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Profile(text)
    assert caught.value.what == 'the seccomp profile "p.json" is not JSON'
    assert cause in caught.value.cause


@pytest.mark.parametrize("data", [[], 5, None, "x", {}])
def test_what_is_no_profile(data: Any) -> None:
    assert problems(data)


def test_hostile_values_are_escaped_and_cut_in_messages() -> None:
    (found,) = problems({"defaultAction": "\x1b[2J\u202e" + "A" * 5000})
    assert "\\x1b[2J\\u202eAAA" in found
    assert len(found) < 300
    assert found.isprintable()


def test_many_problems_are_cut_and_counted() -> None:
    with pytest.raises(PolicyError, match="has 5000 problems") as caught:
        Profile(deny(*["x"] * 5000))
    assert len(caught.value.problems) == 100


def test_the_number_of_conditions_is_bounded() -> None:
    def many(count: int) -> dict[str, Any]:
        return deny(*(allow("write", args=[arg(i % 6, "GT", i << 32 | i)]) for i in range(count)))

    assert Profile(many(128))("write", FULL) == ALLOW
    assert problems(many(129)) == ("write: has more than 128 conditions in all",)
