"""Later layers win, and every value remembers where it came from."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.linux.capabilities import NAMES
from sandbox.policy.merge import Layer, build_policy
from sandbox.policy.model import Mount, Policy, Rlimit, Tmpfs


def build(*layers: dict[str, Any]) -> Policy:
    names = ("base.toml", "child.toml", "last.toml")
    return build_policy([Layer(n, data) for n, data in zip(names, layers, strict=False)])


def bind(target: str, source: str = "/srv", **more: Any) -> dict[str, Any]:
    return {"source": source, "target": target, **more}


def test_no_layers_give_the_defaults() -> None:
    policy = build_policy([])
    assert policy.process.hostname == "sbx"
    assert policy.origin("process.hostname") == "built-in default"


def test_a_later_scalar_replaces() -> None:
    policy = build({"process": {"hostname": "a", "timeout": "5m"}}, {"process": {"hostname": "b"}})
    assert (policy.process.hostname, policy.process.timeout) == ("b", 300)
    assert policy.origin("process.hostname") == "child.toml"
    assert policy.origin("process.timeout") == "base.toml"
    assert policy.origin("process.grace") == "built-in default"


def test_a_later_list_replaces() -> None:
    policy = build({"seccomp": {"sockets": ["unix", "inet"]}}, {"seccomp": {"sockets": []}})
    assert policy.seccomp.sockets == ()


def test_the_name_is_that_of_the_last_file() -> None:
    layers = [Layer("a.toml", {}, name="a"), Layer("b.toml", {}, name="b"), Layer("flags", {})]
    assert build_policy(layers).name == "b"


def test_a_flag_is_the_origin_of_its_keys() -> None:
    origins = {
        "process.hostname": "--hostname",
        "filesystem.mounts": "--volume",
        "process.env.A": "--env",
        "rlimits.nofile": "--ulimit",
    }
    data = {
        "process": {"hostname": "x", "env": {"A": "1"}},
        "filesystem": {"mounts": [bind("/data")]},
        "rlimits": {"nofile": (1, None)},
    }
    base = {"filesystem": {"mounts": [bind("/old")]}, "process": {"env": {"B": "2"}}}
    policy = build_policy([Layer("base.toml", base), Layer("flags", data, origins)])
    assert policy.origin("process.hostname") == "--hostname"
    assert policy.origin("filesystem.mounts") == "--volume"
    assert policy.origin("filesystem.mounts./data") == "--volume"
    assert policy.origin("filesystem.mounts./old") == "base.toml"
    assert policy.origin("process.env.A") == "--env"
    assert policy.origin("process.env.B") == "base.toml"
    assert policy.origin("rlimits.nofile") == "--ulimit"
    assert policy.rlimits == (Rlimit("nofile", 1, None),)


def test_mounts_merge_by_target_and_parents_come_first() -> None:
    policy = build(
        {"filesystem": {"mounts": [bind("/a/b"), bind("/a-b"), bind("/c", "/old")]}},
        {"filesystem": {"mounts": [bind("/a"), bind("/c", "/new", read_only=True)]}},
    )
    assert policy.filesystem.mounts == (
        Mount("/srv", "/a"),
        Mount("/srv", "/a/b"),
        Mount("/srv", "/a-b"),
        Mount("/new", "/c", read_only=True),
    )


def test_a_mount_replaces_an_earlier_tmpfs_and_the_other_way_round() -> None:
    base = {
        "filesystem": {
            "tmpfs": [{"target": "/tmp", "size": "1M"}],
            "mounts": [bind("/data")],
        }
    }
    child = {
        "filesystem": {
            "mounts": [bind("/tmp")],
            "tmpfs": [{"target": "/data", "size": "1M", "inodes": 9}],
        }
    }
    files = build(base, child).filesystem
    assert files.mounts == (Mount("/srv", "/tmp"),)
    assert files.tmpfs == (Tmpfs("/data", 1 << 20, 9),)


def test_a_tmpfs_without_size_has_that_of_the_root() -> None:
    wanted = {"tmpfs": [{"target": "/t"}]}
    (entry,) = build({"filesystem": {"size": "1M", "inodes": 5, **wanted}}).filesystem.tmpfs
    assert (entry.size, entry.inodes) == (1 << 20, 5)
    (entry,) = build({"filesystem": wanted}).filesystem.tmpfs
    assert (entry.size, entry.inodes) == (256 << 20, 32768)


def test_environments_merge_by_name_and_false_removes() -> None:
    policy = build(
        {"process": {"env": {"A": "1", "B": "2", "D": "inherit"}}},
        {"process": {"env": {"B": "3", "A": False, "C": "", "D": "inherit"}}},
    )
    assert dict(policy.process.env) == {"B": "3", "C": "", "D": "inherit"}


def test_limits_merge_by_name_and_inherit_removes() -> None:
    policy = build(
        {"rlimits": {"fsize": "1G", "nofile": "1:2", "core": 1}},
        {"rlimits": {"fsize": "inherit", "core": "unlimited"}},
    )
    assert policy.rlimits == (Rlimit("nofile", 1, 2), Rlimit("core", None, None))


def test_settings_and_answers_merge_by_name() -> None:
    policy = build(
        {"sysctls": {"net.a": 1, "net.b": "2"}, "on_missing": {"time": "refuse"}},
        {"sysctls": {"net.a": False}, "on_missing": {"proc": "refuse"}},
    )
    assert policy.sysctls == (("net.b", "2"),)
    assert [layer for layer in ("time", "proc", "subids") if policy.refuses(layer)] == [
        "time",
        "proc",
    ]


def test_masks_and_passed_names_grow() -> None:
    policy = build(
        {"filesystem": {"masked": ["/a"], "locked": ["/l"]}, "process": {"env_pass": ["A"]}},
        {"filesystem": {"masked": ["/b", "/a"], "locked": []}, "process": {"env_pass": ["B"]}},
    )
    assert policy.filesystem.masked == ("/a", "/b")
    assert policy.filesystem.locked == ("/l",)
    assert policy.process.env_pass == ("A", "B")
    assert policy.origin("filesystem.masked./a") == "base.toml"
    assert policy.origin("filesystem.masked./b") == "child.toml"


def test_masks_of_a_sys_that_is_not_there_are_left_out() -> None:
    files = {"masked": ["/sys/firmware", "/system"], "locked": ["/sys"]}
    assert build({"filesystem": files}).filesystem.masked == ("/system",)
    assert build({"filesystem": files}).filesystem.locked == ()
    shown = build({"filesystem": {**files, "sys": "read-only"}}).filesystem
    assert shown.masked == ("/sys/firmware", "/system")


def test_a_mask_for_every_processor() -> None:
    files = {"masked": ["/sys/d/cpu*/t"], "sys": "read-only"}
    masked = build({"filesystem": files}).filesystem.masked
    assert masked[0] == "/sys/d/cpu0/t"
    assert all("*" not in path for path in masked)


@pytest.mark.parametrize(
    ("wanted", "keep", "add"),
    [
        ({}, "CHOWN KILL", ""),
        ({"add": ["cap_net_raw"]}, "CHOWN KILL NET_RAW", "NET_RAW"),
        ({"drop": ["KILL", "MKNOD"]}, "CHOWN", ""),
        ({"drop": ["ALL"]}, "", ""),
        ({"drop": ["ALL"], "add": ["KILL"]}, "KILL", "KILL"),
        ({"keep": ["SYSLOG"]}, "SYSLOG", ""),
        ({"keep": ["SYSLOG"], "add": ["BPF"]}, "SYSLOG BPF", "BPF"),
    ],
)
def test_capabilities(wanted: dict[str, Any], keep: str, add: str) -> None:
    kept = build({"capabilities": {"keep": ["KILL", "CHOWN"]}}, {"capabilities": wanted})
    assert kept.capabilities.keep == tuple(keep.split())
    assert kept.capabilities.add == tuple(add.split())


def test_all_capabilities_but_one() -> None:
    policy = build({"capabilities": {"add": ["ALL"], "drop": ["BPF"]}})
    assert policy.capabilities.keep == tuple(name for name in NAMES if name != "BPF")


def test_where_capabilities_come_from() -> None:
    base = {"capabilities": {"keep": ["CHOWN"]}}
    assert build(base).origin("capabilities.keep") == "base.toml"
    dropped = build(base, {"capabilities": {"drop": ["CHOWN"]}})
    assert dropped.origin("capabilities.keep") == "base.toml, child.toml"
    added = build(base, {"capabilities": {"add": ["KILL"]}})
    assert added.origin("capabilities.add") == "child.toml"


def test_a_later_base_puts_an_inherited_profile_out_of_use() -> None:
    base = {"seccomp": {"profile": "/p.json"}}
    assert build(base, {"seccomp": {"groups": ["D1"]}}).seccomp.profile == "/p.json"
    assert build(base, {"seccomp": {"base": "unconfined"}}).seccomp.profile is None
    assert build(base, {"seccomp": {"profile": ""}}).seccomp.profile is None


def test_empty_text_takes_back() -> None:
    base = {"identity": {"user": 5}, "filesystem": {"persist": "/p"}, "process": {"cwd": "/x"}}
    blank = {"identity": {"user": ""}, "filesystem": {"persist": ""}, "process": {"cwd": ""}}
    policy = build(base, blank)
    assert (policy.identity.user, policy.filesystem.persist, policy.process.cwd) == (None,) * 3


def test_a_policy_can_be_compared_and_hashed() -> None:
    data = {"filesystem": {"mounts": [bind("/a")]}, "landlock": {"scopes": ["signal", "signal"]}}
    assert hash(build(data)) == hash(build(data))
    assert build(data).landlock.scopes == ("signal",)
