"""Policy + facts + request → plan: order, refusals, and the golden text of the four policies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import HostError
from sandbox.host.accounts import Account
from sandbox.host.facts import HostFacts
from sandbox.host.network import NetworkFacts
from sandbox.plan import compile as compiler
from sandbox.plan import explain, ops, wire
from sandbox.plan.compile import choose_storage, compile_plan
from sandbox.plan.request import DISK_OVERLAY, Available, Plan, Request, Shared, Source
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Mount, Policy

from .conftest import make_request, strict

GOLDEN = Path(__file__).parents[2] / "golden"


def _names(plan: Plan) -> list[str]:
    return [type(step.op).__name__ for step in plan.steps]


def test_golden_text(policy: Policy, facts: HostFacts) -> None:
    """Set SBX_UPDATE_GOLDEN=1 to write the files anew, then review the diff."""
    text = "\n".join(explain.lines(compile_plan(policy, facts, make_request()))) + "\n"
    file = GOLDEN / f"{policy.name}.txt"
    if os.environ.get("SBX_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_order_of_the_payloads_steps(policy: Policy, facts: HostFacts) -> None:
    names = _names(compile_plan(policy, facts, make_request()))
    order = ["Pivot", "InnerUser", "Keyring", "Ids", "SetCapabilities", "NoNewPrivs"]
    order += ["Workdir", "CloseDescriptors", "Seccomp", "Exec"]
    assert [name for name in names if name in order] == order
    assert names[-1] == "Exec"


def test_propagation_is_cut_before_anything_is_mounted(policy: Policy, facts: HostFacts) -> None:
    names = _names(compile_plan(policy, facts, make_request()))
    assert names[:3] == ["Namespaces", "IdMap", "Private"]


def test_same_input_same_bytes(policy: Policy, facts: HostFacts) -> None:
    plans = [compile_plan(policy, facts, make_request()) for _ in range(2)]
    first, second = (wire.encode(step.op for step in plan.steps) for plan in plans)
    assert first == second


def test_the_same_is_not_decided_twice(facts: HostFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that a plan depends on, only another command may do with what was decided before."""
    decided: list[object] = []

    def decide(*inputs: object) -> Plan:
        decided.append(inputs)
        return plan

    plan = compiler._decide(strict(), facts, make_request())
    monkeypatch.setattr(compiler, "_decide", decide)
    monkeypatch.setattr(compiler, "_decided", {})
    wanted = strict()
    first = compile_plan(wanted, facts, make_request(env=(("TERM", "a"),)))
    second = compile_plan(wanted, facts, make_request(argv=("false",), env=(("X", "1"),)))
    assert len(decided) == 1
    commands = [plan.steps[-1].op for plan in (first, second)]
    assert [op.argv for op in commands if isinstance(op, ops.Exec)] == [("true",), ("false",)]
    assert first.steps[:-1] == second.steps[:-1]
    changed = {
        "rootfs": Source("/srv/root", 1, 3, 0o40755),
        "account": Account(1001),
        "sources": (Source("/data", 1, 9, 0o40755),),
        "hidden": ("/home",),
        "pinned": ((Source("/data", 1, 9, 0o40755), "/d", True),),
        "warnings": ("odd",),
        "pass_fds": (9,),
        "hard_limits": (("nofile", 64),),
        "storage": "bind",
        "upper": "/upper",
        "upper_id": (1, 2),
        "program": b"\x06\0\0\0\0\0\0\0",
        "owners": (7,),
        "files": (("/etc/hosts", b"x"),),
        "accounts": (b"x", b""),
        "cgroup": Available("root"),
        "devices": (("/dev/sda", "8:0"),),
        "shared": Shared("0123456789ab", "infra", ((0, 5, 99999),), ((0, 5, 99999),), False, "1"),
        "network": NetworkFacts("", "", ""),
    }
    assert {*changed, "argv", "env"} == set(Request._fields)
    for number, (name, value) in enumerate(changed.items()):
        compile_plan(wanted, facts, make_request(**{name: value}))
        assert len(decided) == number + 2, name
    compile_plan(wanted, facts.replace(landlock_abi=3), make_request())
    compile_plan(wanted.replace(name="other"), facts, make_request())
    assert len(decided) == len(changed) + 3
    for number in range(2 * compiler.REMEMBERED):
        compile_plan(wanted, facts, make_request(owners=(number,)))
        assert len(compiler._decided) <= compiler.REMEMBERED


def test_strict_keeps_nothing(facts: HostFacts) -> None:
    plan = compile_plan(strict(), facts, make_request())
    by_name = {type(step.op).__name__: step.op for step in plan.steps}
    assert by_name["SetCapabilities"] == ops.SetCapabilities(0)
    assert "Loopback" not in by_name
    assert by_name["Namespaces"].describe().endswith("net cgroup")
    assert ops.ProcWrite("sys/user/max_user_namespaces", "1", 0) in [s.op for s in plan.steps]
    assert ops.Remount("/", ops.RDONLY | ops.NOSUID | ops.NODEV) in [s.op for s in plan.steps]


def test_every_mount_is_nosuid_and_nodev(policy: Policy, facts: HostFacts) -> None:
    mounts = (Mount("/a", "/data"),)
    policy = policy.replace(filesystem=policy.filesystem.replace(mounts=mounts))
    sources = (Source("/a", 1, 3, 0o40755),)
    plan = compile_plan(policy, facts, make_request(sources=sources))
    mounted = [op for s in plan.steps if isinstance(op := s.op, ops.Filesystem | ops.Bind)]
    assert {"/proc", "/tmp", "/dev/shm", "/data"} <= {op.target for op in mounted}
    assert [op.target for op in mounted if not op.attributes & ops.NOSUID] == []
    nodes = {op.target for op in mounted if not op.attributes & ops.NODEV}
    assert nodes <= {"/dev", "/dev/pts"}


def test_volumes_come_parents_first(facts: HostFacts) -> None:
    mounts = (Mount("/b", "/x/y/z"), Mount("/a", "/x/y", read_only=True))
    policy = strict()
    policy = policy.replace(filesystem=policy.filesystem.replace(mounts=mounts))
    sources = (Source("/a", 1, 3, 0o40755), Source("/b", 1, 4, 0o100644))
    plan = compile_plan(policy, facts, make_request(sources=sources))
    binds = [step.op for step in plan.steps if isinstance(step.op, ops.Bind)]
    assert [bind.target for bind in binds] == ["/x/y", "/x/y/z"]
    assert binds[0].attributes & ops.RDONLY
    assert not binds[1].attributes & ops.RDONLY
    overlay = next(s.op for s in plan.steps if isinstance(s.op, ops.RootOverlay))
    assert {"/x/y/", "/x/y/z"} <= set(overlay.mount_points)


@pytest.mark.parametrize(
    ("lack", "layer"),
    [
        ({"landlock_abi": 0}, "landlock"),
        ({"time_namespace": False}, "time"),
        ({"proc_error": "operation not permitted"}, "proc"),
        ({"subuids": ()}, "subids"),
    ],
)
def test_missing_layers(facts: HostFacts, lack: dict[str, object], layer: str) -> None:
    poor = facts.replace(**lack)
    with pytest.raises(HostError) as refusal:
        compile_plan(strict(), poor, make_request())
    assert refusal.value.hint
    lenient = strict().replace(on_missing=((layer, "degrade"),))
    plan = compile_plan(lenient, poor, make_request())
    assert layer in [d.layer for d in plan.degradations]


NO_LANDLOCK = "landlock_create_ruleset is not supported or not enabled (lsm=)"
# From which ABI on, under which policies, what is refused, and its bits in the ruleset.
LANDLOCK = (
    (2, ("strict", "default"), "renaming files between directories", ("handled_fs", 1 << 13)),
    (3, ("strict", "default"), "refusal of truncate by Landlock", ("handled_fs", 1 << 14)),
    (4, ("strict",), "refusal of TCP by Landlock", ("handled_net", 3)),
    (5, ("strict",), "refusal of device ioctls by Landlock", ("handled_fs", 1 << 15)),
    (
        6,
        ("strict", "default", "ci"),
        "Landlock's scopes of abstract sockets and signals",
        ("scoped", 3),
    ),
)


@pytest.mark.parametrize("abi", range(1, 9))
@pytest.mark.parametrize("name", ["strict", "default", "ci", "permissive"])
def test_each_landlock_says_what_is_lost(facts: HostFacts, name: str, abi: int) -> None:
    plan = compile_plan(
        build_policy(load_policy(name)), facts.replace(landlock_abi=abi), make_request()
    )
    lost = [d for d in plan.degradations if d.layer == "landlock"]
    wanted = [row for row in LANDLOCK if name in row[1]]
    assert [(d.lost, d.cause) for d in lost] == [
        (what, f"the kernel has Landlock ABI {abi}, {first} is needed")
        for first, _, what, _ in wanted
        if abi < first
    ]
    rulesets = [s.op for s in plan.steps if isinstance(s.op, ops.LandlockRuleset)]
    assert bool(rulesets) == (name in ("strict", "default") or (name == "ci" and abi >= 6))
    assert ("landlock" in plan.layers) == bool(rulesets)
    for ruleset in rulesets:
        for first, names, _, (field, bits) in LANDLOCK:
            expected = bits if abi >= first and name in names else 0
            assert getattr(ruleset, field) & bits == expected


@pytest.mark.parametrize("name", ["strict", "default", "ci", "permissive"])
def test_without_landlock(facts: HostFacts, name: str) -> None:
    policy, poor = build_policy(load_policy(name)), facts.replace(landlock_abi=0)
    if name == "strict":
        with pytest.raises(HostError, match="this kernel has no Landlock") as refusal:
            compile_plan(policy, poor, make_request())
        assert "lsm=" in refusal.value.hint
        return
    plan = compile_plan(policy, poor, make_request())
    assert "landlock" not in plan.layers
    lost = [(d.lost, d.cause) for d in plan.degradations if d.layer == "landlock"]
    assert lost == ([] if name == "permissive" else [("all file and socket rules", NO_LANDLOCK)])


def test_all_that_is_missing_is_told_at_once(facts: HostFacts) -> None:
    poor = facts.replace(landlock_abi=0, proc_error="covered", newuidmap="", seccomp=False)
    with pytest.raises(HostError) as refusal:
        compile_plan(strict(), poor, make_request())
    lines = [line.partition(":")[0] for line in refusal.value.problems]
    assert lines == ["subids", "landlock", "seccomp", "proc"]
    assert "cannot mount /proc for the sandbox: covered" in refusal.value.problems[-1]
    demanding = strict().replace(on_missing=(("proc", "refuse"), ("subids", "degrade")))
    with pytest.raises(HostError, match="cannot mount /proc") as refusal:
        compile_plan(demanding, poor, make_request())
    assert refusal.value.problems == ()


def test_no_user_namespace_no_plan(policy: Policy, facts: HostFacts) -> None:
    with pytest.raises(HostError, match="user namespace"):
        compile_plan(policy, facts.replace(userns_error="not permitted"), make_request())


def test_storage(facts: HostFacts) -> None:
    policy = strict()
    assert choose_storage(policy, facts) == ("overlay", "")
    refused = facts.replace(overlay_error="invalid argument")
    storage, reason = choose_storage(policy, refused)
    assert storage == "copy"
    assert "invalid argument" in reason
    demanded = policy.replace(filesystem=policy.filesystem.replace(root="overlay"))
    with pytest.raises(HostError):
        choose_storage(demanded, refused)


def writable(root: str = "auto", *, persist: str | None = None) -> Policy:
    policy = build_policy(load_policy("default"))
    files = policy.filesystem.replace(root=root, persist=persist)
    return policy.replace(filesystem=files)


OLD = {"upper_memory_error": "overlay: make: input/output error"}


@pytest.mark.parametrize("root", ["auto", "overlay"])
def test_changes_go_to_a_disk_where_memory_does_not_do(facts: HostFacts, root: str) -> None:
    storage, reason = choose_storage(writable(root), facts.replace(**OLD))
    assert storage == DISK_OVERLAY
    assert "input/output error" in reason


def test_a_root_that_never_changes_needs_no_disk(facts: HostFacts) -> None:
    poor = facts.replace(**OLD, upper_disk_error="no space left on device")
    assert choose_storage(strict(), poor) == ("overlay", "")
    plan = compile_plan(strict(), poor, make_request())
    assert plan.degradations == ()


def test_a_folder_for_the_changes_is_its_own_file_system(facts: HostFacts) -> None:
    poor = facts.replace(**OLD, upper_disk_error="no space left on device")
    assert choose_storage(writable(persist="/keep"), poor) == ("overlay", "")


def test_without_any_upper_the_root_is_copied(facts: HostFacts) -> None:
    poor = facts.replace(**OLD, upper_disk_error="no space left on device")
    storage, reason = choose_storage(writable(), poor)
    assert storage == "copy"
    assert "input/output error; on disk: no space left on device" in reason
    with pytest.raises(HostError, match="through overlayfs"):
        choose_storage(writable("overlay"), poor)


def test_a_size_that_is_demanded_is_not_lost(facts: HostFacts) -> None:
    demanding = writable().replace(on_missing=(("overlay", "refuse"),))
    with pytest.raises(HostError, match="through overlayfs") as refusal:
        choose_storage(demanding, facts.replace(**OLD))
    assert "input/output error" in refusal.value.cause


@pytest.mark.parametrize("storage", ["overlay", "copy"])
def test_a_size_that_nothing_enforces_is_told(facts: HostFacts, storage: str) -> None:
    upper = "/cache/runs/1" if storage == "overlay" else ""
    request = make_request(storage=storage, upper=upper)
    plan = compile_plan(writable(), facts.replace(**OLD), request)
    (lost,) = plan.degradations
    assert (lost.layer, lost.lost) == ("overlay", "the size limit of the writable layer")
    assert plan.storage == storage
    root = plan.steps[[type(step.op).__name__ for step in plan.steps].index("Procfs") + 1].op
    if storage == "overlay":
        assert isinstance(root, ops.RootOverlay)
        assert (root.folder, root.discarded) == (upper, 1)
        assert "input/output error" in lost.cause
        assert f"until then in {upper}" in root.describe()


def test_what_is_kept_is_not_discarded(facts: HostFacts) -> None:
    plan = compile_plan(writable(persist="/keep"), facts, make_request())
    (root,) = (step.op for step in plan.steps if isinstance(step.op, ops.RootOverlay))
    assert (root.folder, root.discarded) == ("/keep", 0)
    assert plan.degradations == ()


@pytest.mark.parametrize(
    ("callers", "payloads"), [(512, 512), (2047, 2047), (4096, 3072), (5000, 3976), (5120, 4096)]
)
def test_hard_limits_of_the_caller_are_not_exceeded(
    facts: HostFacts, callers: int, payloads: int
) -> None:
    """Where it has many, some open files are the caller's alone."""
    plan = compile_plan(strict(), facts, make_request(hard_limits=(("nofile", callers),)))
    limit = next(
        s.op
        for s in plan.steps
        if isinstance(s.op, ops.SetRlimit) and s.op.resource == ops.RLIMITS["nofile"]
    )
    assert limit.hard == payloads
    assert limit.soft <= payloads
