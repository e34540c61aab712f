"""The doctor's verdicts and cures, with faked trials and kernel files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sandbox.errors import SbxError
from sandbox.host import (
    cgroups,
    checks_kernel,
    checks_namespaces,
    checks_storage,
    cures,
    disk,
    doctor,
    helpers,
    probe,
    subids,
    userns,
)
from sandbox.host.attempt import Outcome
from sandbox.host.doctor import Finding

MODULES = (cgroups, checks_kernel, checks_namespaces, checks_storage, helpers, probe, userns)
OK = Outcome(None, "", 0, "")


def failed(number: int, step: str = "some step") -> Outcome:
    return Outcome(None, step, number, os.strerror(number).lower())


class Host:
    """Fakes the trials by name and the kernel's files by path, for every module."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trials: dict[str, Outcome] = {}
        self.files: dict[str, str] = {}
        self.asked: list[tuple[str, ...]] = []
        for module in MODULES:
            for name, fake in (("attempt", self.attempt), ("read_kernel_file", self.read)):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, fake)
        monkeypatch.setattr(userns.explain, "__kwdefaults__", {"read": self.read})

    def attempt(self, trial: str, *arguments: str) -> Outcome:
        self.asked.append((trial, *arguments))
        return self.trials.get(trial, OK)

    def read(self, path: str) -> str:
        return self.files.get(path, "")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


# ---- the sum ----


def test_findings_keep_their_order_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise OSError(errno.EIO, "Input/output error", "/odd")

    good = Finding("first", "ok", "fine")
    monkeypatch.setattr(doctor, "CHECKS", (("first", lambda: good), ("second", broken)))
    findings = doctor.run_doctor()
    assert findings == (
        good,
        Finding("second", "warn", "could not be checked: /odd Input/output error"),
    )


def test_exit_code_and_worst() -> None:
    ok, warn, fail = (Finding("x", "ok", ""), Finding("x", "warn", ""), Finding("x", "fail", ""))
    assert [doctor.exit_code(f) for f in ([], [ok], [ok, warn], [fail, ok])] == [0, 0, 0, 1]
    assert [doctor.worst(f) for f in ([], [ok], [warn, ok], [ok, fail, warn])] == [
        "ok",
        "ok",
        "warn",
        "fail",
    ]


def test_lines_and_dicts() -> None:
    findings = [Finding("one", "ok", "fine"), Finding("two", "fail", "bad", "do this\nthen that")]
    assert doctor.lines(findings) == [
        "ok    one               fine",
        "fail  two               bad",
        "      fix: do this",
        "           then that",
    ]
    assert doctor.as_dict(findings) == {
        "verdict": "fail",
        "findings": [
            {"name": "one", "verdict": "ok", "detail": "fine", "fix": ""},
            {"name": "two", "verdict": "fail", "detail": "bad", "fix": "do this\nthen that"},
        ],
    }


def test_summary() -> None:
    ok, warn, fail = (Finding("x", "ok", ""), Finding("x", "warn", ""), Finding("x", "fail", ""))
    assert doctor.summary([ok]) == "sandboxes can run here"
    assert doctor.summary([ok, warn]) == (
        "sandboxes can run here, with less than they could have: 1 warning"
    )
    assert doctor.summary([fail, warn, warn]) == "sandboxes cannot run here: 1 failure, 2 warnings"


def test_checks_are_named_as_they_report(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.trials["landlock"] = Outcome(7, "", 0, "")
    monkeypatch.setattr(checks_storage, "check_overlay_disk", lambda: Finding("", "ok", ""))
    assert [name for name, _ in doctor.CHECKS] == [finding.name for finding in doctor.run_doctor()]


# ---- namespaces and identity ----


@pytest.mark.parametrize(
    ("release", "verdict", "words"),
    [
        ("5.10.0-1", "fail", "too old"),
        ("5.14.0", "warn", "older than 5.15"),
        ("6.1.0-18-amd64", "ok", "no user xattrs"),
        ("6.12.1", "ok", "Linux 6.12.1"),
    ],
)
def test_kernel(monkeypatch: pytest.MonkeyPatch, release: str, verdict: str, words: str) -> None:
    known = os.uname()
    fake = os.uname_result((known[0], known[1], release, known[3], known[4]))
    monkeypatch.setattr(os, "uname", lambda: fake)
    finding = checks_namespaces.check_kernel()
    assert finding.verdict == verdict
    assert words in finding.detail


def test_caller(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.files["/proc/self/uid_map"] = "0 0 4294967295"
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert "does not need" in checks_namespaces.check_caller().detail
    monkeypatch.setattr(os, "getuid", lambda: 4242424)
    assert "4242424" in checks_namespaces.check_caller().detail


def test_userns_failure_is_explained(host: Host) -> None:
    host.trials["userns"] = failed(errno.ENOSPC, "unshare user namespace")
    host.files["/proc/sys/user/max_user_namespaces"] = "0"
    finding = checks_namespaces.check_userns()
    assert finding.verdict == "fail"
    assert "max_user_namespaces is 0" in finding.detail
    assert finding.fix == cures.setting("user.max_user_namespaces", 15000)


def test_each_namespace(host: Host) -> None:
    refused = (("network", "no space left on device"), ("uts", "operation not permitted"))
    host.trials["namespaces"] = Outcome(refused, "", 0, "")
    host.files["/proc/sys/user/max_net_namespaces"] = "0"
    finding = checks_namespaces.check_namespaces()
    assert finding.verdict == "fail"
    assert "uts (operation not permitted)" in finding.detail
    assert finding.fix == cures.setting("user.max_net_namespaces", 15000)
    host.trials["namespaces"] = failed(errno.EPERM)
    assert checks_namespaces.check_namespaces().verdict == "fail"


def test_masked_proc(host: Host) -> None:
    host.trials["proc"] = failed(errno.EPERM, "mount proc")
    assert checks_namespaces.check_proc().fix == ""
    host.files["/proc/self/mountinfo"] = "51 22 0:23 / /proc/kcore rw - tmpfs tmpfs rw"
    finding = checks_namespaces.check_proc()
    assert "/proc/kcore" in finding.detail
    assert "systempaths=unconfined" in finding.fix


def test_nested(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "container_signs", lambda: ())
    assert "only some user ids" in checks_namespaces.check_nested().detail
    host.files["/proc/self/uid_map"] = "0 0 4294967295"
    assert checks_namespaces.check_nested() == Finding("nested", "ok", "not in a container")
    host.files["/proc/self/status"] = "Seccomp:\t2"
    assert checks_namespaces.check_nested().verdict == "warn"
    del host.files["/proc/self/status"]
    monkeypatch.setattr(userns, "container_signs", lambda: ("a sign",))
    assert checks_namespaces.check_nested().verdict == "ok"


def ranges(count: int) -> object:
    found = subids.SubIds(((100000, count),) if count else (), "/etc/subuid")
    return lambda: (found, found)


def test_subids(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_namespaces, "_ranges", ranges(65536))
    assert checks_namespaces.check_subids().verdict == "ok"
    monkeypatch.setattr(checks_namespaces, "_ranges", ranges(0))
    host.files["/etc/subuid"] = "a:100000:65536\nb:200000:10\nbad line\n"
    finding = checks_namespaces.check_subids()
    assert finding.verdict == "warn"
    assert "--add-subuids 200010-265545 --add-subgids 200010-265545 " in finding.fix


def test_root_needs_no_granted_ids(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    none = subids.SubIds((), "/etc/subuid")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(os, "getgid", lambda: 0)
    monkeypatch.setattr(subids, "read_subids", lambda *_: none)
    monkeypatch.setattr(checks_namespaces, "native", lambda _: "/ours")
    finding = checks_namespaces.check_subids()
    assert (finding.verdict, finding.fix) == ("ok", "")
    assert "need no grant" in finding.detail
    assert checks_namespaces.check_id_map().verdict == "ok"
    own = "0:0:1,1:1879048192:65535"
    assert host.asked[-1] == ("id_map_with", "/ours", own, own, "", "")
    host.trials["id_map_with"] = failed(errno.EPERM, "write uid_map")
    assert checks_namespaces.check_id_map().verdict == "warn"


def test_overlapping_subids(monkeypatch: pytest.MonkeyPatch) -> None:
    def overlap() -> None:
        raise SbxError("subordinate ids overlap in /etc/subuid:2", cause="why", hint="cure")

    monkeypatch.setattr(checks_namespaces, "_ranges", overlap)
    assert checks_namespaces.check_subids().detail.startswith("subordinate ids overlap")
    assert "not tried" in checks_namespaces.check_id_map().detail


def test_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_namespaces, "HELPER_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(checks_namespaces, "find_helper", lambda _: "")
    finding = checks_namespaces.check_helpers()
    assert "not installed" in finding.detail
    assert "uidmap" in finding.fix or "shadow" in finding.fix
    (tmp_path / "newuidmap").symlink_to("/bin/sh")
    finding = checks_namespaces.check_helpers()
    assert "set-user-ID" in finding.detail
    assert finding.fix == cures.id_helpers(installed=True) != cures.id_helpers(installed=False)
    monkeypatch.setattr(checks_namespaces, "helper_problem", lambda _: "is mounted nosuid")
    assert checks_namespaces.check_helpers().fix == ""


def test_id_map(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise SbxError(f"cannot find {name}")

    monkeypatch.setattr(checks_namespaces, "_ranges", ranges(65536))
    monkeypatch.setattr(checks_namespaces, "find_helper", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(checks_namespaces, "native", absent)
    assert checks_namespaces.check_id_map().verdict == "ok"
    trial, uids, _, newuidmap, _ = host.asked[-1]
    assert (trial, newuidmap) == ("id_map", "/usr/bin/newuidmap")
    assert uids == f"0:{os.getuid()}:1,1:100000:65535"
    monkeypatch.setattr(checks_namespaces, "native", lambda _: "/ours")
    host.trials["id_map_with"] = Outcome(None, "sbx-idmap", 0, "newuidmap: its words")
    finding = checks_namespaces.check_id_map()
    assert finding.verdict == "warn"
    assert "newuidmap: its words" in finding.detail
    monkeypatch.setattr(checks_namespaces, "_ranges", ranges(0))
    assert "not tried" in checks_namespaces.check_id_map().detail


# ---- storage ----


def test_overlay_without_xattrs(host: Host) -> None:
    host.trials["overlay"] = failed(errno.EIO, "overlay: remove a folder that has whiteouts")
    finding = checks_storage.check_overlay_memory()
    assert finding.verdict == "warn"
    assert "tmpfs does since Linux 6.6" in finding.detail
    assert "changes go to a disk instead" in finding.detail
    host.trials["overlay"] = failed(errno.ENODEV, "mount overlay")
    assert checks_storage.check_overlay_lower().fix == cures.module("overlay")


def test_overlay_on_disk_is_removed(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "yet"))

    def attempt(trial: str, folder: str) -> Outcome:
        assert trial == "overlay"
        assert Path(folder).parent == tmp_path
        deep = Path(folder, "work", "work")
        deep.mkdir(parents=True)
        Path(deep, "left").write_text("")
        os.symlink("/", Path(folder, "link"))
        deep.chmod(0)
        return failed(errno.ETIMEDOUT, "trial")

    monkeypatch.setattr(disk, "attempt", attempt)
    assert checks_storage.check_overlay_disk().verdict == "warn"
    assert os.listdir(tmp_path) == []
    assert host.asked == []


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert checks_storage.check_runtime_folder().fix == "unset XDG_RUNTIME_DIR"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert checks_storage.check_runtime_folder() == Finding(
        "runtime-folder", "ok", f"{tmp_path}/sbx"
    )
    tmp_path.chmod(0o777)
    assert checks_storage.check_runtime_folder().verdict == "warn"


def test_cache_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(checks_storage, "LOW_SPACE_BYTES", 0)
    monkeypatch.setattr(checks_storage, "LOW_INODES", 0)
    assert checks_storage.check_cache_space().verdict == "ok"
    monkeypatch.setattr(checks_storage, "LOW_SPACE_BYTES", 1 << 70)
    assert "may not fit" in checks_storage.check_cache_space().detail


# ---- kernel ----


@pytest.mark.parametrize(
    ("abi", "verdict", "words"),
    [(7, "ok", "ABI 7"), (4, "warn", "device ioctls, abstract"), (1, "warn", "moves between")],
)
def test_landlock(host: Host, abi: int, verdict: str, words: str) -> None:
    host.trials["landlock"] = Outcome(abi, "", 0, "")
    finding = checks_kernel.check_landlock()
    assert finding.verdict == verdict
    assert words in finding.detail


def test_landlock_is_off(host: Host) -> None:
    host.trials["landlock"] = failed(errno.EOPNOTSUPP)
    host.files["/sys/kernel/security/lsm"] = "capability,yama"
    assert "lsm=landlock,capability,yama" in checks_kernel.check_landlock().fix
    host.trials["landlock"] = failed(errno.ENOSYS)
    assert "has none" in checks_kernel.check_landlock().detail


def test_confinement_that_fails(host: Host) -> None:
    host.trials["seccomp"] = failed(errno.EINVAL, "seccomp")
    assert checks_kernel.check_seccomp().verdict == "fail"
    host.trials["seccomp_notify"] = failed(errno.EBUSY, "seccomp listener")
    assert "already in force" in checks_kernel.check_seccomp_notify().detail
    host.trials["memfd_exec"] = failed(errno.EACCES, "memfd_create")
    assert checks_kernel.check_memfd_exec().fix == ""
    host.files["/proc/sys/vm/memfd_noexec"] = "2"
    assert checks_kernel.check_memfd_exec().fix == cures.setting("vm.memfd_noexec", 1)


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENODEV, "sudo modprobe tun"),
        (errno.EACCES, "setfacl -m u:ana:rw /dev/net/tun"),
        (errno.EPERM, "docker run --device /dev/net/tun"),
        (errno.EBUSY, ""),
    ],
)
def test_tun(host: Host, monkeypatch: pytest.MonkeyPatch, number: int, fix: str) -> None:
    monkeypatch.setattr(checks_kernel, "container_signs", lambda: ("a sign",))
    monkeypatch.setattr(checks_kernel, "user_name", lambda _: "ana")
    monkeypatch.setattr(os.path, "isdir", lambda _: False)
    host.trials["tun"] = failed(number, "/dev/net/tun")
    finding = checks_kernel.check_tun()
    assert finding.verdict == "warn"
    assert fix in finding.fix
    assert bool(finding.fix) == bool(fix)


def test_nftables(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.trials["nftables"] = failed(errno.EOPNOTSUPP, "nftables table")
    monkeypatch.setattr(os.path, "isdir", lambda _: True)
    finding = checks_kernel.check_nftables()
    assert "built without" in finding.detail
    assert finding.fix == ""
    monkeypatch.setattr(os.path, "isdir", lambda _: False)
    assert checks_kernel.check_nftables().fix == cures.module("nf_tables")
    host.trials["nftables"] = failed(errno.EPERM, "nftables table")
    assert checks_kernel.check_nftables().fix == ""


@pytest.mark.parametrize(
    ("lacks", "verdict", "said", "fix"),
    [
        ((), "ok", "IPv4 and IPv6", ""),
        ((2,), "ok", "IPv4 alone", ""),
        ((0,), "warn", "accepted before they are judged", ""),
        ((0, 1), "warn", "is refused", cures.module("nft_tproxy")),
    ],
)
def test_user_network(
    host: Host, lacks: tuple[int, ...], verdict: str, said: str, fix: str
) -> None:
    parts = [failed(errno.ENOENT) if number in lacks else OK for number in range(3)]
    host.trials["network"] = OK.replace(value=tuple(tuple(v for _, v in part) for part in parts))
    finding = checks_kernel.check_user_network()
    assert (finding.verdict, finding.fix) == (verdict, fix)
    assert said in finding.detail
    host.trials["network"] = failed(errno.ETIMEDOUT, "trial")
    assert "is refused" in checks_kernel.check_user_network().detail


def test_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def native(name: str) -> str:
        if not (tmp_path / name).exists():
            raise SbxError(f"cannot find {name}", cause="it does not exist")
        return str(tmp_path / name)

    monkeypatch.setattr(checks_kernel, "native", native)
    assert checks_kernel.check_launcher().verdict == "fail"
    launcher = tmp_path / "sbx-launcher"
    launcher.write_bytes(b"\x7fELF\x02 and so on")
    launcher.chmod(0o755)
    assert checks_kernel.check_launcher().verdict == "warn"
    (tmp_path / "sbx-idmap").symlink_to(launcher)
    assert checks_kernel.check_launcher().verdict == "ok"
    launcher.chmod(0o777)
    assert "changed by other" in checks_kernel.check_launcher().detail
    launcher.chmod(0o644)
    assert "execute" in checks_kernel.check_launcher().detail
    launcher.write_bytes(b"#!/bin/sh\n")
    launcher.chmod(0o755)
    assert "ELF" in checks_kernel.check_launcher().detail


def test_processes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 5000))
    finding = checks_kernel.check_processes()
    assert (finding.verdict, finding.fix) == ("warn", "ulimit -u 5000")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (-1, -1))
    assert checks_kernel.check_processes().verdict == "ok"
    host.files["/proc/self/mountinfo"] = UNIFIED
    host.files["/proc/self/cgroup"] = "0::/a/b"
    host.files["/sys/fs/cgroup/a/pids.max"] = "50"
    host.files["/sys/fs/cgroup/a/b/pids.max"] = "max"
    finding = checks_kernel.check_processes()
    assert (finding.verdict, finding.fix) == ("warn", "")
    assert "pids.max is 50" in finding.detail


# ---- cgroups ----

UNIFIED = "35 31 0:32 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
LEGACY = "36 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
HYBRID = "37 31 0:34 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("mountinfo", "own", "found"),
    [
        ("", "", ("", "", ())),
        (UNIFIED, "0::/", ("/sys/fs/cgroup", "/sys/fs/cgroup", ())),
        (UNIFIED, "0::/user.slice/x", ("/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/x", ())),
        (UNIFIED, "0::/../outside", ("/sys/fs/cgroup", "", ())),
        (
            UNIFIED.replace("0:32 / ", "0:32 /box "),
            "0::/box/a",
            ("/sys/fs/cgroup", "/sys/fs/cgroup/a", ()),
        ),
        (
            f"{LEGACY}\n{HYBRID}\nodd line",
            "9:memory:/x\n0::/y",
            ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/y", ("memory",)),
        ),
    ],
)
def test_find_cgroups(mountinfo: str, own: str, found: tuple[str, str, tuple[str, ...]]) -> None:
    assert cgroups.find_cgroups(mountinfo, own) == cgroups.Cgroups(*found)


def test_legacy_cgroups(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no cgroup v2" in cgroups.check_cgroup().detail
    host.files["/proc/self/mountinfo"] = f"{LEGACY}\n{HYBRID}"
    finding = cgroups.check_cgroup()
    assert "cgroup v1 holds memory" in finding.detail
    assert finding.fix == ""
    monkeypatch.setattr(os.path, "isdir", lambda _: True)
    assert "unified_cgroup_hierarchy" in cgroups.check_cgroup().fix


def test_delegated_subtree(host: Host, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    own.mkdir()
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (own / name).write_text("")
    host.files["/proc/self/mountinfo"] = f"35 31 0:32 / {tmp_path} rw - cgroup2 cgroup2 rw"
    host.files["/proc/self/cgroup"] = "0::/mine"
    host.files[f"{own}/cgroup.controllers"] = "cpu io memory pids"
    assert cgroups.check_cgroup().verdict == "ok"
    host.files[f"{own}/cgroup.controllers"] = "memory pids"
    finding = cgroups.check_cgroup()
    assert finding.verdict == "warn"
    assert "lacks cpu io" in finding.detail
    assert finding.fix == ""
    manager = tmp_path / f"user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"
    manager.mkdir(parents=True)
    assert "delegate.conf" in cgroups.check_cgroup().fix
    (own / "cgroup.procs").unlink()
    assert cgroups.check_cgroup().verdict == "warn"
