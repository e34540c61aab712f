"""The four built-in policies hold what the security design says of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from sandbox.linux.capabilities import capability_mask
from sandbox.linux.paths import policies_dir
from sandbox.policy import model, schema
from sandbox.policy.load import load_policy
from sandbox.policy.merge import Layer, build_policy
from sandbox.policy.model import Policy
from sandbox.record import Record

NAMES = ("strict", "default", "ci", "permissive")
SECTIONS: dict[str, type[Record]] = {
    "identity": model.Identity,
    "namespaces": model.Namespaces,
    "filesystem": model.Filesystem,
    "network": model.Network,
    "process": model.Process,
    "capabilities": model.Capabilities,
    "seccomp": model.Seccomp,
    "landlock": model.Landlock,
    "resources": model.Resources,
}
MIB, GIB, MINUTE = 1 << 20, 1 << 30, 60


@pytest.fixture(params=NAMES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return load(request.param)


def load(name: str) -> Policy:
    return build_policy(load_policy(name))


def limits(name: str) -> dict[str, tuple[int | None, int | None]]:
    return {limit.name: (limit.soft, limit.hard) for limit in load(name).rlimits}


def column(*values: object) -> dict[str, object]:
    return dict(zip(NAMES, values, strict=True))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("identity.root", column(False, True, True, True)),
        ("namespaces.time", column(True, False, False, False)),
        ("namespaces.nested", column(False, False, False, True)),
        ("filesystem.read_only", column(True, False, False, False)),
        ("filesystem.proc", column("pid", "full", "full", "full")),
        ("filesystem.sys", column("none", "none", "read-only", "read-only")),
        ("network.mode", column("none", "none", "none", "none")),
        ("network.loopback", column(False, True, True, True)),
        ("process.hostname", column("sbx", "sbx", "sbx", "sbx")),
        ("process.timeout", column(5 * MINUTE, 60 * MINUTE, 180 * MINUTE, 0)),
        ("process.output_limit", column(16 * MIB, 64 * MIB, 256 * MIB, 0)),
        ("process.init", column(True, True, True, True)),
        ("seccomp.base", column("allow", "deny", "deny", "deny")),
        ("seccomp.groups", column((), ("D1", "D2"), ("D1", "D2"), ("D1",))),
        ("landlock.fs", column("strict", "write", "none", "none")),
        ("landlock.tcp", column(True, False, False, False)),
        ("landlock.ioctl_dev", column(True, False, False, False)),
        ("capabilities.add", column((), (), (), ())),
        ("resources.memory", column(GIB, 8 * GIB, None, None)),
        ("resources.cpus", column(1, None, None, None)),
        ("resources.pids", column(256, 4096, 8192, 16384)),
    ],
)
def test_the_table(key: str, values: dict[str, object]) -> None:
    section, name = key.split(".")
    assert {n: getattr(getattr(load(n), section), name) for n in NAMES} == values


@pytest.mark.parametrize(
    ("name", "mask"),
    [("strict", 0), ("default", 0x800000FB), ("ci", 0x800405FB), ("permissive", 0x800405FB)],
)
def test_capabilities(name: str, mask: int) -> None:
    assert capability_mask(load(name).capabilities.keep) == mask


@pytest.mark.parametrize(
    ("limit", "values"),
    [
        ("core", ((1, 1),) * 4),
        ("nproc", ((256, 256), (4096, 4096), (8192, 8192), (16384, 16384))),
        ("nofile", ((1024, 4096), (4096, 65536), (65536, 65536), (65536, 65536))),
        ("fsize", ((GIB, GIB), (16 * GIB, 16 * GIB), (64 * GIB, 64 * GIB), None)),
        ("memlock", ((65536, 65536), (8 * MIB,) * 2, (8 * MIB,) * 2, (64 * MIB,) * 2)),
        ("msgqueue", ((0, 0), (819200,) * 2, (819200,) * 2, (819200,) * 2)),
        ("sigpending", ((1024, 1024), (8192,) * 2, (8192,) * 2, (8192,) * 2)),
        ("rtprio", ((0, 0),) * 4),
        ("nice", ((0, 0),) * 4),
        ("stack", ((8 * MIB, 64 * MIB), None, None, None)),
    ],
)
def test_limits(limit: str, values: tuple[object, ...]) -> None:
    assert {name: limits(name).get(limit) for name in NAMES} == column(*values)


def test_sockets() -> None:
    assert load("strict").seccomp.sockets == ("unix", "inet", "inet6")
    assert all("netlink" in load(name).seccomp.sockets for name in NAMES[1:])


def test_memory_of_writable_places() -> None:
    for name, size, inodes in (("strict", 256 * MIB, 32768), ("default", 4 * GIB, 1 << 20)):
        files = load(name).filesystem
        assert {files.size, files.shm, *(entry.size for entry in files.tmpfs)} == {size}
        assert {files.inodes, *(entry.inodes for entry in files.tmpfs)} == {inodes}
    assert load("ci").filesystem.size == 8 * GIB


def test_tmpfs(policy: Policy) -> None:
    noexec = policy.name == "strict"
    found = [(e.target, e.mode, e.noexec) for e in policy.filesystem.tmpfs]
    assert found == [("/run", 0o755, noexec), ("/tmp", 0o1777, noexec)]


def test_masks() -> None:
    assert load("strict").filesystem.masked == ()
    docker = (
        "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats"
    )
    more = """kmsg key-users kallsyms kpageflags kpagecount kpagecgroup vmallocinfo slabinfo mtrr
    modules partitions diskstats iomem ioports config.gz bootconfig pressure
    sys/kernel/random/boot_id"""
    proc = {f"/proc/{name}" for name in (docker + " " + more).split()}
    assert set(load("default").filesystem.masked) == proc
    names = """firmware fs/selinux kernel/security kernel/debug kernel/tracing class/dmi
    devices/virtual/dmi devices/virtual/powercap hypervisor"""
    sys = {f"/sys/{name}" for name in names.split()}
    shown = set(load("ci").filesystem.masked)
    assert shown >= proc | sys
    assert any(path.endswith("/cpu0/thermal_throttle") for path in shown)
    locked = {f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger", "driver")}
    assert set(load("ci").filesystem.locked) == locked


def test_environments(policy: Policy) -> None:
    env = dict(policy.process.env)
    assert env["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert (env["TERM"], env["LANG"]) == ("dumb", "C.UTF-8")
    if policy.name == "strict":
        assert env["HOME"] == "/tmp"
        assert policy.process.env_pass == ()
    else:
        assert env["TMPDIR"] == "/tmp"
        assert policy.process.env_pass == ("SOURCE_DATE_EPOCH",)


def test_what_may_be_missing() -> None:
    strict = load("strict")
    assert [layer for layer in model.LAYERS if not strict.refuses(layer)] == ["overlay"]
    assert [layer for layer in model.LAYERS if load("default").refuses(layer)] == ["seccomp"]
    assert not any(load("permissive").refuses(layer) for layer in model.LAYERS)


LIMITS = ("connections", "connections_per_second")


def test_a_root_policy_says_everything() -> None:
    """What it left open would be a default that protects little."""
    open_keys = {
        "identity.user",
        "identity.group",
        "filesystem.persist",
        "filesystem.devices",
        "filesystem.mounts",
        *(f"network.{key}" for key in ("name", "aliases", "rate", "delay", "loss")),
        "process.cwd",
        "capabilities.add",
        "seccomp.profile",
        *(f"namespaces.{kind}" for kind in ("ipc", "uts", "pid")),
        *(f"network.{key}" for key in ("deny", "dns", "publish", "mtu", *LIMITS)),
        *(f"resources.{key}" for key in model.Resources._fields if key not in {"memory", "pids"}),
    }
    for name in ("strict", "default"):
        data = load_policy(name)[0].data
        for section, record in SECTIONS.items():
            missing = {f"{section}.{key}" for key in record._fields if key not in data[section]}
            assert missing <= open_keys
        assert set(data["on_missing"]) == set(model.LAYERS)


def test_the_schema_has_every_key_of_the_model() -> None:
    for section, record in SECTIONS.items():
        extra = {"drop"} if section == "capabilities" else set()
        assert set(schema.SECTIONS[section]) == {*record._fields, *extra}
    assert {*schema.SECTIONS, *schema.TABLES} == {*Policy._fields} - {"name", "origins"}


def documented(text: str) -> set[str]:
    """Keys in the tables of README.md, as "section.key"."""
    found, section = set(), ""
    for line in text.splitlines():
        if line.startswith("### `[") or line.startswith("`[["):
            section = line.strip("#`:[] ").replace("[[", "")
        elif line.startswith("| `") and section:
            found.add(f"{section}.{line.split('`')[1]}")
    return found


def keys_of_the_model() -> set[str]:
    keys = {f"{s}.{key}" for s, checks in schema.SECTIONS.items() for key in checks}
    keys |= {f"filesystem.mounts.{key}" for key in model.Mount._fields}
    keys |= {f"filesystem.tmpfs.{key}" for key in model.Tmpfs._fields}
    return keys | {f"on_missing.{layer}" for layer in model.LAYERS}


def test_the_readme_documents_every_key() -> None:
    text = Path(policies_dir(), "README.md").read_text()
    assert documented(text) == keys_of_the_model()
    limits = text.partition("### `[rlimits]`")[2].partition("###")[0]
    assert all(f"`{name}`" in limits for name in model.RLIMIT_NAMES)
    assert all(f"`{name}`" in text for name in (*schema.TOP, *NAMES))


def test_the_readme_names_every_member_of_the_closed_sets() -> None:
    text = Path(policies_dir(), "README.md").read_text()
    sets = (
        model.ID_MAP_KINDS,
        model.ROOT_MODES,
        model.PROC_MODES,
        model.SYS_MODES,
        model.NETWORK_MODES,
        model.SECCOMP_BASES,
        model.SECCOMP_GROUPS,
        model.SOCKET_FAMILIES,
        model.LANDLOCK_FS,
        model.LANDLOCK_SCOPES,
        model.ON_MISSING,
    )
    assert [word for words in sets for word in words if f'`"{word}"`' not in text] == []


def uncommented_template() -> str:
    lines = Path(policies_dir(), "_template.toml").read_text().splitlines()
    return "\n".join(
        line.removeprefix("# ") if line.startswith("# [") or " = " in line else "" for line in lines
    )


def test_the_template_holds_every_key_and_is_sound() -> None:
    data = tomllib.loads(uncommented_template())
    files = data["filesystem"]
    found = {f"{s}.{key}" for s in data if isinstance(data[s], dict) for key in data[s]}
    found |= {f"filesystem.mounts.{key}" for key in files["mounts"][0]}
    found |= {f"filesystem.tmpfs.{key}" for key in files["tmpfs"][0]}
    assert found >= keys_of_the_model()
    assert set(data["rlimits"]) == set(model.RLIMIT_NAMES)
    data["capabilities"].pop("drop")
    data["seccomp"].pop("profile")
    data["identity"]["root"] = True
    build_policy([*load_policy("strict"), Layer("_template.toml", data)])


def test_the_template_as_it_is() -> None:
    path = f"{policies_dir()}/_template.toml"
    assert build_policy(load_policy(path)).replace(name="strict", origins=()) == load(
        "strict"
    ).replace(origins=())
