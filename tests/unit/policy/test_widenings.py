"""Through the whole schema: every wider value of every key is named, and no narrower one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from sandbox.errors import PolicyError
from sandbox.policy import model
from sandbox.policy.check import compare
from sandbox.policy.merge import Layer, build_policy
from sandbox.policy.schema import SECTIONS, TABLES
from tests.support.fuzzing import examples

MOUNT = {"source": "/srv", "target": "/data"}
TMPFS = {"target": "/t", "size": "1M", "inodes": 9, "noexec": True}

# Values of each key, the narrowest first: each allows more than the one before it.
LADDERS: dict[str, list[Any]] = {
    "identity.map": ["single", "keep-id", "range"],
    "identity.root": [False, True],
    "identity.user": [5, 0],
    "namespaces.time": [True, False],
    "namespaces.nested": [False, True],
    "filesystem.root": ["overlay", "bind"],
    "filesystem.read_only": [True, False],
    "filesystem.size": ["1M", "2M", "1G"],
    "filesystem.inodes": [1, 2, 1 << 20],
    "filesystem.persist": ["", "/keep"],
    "filesystem.mounts": [[], [{**MOUNT, "read_only": True}], [MOUNT]],
    "filesystem.tmpfs": [
        [],
        [TMPFS],
        [{**TMPFS, "size": "2M"}],
        [{**TMPFS, "size": "2M", "inodes": 10}],
        [{**TMPFS, "size": "2M", "inodes": 10, "noexec": False}],
    ],
    "filesystem.shm": ["1M", "2M", "1G"],
    "filesystem.proc": ["pid", "full"],
    "filesystem.sys": ["none", "read-only", "writable"],
    "filesystem.guard": [True, False],
    "filesystem.devices": [[], ["/dev/a"], ["/dev/a", "/dev/b"]],
    "identity.privileged": [False, True],
    "filesystem.masked": [["/a", "/b"], ["/a"], []],
    "filesystem.locked": [["/a", "/b"], ["/a"], []],
    "network.mode": ["none", "container:a", "user", "bridge", "pasta", "slirp4netns", "host"],
    "network.allow": [[], ["example.org:443"], ["example.org:443", "public"]],
    "network.deny": [["a.example", "b.example"], ["a.example"], []],
    "network.publish": [[], ["8080:80"], ["8080:80", "0:53/udp"]],
    "network.sni": [True, False],
    "network.connections": [1, 2, 0],
    "network.connections_per_second": [1, 2, 0],
    "network.rate": ["1M", "1G", 0],
    "namespaces.ipc": ["private", "container:a"],
    "namespaces.uts": ["private", "container:a"],
    "namespaces.pid": ["private", "container:a"],
    "namespaces.shares": [[], ["net"], ["net", "pid"]],
    "namespaces.shareable": [[], ["net"], ["net", "pid"]],
    "network.loopback": [False, True],
    "process.env_pass": [[], ["A"], ["A", "B"]],
    "process.timeout": [1, 2, 0],
    "process.grace": [0, 1, "1h"],
    "process.output_limit": ["1M", "2M", 0],
    "process.init": [True, False],
    "process.tty": [False, True],
    "capabilities.keep": [[], ["KILL"], ["KILL", "CHOWN"], ["ALL"]],
    "capabilities.add": [[], ["KILL"], ["KILL", "CHOWN"]],
    "seccomp.base": ["allow", "deny", "unconfined"],
    "seccomp.groups": [["D1", "D2"], ["D1"], []],
    "seccomp.sockets": [[], ["unix"], ["unix", "inet", "inet6", "netlink"]],
    "landlock.fs": ["strict", "write", "none"],
    "landlock.tcp": [True, False],
    "landlock.ioctl_dev": [True, False],
    "landlock.scopes": [["abstract-unix-socket", "signal"], ["signal"], []],
    "resources.driver": ["auto", "none"],
    "resources.memory": ["64M", "1G", "unlimited"],
    "resources.memory_reservation": [0, "1M", "2M"],
    "resources.cpus": [0.5, 1, "unlimited"],
    "resources.cpu_weight": [1, 100, 200],
    "resources.cpuset": ["0-1", ""],
    "resources.pids": [1, 2, "unlimited"],
    "resources.io_max": [["/a:rbps=1", "/b:wiops=1"], ["/a:rbps=1"], []],
    "resources.io_weight": [1, 100, 200],
    "resources.required": [True, False],
    **{f"rlimits.{name}": [1, 2, "2:3", "unlimited"] for name in model.RLIMIT_NAMES},
    # 1 keeps the kernel from starting the host's core handler; 0 does not (core(5)).
    "rlimits.core": [1, 0, 2, "unlimited"],
    **{f"on_missing.{layer}": ["refuse", "degrade"] for layer in model.LAYERS},
}
# What only the rootfs or the kernel could rank: each change is named, in either direction.
UNRANKED: dict[str, list[Any]] = {
    "seccomp.profile": ["", "/p", "/q"],
    "sysctls.net.x": [False, "1", "2"],
    "network.name": ["", "a", "b"],
}
# What gives and takes nothing. `drop` takes away from `keep`.
NEUTRAL: dict[str, list[Any]] = {
    "identity.group": ["", 5, "staff"],
    "network.aliases": [[], ["a"]],
    "network.delay": [0, 1],
    "network.loss": [0, 1],
    "process.env": [{}, {"A": "1"}],
    "process.cwd": ["", "/a"],
    "network.dns": [[], ["192.0.2.53"]],
    "network.mtu": [1280, 65520],
    "process.hostname": ["a", "b"],
    "capabilities.drop": [[], ["KILL"]],
    "resources.memory_swap": [0, "unlimited"],  # without a limit of memory it limits nothing
}
ALL = LADDERS | UNRANKED | NEUTRAL
PAIRS = [
    (key, narrow, wide)
    for key, values in LADDERS.items()
    for number, narrow in enumerate(values)
    for wide in values[number + 1 :]
]


def build(values: dict[str, Any]) -> model.Policy:
    data: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        data.setdefault(section, {})[name] = value
    return build_policy([Layer("test.toml", data)])


def found(key: str, parent: Any, child: Any) -> list[str]:
    return compare(build({key: parent}), build({key: child}))


def test_every_key_of_the_schema_is_here() -> None:
    keys = {f"{section}.{name}" for section, checks in SECTIONS.items() for name in checks}
    assert {key for key in ALL if key.partition(".")[0] in SECTIONS} == keys
    assert {key.partition(".")[0] for key in ALL} == {*SECTIONS, *TABLES}


@pytest.mark.parametrize(("key", "narrow", "wide"), PAIRS)
def test_wider_is_named_and_narrower_is_not(key: str, narrow: Any, wide: Any) -> None:
    assert any(line.startswith(key) for line in found(key, narrow, wide))
    assert found(key, wide, narrow) == []


@pytest.mark.parametrize("key", UNRANKED)
def test_what_cannot_be_ranked_is_named(key: str) -> None:
    for old in UNRANKED[key]:
        for new in UNRANKED[key]:
            assert bool(found(key, old, new)) == (old != new)


@pytest.mark.parametrize("key", NEUTRAL)
def test_what_gives_nothing_is_not_named(key: str) -> None:
    for old in NEUTRAL[key]:
        for new in NEUTRAL[key]:
            assert found(key, old, new) == []


# Of users, only 0 gives more than another.
CHOICES = {k: st.sampled_from(v) for k, v in (LADDERS | UNRANKED).items() if k != "identity.user"}


def consistent(wishes: dict[str, Any]) -> dict[str, Any]:
    """Without what most often makes a policy be refused."""
    left = dict(wishes)
    if left["seccomp.profile"]:
        del left["seccomp.base"]
    if left["filesystem.read_only"] or left["filesystem.root"] == "bind":
        del left["filesystem.persist"]
    return left


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries(CHOICES), st.fixed_dictionaries({}, optional=CHOICES))
def test_policies_that_allow_the_same_are_the_same(
    wishes: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Nothing that two policies differ in goes unnamed in both directions."""
    try:
        left, right = build(consistent(wishes)), build(consistent(wishes | changes))
    except PolicyError:
        reject()
    same_groups = right.replace(
        origins=left.origins, seccomp=right.seccomp.replace(groups=left.seccomp.groups)
    )
    # Groups mean something only where both have a deny-list.
    other = right.replace(origins=left.origins)
    if left != (other if left.seccomp.base == right.seccomp.base == "deny" else same_groups):
        assert compare(left, right) or compare(right, left)
    assert compare(left, left) == []


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            {"identity.map": "range", "identity.user": 5},
            {"identity.map": "range"},
            "identity.user: the payload has user id 0",
        ),
        ({"identity.user": 5}, {"identity.user": "app"}, "identity.user: ROOTFS decides"),
        ({"filesystem.masked": ["/etc/key"]}, {"filesystem.proc": "pid"}, "filesystem.masked: dr"),
    ],
)
def test_widenings_that_take_two_keys(old: Any, new: Any, line: str) -> None:
    assert [text for text in compare(build(old), build(new)) if text.startswith(line)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"seccomp.groups": ["D1"]}, {"seccomp.base": "allow"}),
        ({"filesystem.locked": ["/proc/sys"]}, {"filesystem.proc": "pid"}),
        ({"filesystem.masked": ["/proc/kcore"]}, {"filesystem.proc": "pid"}),
        (
            {"filesystem.sys": "read-only", "filesystem.masked": ["/sys/firmware"]},
            {"filesystem.sys": "none"},
        ),
    ],
)
def test_what_is_lost_with_its_object_is_no_widening(old: Any, new: Any) -> None:
    assert compare(build(old), build(new)) == []


def test_more_swap_is_named() -> None:
    wanted = [{"resources.memory": "64M", "resources.memory_swap": swap} for swap in (0, "1G", -1)]
    none, some, all_of_it = (build(values) for values in wanted)
    line = "resources.memory_swap: {} becomes {}"
    assert compare(none, some) == [line.format("0 of swap", "960M of swap")]
    assert compare(some, all_of_it) == [line.format("960M of swap", "no bound of swap")]
    assert compare(all_of_it, none) == []


def test_other_processors_are_named() -> None:
    line = 'resources.cpuset: "0" becomes "1"'
    assert found("resources.cpuset", "0", "1") == [line]
