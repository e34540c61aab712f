"""What `sbx policy` says: widenings, values, the list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox.policy.check import available, widenings
from sandbox.policy.load import load_policy
from sandbox.policy.merge import Layer
from tests.unit.policy.conftest import write_policy


def against_strict(data: dict[str, Any]) -> list[str]:
    return widenings([*load_policy("strict"), Layer("child.toml", data)])


TMP = {"target": "/tmp", "size": "256M", "inodes": 32768, "mode": 0o1777, "noexec": True}
DATA = {"source": "/srv", "target": "/data"}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"identity": {"root": True}}, "identity.root: false becomes true"),
        ({"namespaces": {"nested": True}}, "namespaces.nested: false becomes true"),
        ({"namespaces": {"time": False}}, "namespaces.time: true becomes false"),
        ({"filesystem": {"read_only": False}}, "filesystem.read_only: true becomes false"),
        ({"filesystem": {"proc": "full"}}, 'filesystem.proc: "pid" becomes "full"'),
        ({"filesystem": {"sys": "read-only"}}, 'filesystem.sys: "none" becomes "read-only"'),
        ({"filesystem": {"size": "1G"}}, "filesystem.size: 256M becomes 1G"),
        ({"filesystem": {"shm": "1G"}}, "filesystem.shm: 256M becomes 1G"),
        (
            {"filesystem": {"mounts": [DATA]}},
            'filesystem.mounts./data: shows "/srv", writable',
        ),
        (
            {"filesystem": {"mounts": [{**DATA, "read_only": True}]}},
            'filesystem.mounts./data: shows "/srv", read-only',
        ),
        (
            {"filesystem": {"tmpfs": [{"target": "/t", "size": "1M"}]}},
            "filesystem.tmpfs./t: a new writable place of 1M without noexec",
        ),
        (
            {"filesystem": {"tmpfs": [{**TMP, "noexec": False}]}},
            "filesystem.tmpfs./tmp: loses noexec",
        ),
        (
            {"filesystem": {"tmpfs": [{**TMP, "size": "1G"}]}},
            "filesystem.tmpfs./tmp: 256M becomes 1G",
        ),
        (
            {"filesystem": {"tmpfs": [{**TMP, "inodes": 99999}]}},
            "filesystem.tmpfs./tmp: 32768 inodes become 99999",
        ),
        ({"network": {"mode": "host"}}, 'network.mode: "none" becomes "host"'),
        (
            {"network": {"loopback": True}},
            "network.loopback: false becomes true, but TCP over it needs landlock.tcp = false",
        ),
        ({"process": {"timeout": "10m"}}, "process.timeout: 5m becomes 10m"),
        ({"process": {"timeout": 0}}, "process.timeout: 5m becomes no bound"),
        ({"process": {"output_limit": 0}}, "process.output_limit: 16M becomes no bound"),
        ({"process": {"env_pass": ["TOKEN"]}}, "process.env_pass: adds TOKEN"),
        ({"process": {"init": False}}, "process.init: true becomes false"),
        ({"process": {"tty": True}}, "process.tty: false becomes true"),
        ({"capabilities": {"keep": ["KILL"]}}, "capabilities.keep: adds KILL"),
        ({"seccomp": {"base": "deny"}}, 'seccomp.base: "allow" becomes "deny"'),
        ({"seccomp": {"base": "unconfined"}}, 'seccomp.base: "allow" becomes "unconfined"'),
        ({"seccomp": {"profile": "/p"}}, 'seccomp.profile: "/p" replaces the filter'),
        (
            {"seccomp": {"sockets": ["unix", "inet", "inet6", "netlink"]}},
            "seccomp.sockets: adds netlink",
        ),
        ({"landlock": {"fs": "write"}}, 'landlock.fs: "strict" becomes "write"'),
        ({"landlock": {"tcp": False}}, "landlock.tcp: true becomes false"),
        ({"landlock": {"ioctl_dev": False}}, "landlock.ioctl_dev: true becomes false"),
        ({"landlock": {"scopes": ["signal"]}}, "landlock.scopes: drops abstract-unix-socket"),
        ({"rlimits": {"nproc": 257}}, "rlimits.nproc: 256 becomes 257"),
        (
            {"rlimits": {"nofile": "1024:unlimited"}},
            "rlimits.nofile: 1024:4096 becomes 1024:unlimited",
        ),
        ({"rlimits": {"fsize": "2G"}}, "rlimits.fsize: 1G becomes 2G"),
        ({"rlimits": {"stack": "inherit"}}, "rlimits.stack: is the caller's own again"),
        ({"sysctls": {"net.x": "1"}}, 'sysctls.net.x: set to "1"'),
        ({"on_missing": {"seccomp": "degrade"}}, "on_missing.seccomp: refuse becomes degrade"),
    ],
)
def test_each_widening_is_named(data: dict[str, Any], found: str) -> None:
    assert against_strict(data) == [found]


def test_changes_that_stay_are_a_widening() -> None:
    found = against_strict({"filesystem": {"persist": "/keep", "read_only": False}})
    assert found == [
        "filesystem.read_only: true becomes false",
        'filesystem.persist: what is written stays in "/keep"',
    ]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"process": {"timeout": "1m", "hostname": "x", "env": {"A": "b"}}},
        {"filesystem": {"size": "1M", "masked": ["/etc"], "tmpfs": [{**TMP, "size": "1M"}]}},
        {"rlimits": {"nproc": 1, "as": "1G"}},
        {"seccomp": {"sockets": []}},
        {"identity": {"map": "single", "user": 5}},
        {"on_missing": {"overlay": "refuse"}},
    ],
)
def test_restrictions_are_not(data: dict[str, Any]) -> None:
    assert against_strict(data) == []


def test_widenings_of_default() -> None:
    base = load_policy("default")
    changed = {
        "seccomp": {"groups": ["D1"]},
        "identity": {"user": 0, "map": "range"},
        "filesystem": {"root": "bind"},
        "capabilities": {"add": ["BPF"]},
    }
    assert widenings([*base, Layer("child.toml", changed)]) == [
        'identity.map: "keep-id" becomes "range"',
        "capabilities.keep: adds BPF",
        "capabilities.add: adds BPF",
        "seccomp.groups: drops D2",
        'filesystem.root: "bind" without read_only lets the payload write to ROOTFS itself',
        "identity.user: the payload has user id 0",
    ]


def test_a_dropped_profile() -> None:
    base = Layer("base.toml", {"seccomp": {"profile": "/p"}})
    child = Layer("child.toml", {"seccomp": {"base": "deny"}})
    assert widenings([base, child]) == ['seccomp.profile: "/p" is not used any more']


def test_a_policy_without_parent_is_compared_with_strict() -> None:
    assert widenings(load_policy("strict")) == []
    assert "identity.root: false becomes true" in widenings(load_policy("default"))


def test_the_list(folder: Path, home: Path) -> None:
    mine = home / "mine"
    mine.mkdir()
    write_policy(folder / "a.toml", '# not this\nsummary = "built-in"')
    write_policy(mine / "a.toml", "# mine\n# more")
    write_policy(folder / "b.toml", "a =")
    write_policy(folder / "c.toml", "")
    write_policy(folder / "_template.toml", "")
    write_policy(folder / "README.md", "")
    assert available((str(mine), str(folder))) == [
        ("a", str(mine / "a.toml"), "mine"),
        ("b", str(folder / "b.toml"), "cannot be read: invalid value, at the end of the file"),
        ("c", str(folder / "c.toml"), ""),
    ]


def test_the_built_in_list() -> None:
    found = available()
    assert [name for name, _, _ in found] == ["ci", "default", "permissive", "strict"]
    assert all(summary for _, _, summary in found)


def test_a_loopback_that_is_of_use() -> None:
    found = against_strict({"network": {"loopback": True}, "landlock": {"tcp": False}})
    assert found == ["network.loopback: false becomes true", "landlock.tcp: true becomes false"]
