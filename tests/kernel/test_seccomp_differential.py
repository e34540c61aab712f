"""Compiled filters against libseccomp's, over every number, foreign ABI and boundary argument.

The built-in policies are written down a second time here, as layers of simple libseccomp rules
that are joined by the kernel's own rule for several filters.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.policy.model import Seccomp
from sandbox.seccomp import compile as compiler
from sandbox.seccomp import groups, oci, program, rules
from sandbox.seccomp.syscalls_x86_64 import NUMBERS
from tests.support import bpf, libseccomp
from tests.support.libseccomp import GE, GT, LE, LT, MASKED_EQ, NE, Oracle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.skipif(
    bool(libseccomp.available()), reason=f"no oracle: {libseccomp.available()}"
)

SAMPLE = os.path.join(os.path.dirname(__file__), "../unit/seccomp/engine_profile.json")
LOW = 0xFFFFFFFF
ALLOW = rules.ALLOW
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
EAFNOSUPPORT, EOPNOTSUPP = 0x50000 | errno.EAFNOSUPPORT, 0x50000 | errno.EOPNOTSUPP
EPROTONOSUPPORT = 0x50000 | errno.EPROTONOSUPPORT
TOP = 1024

STRICT = Seccomp("allow", (), ("unix", "inet", "inet6"))
DEFAULT = Seccomp("deny", ("D1", "D2"))
PERMISSIVE = Seccomp("deny", ("D1",))
BARE = Seccomp("deny", (), ("unix",))
CASES = [
    pytest.param(seccomp, nested, tcp, id=f"{name}{'-nested' * nested}{'-tcp' * tcp}")
    for name, seccomp in (("strict", STRICT), ("default", DEFAULT), ("permissive", PERMISSIVE))
    for nested in (False, True)
    for tcp in (False, True)
] + [pytest.param(BARE, False, False, id="bare")]

CHECKED = (
    "clone socket personality mknod mknodat seccomp sched_setscheduler ioctl socketpair "
    "sendto sendmsg sendmmsg setsockopt"
)

Layer = list[bpf.Instruction]
Rule = tuple[int, str, tuple[tuple[int, int, int, int], ...]]


def same(arg: int, value: int, mask: int = LOW) -> tuple[int, int, int, int]:
    return arg, MASKED_EQ, mask, value


def numbers_layer(seccomp: Seccomp, *, nested: bool) -> Layer:
    """What is answered to numbers alone; calls whose arguments matter are allowed here."""
    strict = seccomp.base == "allow"
    answers = dict.fromkeys(NUMBERS, EPERM if strict else ALLOW)
    answers |= groups.refused(("D1", "D2") if strict else seccomp.groups, nested=nested)
    if strict:
        answers |= groups.allowed(nested=nested)
        answers |= dict.fromkeys(CHECKED.split(), ALLOW)
    with Oracle(ENOSYS) as oracle:
        for name, answer in answers.items():
            known = oracle.number(name)
            assert known < 0 or known == NUMBERS[name], name
            if answer != ENOSYS:
                oracle.must_add(answer, NUMBERS[name])
        return bpf.decode(oracle.export())


def refusing_layer(found: list[Rule]) -> Layer:
    with Oracle(ALLOW) as oracle:
        for action, name, compares in found:
            oracle.must_add(action, NUMBERS[name], *compares)
        return bpf.decode(oracle.export())


def permitting_layer(
    default: int, found: dict[str, list[tuple[tuple[int, int, int, int]]]]
) -> Layer:
    """`default` for the named calls, unless one of their rules holds."""
    with Oracle(default) as oracle:
        for number in range(TOP):
            if number not in {NUMBERS[name] for name in found}:
                oracle.must_add(ALLOW, number)
        for name, alternatives in found.items():
            for compares in alternatives:
                oracle.must_add(ALLOW, NUMBERS[name], *compares)
        return bpf.decode(oracle.export())


def layers(seccomp: Seccomp, *, nested: bool, tcp: bool) -> Iterator[Layer]:
    """The policy as libseccomp filters, the one whose answer wins a tie first."""
    strict = seccomp.base == "allow"
    tcp = tcp or strict
    yield numbers_layer(seccomp, nested=nested)
    families = [groups.FAMILIES[name] for name in seccomp.sockets]
    calls = ("socket", "socketpair")
    yield permitting_layer(
        EAFNOSUPPORT, {name: [(same(0, f),) for f in families] for name in calls}
    )
    plain = [f for f in families if f != 16]
    yield refusing_layer(
        [
            (EPERM, name, (same(0, family), same(1, kind, 0xF)))
            for name in calls
            for family in plain
            for kind in (3, 10)
        ]
    )
    refusals: list[Rule] = []
    if tcp:
        refusals += [
            (EPROTONOSUPPORT, name, (same(0, family), same(2, protocol)))
            for name in calls
            for family in plain
            for protocol in (256, 262)
        ]
        fast = 0x20000000
        refusals += [
            (EOPNOTSUPP, name, (same(arg, fast, fast),))
            for name, arg in (("sendto", 3), ("sendmmsg", 3), ("sendmsg", 2))
        ]
        refusals += [(EOPNOTSUPP, "setsockopt", (same(1, 6), same(2, o))) for o in (30, 31)]
    if strict or "D1" in seccomp.groups:
        refusals += [(EPERM, "ioctl", (same(1, request),)) for request in (0x5412, 0x541C)]
    if (strict or "D2" in seccomp.groups) and not nested:
        refusals += [
            (EPERM, "clone", (same(0, 1 << bit, 1 << bit),))
            for bit in range(32)
            if 0x7E020000 >> bit & 1
        ]
    if strict:
        refusals.append((EPERM, "seccomp", (same(1, 8, 8),)))
        refusals += [
            (EPERM, name, (same(arg, kind, 0xF000),))
            for name, arg in (("mknod", 1), ("mknodat", 2))
            for kind in (0x2000, 0x3000, 0x6000, 0x7000)
        ]
        personalities = (0, 8, 0x20000, 0x20008, LOW)
        yield permitting_layer(
            EPERM,
            {
                "prlimit64": [(same(0, 0),)],
                "personality": [(same(0, value),) for value in personalities],
                "sched_setscheduler": [(same(1, v, LOW ^ 0x40000000),) for v in (0, 3, 5)],
            },
        )
    if refusals:
        yield refusing_layer(refusals)


GARBAGE = (0, 1 << 32, 0xDEADBEEF << 32, LOW << 32)
VALUES = sorted(
    {v + d for v in (0, 8, 0x5412, 0x541C, 0x20000, 0x20008, 0x40000) for d in (-1, 0, 1)}
    | set(range(12))
    | {16, 17, 29, 30, 31, 32, 38, 40, 45, 255, 256, 257, 261, 262, 263}
    | {kind | mode for kind in range(0, 0x10000, 0x1000) for mode in (0, 0o644)}
    | {1 << bit for bit in range(32)}
    | {0x40000000 | v for v in range(8)}
    | {0x01200011, 0x3D0F00, 0x7E020000, 0x10000000 | 17, 0x7FFFFFFF, 0x80000001, LOW, LOW - 1}
)
SOCKETS = list(
    itertools.product(
        (0, 1, 2, 3, 10, 16, 17, 38, 40, 1 << 32 | 2, 0xFF << 32 | 16, (1 << 63) | 17),
        (1, 2, 3, 5, 10, 0x80003, 0x80801, 0x8080A, 1 << 32 | 3, 0x13),
        (0, 6, 256, 262, 1 << 32 | 262),
    )
)


def calls() -> Iterator[bpf.Call]:
    shuffle = random.Random(7)  # noqa: S311 - a test's choice
    for number in range(TOP):
        yield bpf.X86_64, number, (0,) * 6
        yield bpf.X86_64, number, (rules.FULL,) * 6
        yield bpf.X86_64, number, tuple(shuffle.choice(VALUES) & rules.FULL for _ in range(6))
    for number in (rules.NO_CALL, 0x40000000, 0x4000003B, 0x400001D6, 0x7FFFFFFF, 0xFFFFFFFE):
        yield bpf.X86_64, number, (0,) * 6
    for arch in (bpf.I386, bpf.AARCH64, 0, LOW):
        for number in (0, 1, 20, 102, 400, rules.NO_CALL, 0x40000001):
            yield arch, number, (0,) * 6
    for name in ("socket", "socketpair"):
        for args in SOCKETS:
            yield bpf.X86_64, NUMBERS[name], (*args, 0, 0, 0)
    for level, option in itertools.product((0, 1, 6, 1 << 32 | 6), (23, 30, 31, 1 << 33 | 30)):
        yield bpf.X86_64, NUMBERS["setsockopt"], (3, level, option, 0, 0, 0)
    checked = (
        "ioctl clone personality sched_setscheduler mknod mknodat seccomp sendto sendmsg sendmmsg"
    )
    for name in checked.split():
        for arg, value, high in itertools.product(range(4), VALUES, GARBAGE):
            words = [0] * 6
            words[arg] = value & LOW | high
            yield bpf.X86_64, NUMBERS[name], tuple(words)


@pytest.mark.parametrize(("seccomp", "nested", "tcp"), CASES)
def test_built_in_policies_answer_as_libseccomp(seccomp: Seccomp, nested: bool, tcp: bool) -> None:
    ours = bpf.decode(
        program(seccomp, nested=nested, capabilities=(), cache_dir=None, landlock_tcp=tcp)
    )
    bpf.check(ours)
    theirs = list(layers(seccomp, nested=nested, tcp=tcp))
    for call in calls():
        expected = bpf.most_restrictive([bpf.run(layer, call) for layer in theirs])
        assert bpf.run(ours, call) == expected, [hex(word) for word in (*call[:2], *call[2])]


def add_as_runtimes_do(oracle: Oracle, profile: dict[str, Any]) -> None:
    """Add a profile's rules in the way of the runtimes that use libseccomp."""
    default = action_of(profile["defaultAction"], profile.get("defaultErrnoRet"))
    operators = {
        "SCMP_CMP_NE": NE,
        "SCMP_CMP_LT": LT,
        "SCMP_CMP_LE": LE,
        "SCMP_CMP_EQ": libseccomp.EQ,
        "SCMP_CMP_GE": GE,
        "SCMP_CMP_GT": GT,
        "SCMP_CMP_MASKED_EQ": MASKED_EQ,
    }
    for rule in profile["syscalls"]:
        action = action_of(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue
        compares = [
            (arg["index"], operators[arg["op"]], arg["value"], arg.get("valueTwo", 0))
            for arg in rule.get("args") or ()
        ]
        twice = len({compare[0] for compare in compares}) < len(compares)
        for name in rule["names"]:
            if name in NUMBERS:
                for group in [[compare] for compare in compares] if twice else [compares]:
                    # -EEXIST: the same rule was there already.
                    assert oracle.add(action, NUMBERS[name], *group) in (0, -errno.EEXIST)


def action_of(name: str, number: int | None) -> int:
    action = oci.ACTIONS[name]
    return action | (1 if number is None else number) if action == rules.ERRNO else action


def compare_profile(profile: dict[str, Any], seen: list[bpf.Call]) -> None:
    spec, _ = oci.from_oci(json.dumps(profile).encode(), name="p", capabilities=(), kernel=(6, 1))
    ours = bpf.decode(compiler.compile_filter(spec))
    bpf.check(ours)
    default = action_of(profile["defaultAction"], profile.get("defaultErrnoRet"))
    with Oracle(default) as oracle:
        add_as_runtimes_do(oracle, profile)
        theirs = bpf.decode(oracle.export(tree=False))
    named = {NUMBERS[n] for rule in profile["syscalls"] for n in rule["names"] if n in NUMBERS}
    known, newest = set(NUMBERS.values()), max(named, default=0)
    for call in seen:
        if call[0] == bpf.X86_64 and (call[1] not in known or call[1] > newest):
            continue  # ours answers ENOSYS there
        assert bpf.run(ours, call) == bpf.run(theirs, call), call


EDGES = (0, 1, 2, 3, 7, 8, LOW - 1, LOW, LOW + 1, LOW + 2, 1 << 33, (1 << 33) + 1, rules.FULL)
EDGE = st.sampled_from(EDGES) | st.integers(0, rules.FULL)
NAMES = ("read", "ioctl", "clone", "socket", "personality", "landlock_add_rule")


DEFAULTS = (
    ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"),
    ("SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"),
    ("SCMP_ACT_ALLOW", "SCMP_ACT_TRAP"),
    ("SCMP_ACT_ALLOW", "SCMP_ACT_KILL"),
)


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """Profiles within what libseccomp can be asked.

    For a call it gets either one rule with any conditions, or several that test one argument for
    equality: of alternatives that mix orders and arguments libseccomp 2.5.4 makes wrong filters
    ("a0 <= 0 and a1 == 0 and a2 == 0, or a0 >= 1" allows a0 = 0, a1 = 1). Those are compared
    with their plain meaning, in the unit tests of the compiler.
    """
    default, other = draw(st.sampled_from(DEFAULTS))
    equality = ("SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ")
    found = []

    def add(name: str, indices: list[int], ops: Sequence[str]) -> None:
        args = [
            {
                "index": index,
                "value": draw(EDGE),
                "valueTwo": draw(EDGE),
                "op": draw(st.sampled_from(ops)),
            }
            for index in indices
        ]
        found.append({"names": [name], "action": other, "args": args})

    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        if draw(st.booleans()):
            add(
                name,
                draw(st.lists(st.integers(0, 5), unique=True, max_size=3)),
                sorted(oci.OPS),
            )
        else:
            index, op = draw(st.integers(0, 5)), draw(st.sampled_from(equality))
            for _ in range(draw(st.integers(1, 5))):
                add(name, [index], [op])
    return {"defaultAction": default, "syscalls": found}


@given(profile=profiles(), values=st.lists(st.tuples(*[EDGE] * 6), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_oci_profiles_answer_as_libseccomp(
    profile: dict[str, Any], values: list[tuple[int, ...]]
) -> None:
    seen = [(bpf.X86_64, NUMBERS[name], args) for name in (*NAMES, "write") for args in values]
    # Try the very values that the rules compare with, and their neighbours.
    for rule in profile["syscalls"]:
        for arg, other in itertools.product(rule["args"], (-1, 0, 1)):
            for value in (arg["value"], arg["valueTwo"], arg["value"] & arg["valueTwo"]):
                args = list(values[0])
                args[arg["index"]] = (value + other) & rules.FULL
                seen += [(bpf.X86_64, NUMBERS[name], tuple(args)) for name in rule["names"]]
    seen += [(bpf.I386, 3, (0,) * 6), (bpf.X86_64, 0x40000000, (0,) * 6)]
    compare_profile(profile, seen)


INSTALLED = "/usr/share/containers/seccomp.json"


@pytest.mark.parametrize("path", [SAMPLE, *[INSTALLED] * os.path.exists(INSTALLED)])
def test_whole_profiles_answer_as_libseccomp(path: str) -> None:
    with open(path, "rb") as file:
        profile = json.load(file)
    # What is chosen for no capabilities on this architecture, by hand.
    profile["syscalls"] = [
        rule
        for rule in profile["syscalls"]
        if not (rule.get("includes") or {}).get("caps")
        and "amd64" in ((rule.get("includes") or {}).get("arches") or ["amd64"])
    ]
    for rule in profile["syscalls"]:
        rule.pop("includes", None)
        rule.pop("excludes", None)
    compare_profile(profile, list(calls()))
