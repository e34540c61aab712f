"""Whatever a JSON profile holds: a filter that the kernel would take, or a PolicyError."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import PolicyError
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.oci import ACTIONS, OPS, from_oci
from tests.support import bpf
from tests.support.fuzzing import examples

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
NAMES = st.sampled_from(
    ["read", "write", "openat", "clone", "clone3", "socket", "ioctl", "no_such_call", "", "\x1b[2J"]
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what belongs there."""
    return st.one_of(usual, usual, usual, usual, usual, usual, usual, ODD)


ACTION = mostly(st.sampled_from([*ACTIONS, "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY", "scmp"]))
WORD = st.one_of(st.integers(0, 8), st.integers(0, (1 << 64) - 1))
ARG = st.fixed_dictionaries(
    {
        "index": mostly(st.integers(0, 6)),
        "value": mostly(WORD),
        "op": mostly(st.sampled_from([*OPS])),
    },
    optional={"valueTwo": mostly(WORD)},
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "caps": mostly(st.lists(st.sampled_from(["CAP_SYS_ADMIN", "CAP_KILL", "x"]), max_size=2)),
        "arches": mostly(st.lists(st.sampled_from(["amd64", "x86", "arm"]), max_size=2)),
        "minKernel": mostly(st.sampled_from(["4.8", "99.1", "4", "x"])),
    },
)
RULE = st.fixed_dictionaries(
    {"names": mostly(st.lists(NAMES, max_size=4)), "action": ACTION},
    optional={
        "errnoRet": mostly(st.integers(0, 5000)),
        "args": mostly(st.lists(mostly(ARG), max_size=4)),
        "includes": mostly(CONDITIONS),
        "excludes": mostly(CONDITIONS),
        "comment": ODD,
    },
)
PROFILE = st.fixed_dictionaries(
    {"defaultAction": ACTION},
    optional={
        "defaultErrnoRet": mostly(st.integers(0, 5000)),
        "architectures": mostly(st.lists(st.sampled_from(["SCMP_ARCH_X86_64", "x"]), max_size=2)),
        "syscalls": mostly(st.lists(mostly(RULE), max_size=6)),
        "flags": mostly(st.lists(st.sampled_from(["SECCOMP_FILTER_FLAG_LOG", "x"]), max_size=2)),
        "archMap": ODD,
    },
)


def compile_text(text: bytes) -> None:
    try:
        spec, warnings = from_oci(text, name="p.json", capabilities=("KILL",), kernel=(6, 1))
        program = bpf.decode(compile_filter(spec))
    except PolicyError as error:
        assert str(error)  # noqa: PT017 - an error is one of two right outcomes
        return
    bpf.check(program)
    assert all(isinstance(line, str) for line in warnings)


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow])
@given(PROFILE)
def test_profiles(profile: dict[str, Any]) -> None:
    compile_text(json.dumps(profile).encode("utf-8", "surrogatepass"))


@settings(max_examples=examples(200))
@given(st.one_of(st.binary(max_size=200), ODD.map(lambda odd: json.dumps(odd).encode())))
def test_any_bytes(text: bytes) -> None:
    compile_text(text)


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow])
@given(PROFILE, st.data())
def test_damaged_profiles(profile: dict[str, Any], data: st.DataObject) -> None:
    text = bytearray(json.dumps(profile).encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    compile_text(bytes(text))
