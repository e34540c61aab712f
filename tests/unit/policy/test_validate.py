"""Every wrong value is named, with its place, the value found and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.errors import PolicyError
from sandbox.policy.merge import Layer, build_policy


def problems(data: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        build_policy([Layer("build.toml", data, **more)])
    return list(caught.value.problems)


def mounts(*targets: str) -> dict[str, Any]:
    return {"filesystem": {"mounts": [{"source": "/srv", "target": t} for t in targets]}}


def test_all_problems_are_gathered() -> None:
    data = {
        "filesystem": {
            "mounts": [
                {"source": "/a", "target": "/a"},
                {"source": "/a", "target": "src"},
                {"source": "a", "target": "/a/../b", "readonly": True},
                {"target": "/a"},
            ],
            "size": "12X",
            "shn": "64M",
        },
        "network": {"mode": "nat"},
        "proces": {},
        "process": {"hostname": "-x", "timeout": "5 parsecs", "env": {"A=B": "c", "D": 1}},
        "capabilities": {"keep": ["CHWON", "net_raw"]},
        "rlimits": {"nofle": 1, "core": "2:1"},
        "identity": {"root": 1},
    }
    with pytest.raises(PolicyError) as caught:
        build_policy([Layer("build.toml", data)])
    assert caught.value.what == "build.toml has 18 problems"
    assert list(caught.value.problems) == [
        'build.toml: filesystem.mounts[1].target: must be absolute, found "src"',
        'build.toml: filesystem.mounts[2].source: must be absolute, found "a"',
        'build.toml: filesystem.mounts[2].target: must be without "..", "." and "//", '
        'found "/a/../b"',
        'build.toml: filesystem.mounts[2].readonly: is not a key; did you mean "read_only"?',
        "build.toml: filesystem.mounts[3].source: is missing",
        "build.toml: filesystem.size: must be a size in bytes, or such as 64K, 512M, 2G, "
        'found "12X"',
        'build.toml: filesystem.shn: is not a key; did you mean "shm"?',
        'build.toml: network.mode: "nat" is not a mode; use none, user, bridge, pasta, '
        "slirp4netns or host, or container:NAME",
        'build.toml: proces: is not a section; did you mean "process"?',
        'build.toml: process.hostname: must be letters, digits and "-" in parts split by ".", '
        'no part led or ended by "-", found "-x"',
        "build.toml: process.timeout: must be a duration in seconds, or such as 90s, 5m, 1h30m, "
        'found "5 parsecs"',
        'build.toml: process.env.A=B: must be a name without "=", found "A=B"',
        "build.toml: process.env.D: must be a string, or false to remove it, found 1",
        'build.toml: capabilities.keep[0]: "CHWON" is not a capability; did you mean "CHOWN"?',
        'build.toml: rlimits.nofle: "nofle" is not a limit; use as, core, cpu, data, fsize, '
        "locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending or "
        'stack; did you mean "nofile"?',
        'build.toml: rlimits.core: must not have a soft limit above the hard one, found "2:1"',
        "build.toml: identity.root: must be true or false, found 1",
        'build.toml: filesystem.mounts[3].target: "/a" is the target of filesystem.mounts[0] '
        "already",
    ]


def test_flags_are_named_instead_of_keys() -> None:
    data = {
        "filesystem": {"mounts": [{"source": "/a", "target": "a"}]},
        "process": {"hostname": "a b"},
        "rlimits": {"nofle": (1, 2)},
    }
    origins = {
        "filesystem.mounts": "--volume",
        "process.hostname": "--hostname",
        "rlimits.nofle": "--ulimit",
    }
    with pytest.raises(PolicyError) as caught:
        build_policy([Layer("flags", data, origins)])
    assert caught.value.what == "the options have 3 problems"
    first, second, third = caught.value.problems
    assert first == '--volume: target must be absolute, found "a"'
    assert second.startswith("--hostname: must be letters")
    assert third.startswith('--ulimit: "nofle" is not a limit')


@pytest.mark.parametrize(
    "target",
    ["/", "/proc", "/proc/sys", "/sys/fs", "/dev", "/dev/null", "/dev/pts/0", "/dev/mem", "//"],
)
def test_refused_targets(target: str) -> None:
    assert len(problems(mounts(target))) == 1


@pytest.mark.parametrize("target", ["", "a", "./a", "/a/./b", "/a//b", "/..", "/a\0", "/a\nb", 7])
def test_malformed_targets(target: Any) -> None:
    assert problems(mounts(target))[0].startswith("build.toml: filesystem.mounts[0].target: ")


@pytest.mark.parametrize("target", ["/a", "/a/", "/process", "/dev/shm", "/dev/shm/a", "/..a"])
def test_good_targets(target: str) -> None:
    policy = build_policy([Layer("build.toml", mounts(target))])
    assert policy.filesystem.mounts[0].target == target.rstrip("/")


def test_a_path_that_the_kernel_cannot_take_is_refused() -> None:
    assert "4096 bytes" in problems(mounts("/a" * 3000))[0]
    assert "255 bytes" in problems(mounts("/" + "a" * 256))[0]
    assert "valid text" in problems(mounts("/\ud800"))[0]


def test_a_device_is_only_mounted_as_itself() -> None:
    device = {"source": "/dev/fuse", "target": "/dev/fuse"}
    assert build_policy([Layer("x", {"filesystem": {"mounts": [device]}})])
    found = problems({"filesystem": {"mounts": [{**device, "source": "/dev/kvm"}]}})
    assert found == [
        'build.toml: filesystem.mounts[0].target: "/dev/fuse" can only be the host\'s own '
        '"/dev/fuse"'
    ]


def test_two_mounts_of_a_layer_on_one_target() -> None:
    data = mounts("/a", "/b", "/a/")
    data["filesystem"]["tmpfs"] = [{"target": "/b", "size": "1M"}]
    assert problems(data) == [
        'build.toml: filesystem.mounts[2].target: "/a" is the target of filesystem.mounts[0] '
        "already",
        'build.toml: filesystem.tmpfs[0].target: "/b" is the target of filesystem.mounts[1] '
        "already",
    ]


def test_a_mask_does_not_hide_a_mount() -> None:
    data = mounts("/data/x")
    data["filesystem"]["masked"] = ["/data"]
    assert problems(data) == [
        'build.toml: filesystem.mounts./data/x: "/data/x" would be hidden: "/data" is masked'
    ]


@pytest.mark.parametrize("user", [0, "0", "root"])
def test_user_0_where_root_is_not_allowed(user: int | str) -> None:
    base = Layer("base.toml", {"identity": {"root": False}})
    flags = Layer("flags", {"identity": {"user": user}}, {"identity.user": "--user"})
    with pytest.raises(PolicyError) as caught:
        build_policy([base, flags])
    assert caught.value.problems == ("--user: must not be 0: identity.root is false in base.toml",)


@pytest.mark.parametrize("user", [-1, 1 << 32, "a:b", "a/b", "-a", " ", True, 1.0, "9" * 30])
def test_wrong_users(user: Any) -> None:
    assert len(problems({"identity": {"user": user}})) == 1


@pytest.mark.parametrize("name", ["a", "A-1", "a.b.c", "0", "a" * 63])
def test_good_host_names(name: str) -> None:
    assert build_policy([Layer("x", {"process": {"hostname": name}})]).process.hostname == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a..b", ".a", "a_b", "a b", "ä", "a" * 64, "a.b" * 30, "a\n", 1]
)
def test_wrong_host_names(name: Any) -> None:
    assert len(problems({"process": {"hostname": name}})) == 1


@pytest.mark.parametrize("mode", [755, 1777, 777, 0o2755, -1, "8", "", "0x1", True, None, 1.5])
def test_wrong_modes(mode: Any) -> None:
    tmpfs = {"target": "/t", "mode": mode}
    assert problems({"filesystem": {"tmpfs": [tmpfs]}})[0].startswith(
        "build.toml: filesystem.tmpfs[0].mode: "
    )


@pytest.mark.parametrize(("mode", "bits"), [(0o1777, 0o1777), ("1777", 0o1777), ("755", 0o755)])
def test_modes(mode: Any, bits: int) -> None:
    policy = build_policy([Layer("x", {"filesystem": {"tmpfs": [{"target": "/t", "mode": mode}]}})])
    assert policy.filesystem.tmpfs[0].mode == bits


def test_a_tmpfs_is_never_without_a_bound() -> None:
    assert "4096" in problems({"filesystem": {"tmpfs": [{"target": "/t", "size": 0}]}})[0]


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "", "A=B", "A\0"]
)
def test_names_that_are_not_taken_over(name: str) -> None:
    assert len(problems({"process": {"env_pass": [name]}})) == 1


@pytest.mark.parametrize(
    "name", ["kernel.core_pattern", "vm.swappiness", "net", "net..x", "net/../x", "user.max", ""]
)
def test_settings_of_the_whole_host(name: str) -> None:
    assert len(problems({"sysctls": {name: "1"}})) == 1


def test_dotted_settings_without_quotes() -> None:
    policy = build_policy([Layer("x", {"sysctls": {"net": {"ipv4": {"x": 1}}}})])
    assert policy.sysctls == (("net.ipv4.x", "1"),)


def test_a_capability_both_added_and_dropped() -> None:
    found = problems({"capabilities": {"add": ["CHOWN"], "drop": ["CAP_CHOWN"]}})
    assert found == ["build.toml: capabilities.add: adds what capabilities.drop drops: CHOWN"]


def test_the_key_of_another_section_is_pointed_to() -> None:
    assert problems({"process": {"nested": True}}) == [
        'build.toml: process.nested: is not a key; it belongs to section "namespaces"'
    ]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("memory", "1M", 'must be at least 6M, which starting a sandbox takes, or "unlimited"'),
        ("memory", 0, "must be at least 6M"),
        ("memory", "lots", "must be a size"),
        ("cpus", 0, "must be a number of processors from 0.01 on"),
        ("cpus", "nan", "must be a number of processors"),
        ("cpus", "inf", "must be a number of processors"),
        ("cpus", True, "must be a number of processors"),
        ("pids", 0, "must be 1 to"),
        ("cpu_weight", 10001, "must be 0 to 10000"),
        ("cpuset", "3-1", "ends before it begins"),
        ("cpuset", "0,,1", 'must be processors such as "0-3,6"'),
        ("cpuset", "0-99999", "must be processors"),
        ("cpuset", "\u0663", "must be processors"),
        ("driver", "magic", "is not a driver"),
    ],
)
def test_impossible_resources(key: str, value: object, text: str) -> None:
    (found,) = problems({"resources": {key: value}})
    assert found.startswith(f"build.toml: resources.{key}: ")
    assert text in found


@pytest.mark.parametrize(
    "value", ["sda:rbps=1", "/dev/sda", "/dev/sda:rbps=0", "/dev/sda:speed=1", "8:0:rbps=1,rbps=2"]
)
def test_impossible_io_max(value: str) -> None:
    (found,) = problems({"resources": {"io_max": [value]}})
    assert found.startswith("build.toml: resources.io_max[0]: ")


def test_possible_resources() -> None:
    data = {"memory": "64M", "memory_swap": "1G", "cpus": "0.5", "pids": -1, "cpuset": "0-3,6"}
    policy = build_policy(
        [Layer("x", {"resources": {**data, "io_max": ["8:0:rbps=10M,wiops=5"]}}, {}, "")]
    )
    wanted = policy.resources
    assert (wanted.memory, wanted.memory_swap, wanted.cpus) == (64 << 20, 1 << 30, 0.5)
    assert (wanted.pids, wanted.cpuset) == (None, "0-3,6")
    assert wanted.io_max == ("8:0:rbps=10485760,wiops=5",)


def test_swap_and_reservation_belong_to_memory() -> None:
    (found,) = problems({"resources": {"memory_swap": "1G"}})
    assert "needs resources.memory" in found
    (found,) = problems({"resources": {"memory": "1G", "memory_swap": "64M"}})
    assert "must not be less than resources.memory (from build.toml)" in found
    (found,) = problems({"resources": {"memory": "1G", "memory_reservation": "2G"}})
    assert "must not be more than resources.memory" in found


def test_persist_needs_an_overlay() -> None:
    found = problems({"filesystem": {"root": "bind", "persist": "/keep"}})
    assert found == ['build.toml: filesystem.persist: needs an overlay; filesystem.root is "bind"']


def test_persist_needs_a_writable_root() -> None:
    found = problems({"filesystem": {"read_only": True, "persist": "/keep"}})
    text = "would keep nothing: filesystem.read_only is true in build.toml"
    assert found == [f"build.toml: filesystem.persist: {text}"]


@pytest.mark.parametrize("called", ["--allow", "sandbox.run", "SandboxExecutor"])
def test_what_is_wished_of_a_network_needs_one(called: str) -> None:
    """A policy may name rules for a mode that comes later, a call may not."""
    rules = {"network": {"allow": ["example.org"]}}
    (found,) = problems(rules, origins={"network.allow": called})
    assert 'network.mode = "user" or "bridge", and it is "none"' in found
    for file in ("build.toml", "sandbox.toml"):
        build_policy([Layer(file, rules, {"network.allow": file})])


@pytest.mark.parametrize(
    ("key", "value"), [("aliases", ["x"]), ("rate", "10M"), ("delay", "1s"), ("loss", "1%")]
)
@pytest.mark.parametrize("mode", ["none", "user", "host", "container:x"])
def test_what_only_a_bridge_does_is_refused_elsewhere(key: str, value: object, mode: str) -> None:
    data = {"namespaces": {"shares": ["net"]}, "network": {"mode": mode, key: value}}
    (found,) = problems(data, origins={f"network.{key}": "--it"})
    assert f'needs network.mode = "bridge", and it is "{mode}"' in found


def test_a_profile_lies_beside_its_policy() -> None:
    data = {"seccomp": {"profile": "p.json"}}
    policy = build_policy([Layer("x", data, {}, "/etc/pol/x.toml")])
    assert policy.seccomp.profile == "/etc/pol/p.json"
    assert problems(data) == ['build.toml: seccomp.profile: must be absolute, found "p.json"']
