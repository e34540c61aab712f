"""The probe finds under each policy what its table allows, and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support import capabilities, probe
from tests.support.caller import probe_under
from tests.support.host_things import HostThings, run_hostile

LIMITS = {"nproc", "nofile", "fsize", "memlock", "msgqueue", "sigpending", "stack"}
# What Landlock alone holds back. Without it strict refuses, and the others say that it is missing.
LANDLOCK = {"init_signal", "ioctl_dev", "oom_score_lower", "tcp_bind"}
# The payload of these policies is uid != 0 and has a network namespace of its own with lo up.
DEFAULT = {
    "environment",
    "oom_score_lower",  # /proc/self is writable: the kernel lets a process go back to its start
    "tcp",
    "mptcp",
    "fastopen",
    "fastopen_connect",
    "fastopen_message",
    "tcp_bind",
    "low_port",
    "proc_figures",
    "init_hidden",
    "ioctl_dev",
    "sizes",  # bounded too, but wider
    "mounts_noexec",
    "root_read_only",  # the overlay that is discarded
    "writable_places",
    "uptime",
    "chroot",
    "ptrace",
    "personality",
    "modify_ldt",
    "memfd_secret",
    "name_to_handle_at",
    "vmsplice",
    "remap_file_pages",
    "socket_netlink",
    *(f"limit_{name}" for name in LIMITS),
}
CI = DEFAULT | {"ping_socket", "sys"}
PERMISSIVE = CI | {
    "init_signal",
    "setns_init",
    "unshare",
    "unshare_high",
    "unshare_time",
    "clone",
    "clone_high",
    "clone3",
    "mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "open_tree",
    "open_tree_attr",
    "move_mount",
    "mount_setattr",
    "setns",
    "sethostname",
    "setdomainname",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    "mbind",
    "set_mempolicy",
    "get_mempolicy",
    "migrate_pages",
    "move_pages",
    "set_mempolicy_home_node",
    "fanotify_init",
}
ALLOWED: dict[str, set[str]] = {
    "strict": set(),
    "default": DEFAULT,
    "ci": CI,
    "permissive": PERMISSIVE,
}
# User 0 inside, as far as a policy lets it be: never strict.
AS_ROOT = {"ids", "setuid", "setgroups", "cap_permitted", "cap_effective", "cap_bounding"}
MASKS = {"default": 0x800000FB, "ci": 0x800405FB, "permissive": 0x800405FB}
NPROC = {"default": 4096, "ci": 8192, "permissive": 16384}

# What an unconfined program cannot show either, without being the host's root or on a kernel that
# has the thing at all.
NOT_SHOWN = {
    "acct",
    "cgroup",
    "core_pattern",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "init_module",
    "init_signals",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "limit_nice",
    "limit_rtprio",
    "mknod",
    "mounts_private",
    "ping_socket",
    "setgroups",
    "shm",
    "socket_alg",
    "socket_bluetooth",
    "socket_can",
    "socket_key",
    "socket_smc",
    "socket_tipc",
    "socket_vsock",
    "socket_vsock_high",
    "socket_xdp",
    "swapoff",
    "swapon",
    "sys_writable",
    "syslog",
    "sysrq",
    "vhangup",
}


def not_allowed(found: dict[str, str], allowed: set[str]) -> dict[str, str]:
    """The leaks that no table allows."""
    if capabilities.landlock():
        allowed = allowed | LANDLOCK
    if capabilities.user_mode_linux():
        allowed = allowed | {"int80"}
    return {name: what for name, what in probe.leaks(found).items() if name not in allowed}


@pytest.mark.parametrize("policy", list(ALLOWED))
def test_policy_keeps_its_table(
    sbx: Sbx, probe_rootfs: Path, host_things: HostThings, policy: str
) -> None:
    found = probe_under(sbx, probe_rootfs, host_things, "--policy", policy)
    assert not_allowed(found, ALLOWED[policy]) == {}
    if policy != "strict":
        assert int(found["limit_nproc"].partition(":")[2]) <= NPROC[policy]
        assert found["environment"] in ("TMPDIR=/tmp", "CI=true")


@pytest.mark.parametrize("policy", ["default", "ci", "permissive"])
def test_user_0_has_the_capabilities_of_the_table(
    sbx: Sbx, probe_rootfs: Path, host_things: HostThings, policy: str
) -> None:
    found = probe_under(sbx, probe_rootfs, host_things, "--policy", policy, "--user", "0")
    # chown and chmod of the host's nodes would show in dev_metadata, which is not allowed.
    assert not_allowed(found, ALLOWED[policy] | AS_ROOT) == {}
    for name in ("cap_permitted", "cap_effective", "cap_bounding"):
        assert int(found[name], 16) == MASKS[policy]


def test_a_terminal_of_its_own_adds_only_itself(
    sbx: Sbx, probe_rootfs: Path, host_things: HostThings
) -> None:
    found = probe_under(sbx, probe_rootfs, host_things, "--policy", "strict", "-t")
    allowed = {"terminal", "dev_names", "dev_nodes"}
    assert not_allowed(found, allowed) == {}
    assert found["dev_names"] == "console"


def test_without_the_filter_the_count_of_namespaces_still_refuses(
    sbx: Sbx, probe_rootfs: Path, host_things: HostThings
) -> None:
    options = ("--policy", "strict", "--security-opt", "seccomp=unconfined")
    found = probe_under(sbx, probe_rootfs, host_things, *options)
    assert found["seccomp"]
    for name in ("unshare", "clone", "clone3", "clone_high"):
        assert found[name] == "", name
    for name in ("tcp", "mptcp", "host_port", "abstract_socket", "init_memory", "init_ptrace"):
        assert found[name] == "", name


def test_a_host_root_shown_read_only_leaks_no_more(
    sbx: Sbx, probe_program: Path, host_things: HostThings
) -> None:
    """`sbx run /`: the probe lies in /tmp, which the sandbox covers, so it is bound."""
    words = ["--policy", "strict", "-v", f"{probe_program}:/tmp/probe:ro", "/", "/tmp/probe"]
    done = run_hostile([sbx.path, "run", *words, *host_things.words], host_things, sbx.env)
    assert done.returncode == 0, done.stderr
    found = probe.parse(done.stdout)
    assert not_allowed(found, {"mounts_paths", "mounts_noexec"}) == {}


def test_a_payload_that_is_process_1_finds_only_itself(
    sbx: Sbx, probe_rootfs: Path, host_things: HostThings
) -> None:
    found = probe_under(sbx, probe_rootfs, host_things, "--policy", "strict", "--no-init")
    own = {name for name in found if name.startswith("init_")}
    assert not_allowed(found, own) == {}
    assert found["init_exe"] == "/probe"


def test_mounts_of_a_host_that_shares_them_stay_apart(
    sbx: Sbx, probe_rootfs: Path, host_things: HostThings, tmp_path: Path
) -> None:
    policy = tmp_path / "single.toml"
    policy.write_text('extends = "default"\n[identity]\nmap = "single"\n')
    spaces = ["--user", "--map-current-user", "--mount", "--propagation", "shared"]
    words = ["run", "--policy", str(policy), str(probe_rootfs), "/probe", *host_things.words]
    done = run_hostile(["unshare", *spaces, sbx.path, *words], host_things, sbx.env)
    assert done.returncode == 0, done.stderr
    assert probe.parse(done.stdout)["mounts_private"] == ""


def test_every_check_can_fail(
    sbx: Sbx, probe_program: Path, host_things: HostThings, tmp_path: Path
) -> None:
    """Unconfined, as an ordinary user and as user 0 of namespaces that hold nothing back."""
    plain = run_hostile([str(probe_program), *host_things.words], host_things, {})
    script = 'mount --bind "$0" /srv; "$@"; exit 0'
    spaces = ["--user", "--map-root-user", "--keep-caps", "--mount", "--mount-proc", "--pid"]
    unshare = ["unshare", *spaces, "--uts", "--net", "--fork", "--kill-child"]
    command = [*unshare, "sh", "-c", script, str(tmp_path), str(probe_program)]
    path = {"PATH": sbx.env.get("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")}
    free = run_hostile([*command, *host_things.words], host_things, path)
    found = [probe.parse(done.stdout) for done in (plain, free)]
    leaking = {name for one in found for name in probe.leaks(one)}
    assert set(found[0]) - leaking - NOT_SHOWN - {"terminal"} == set()


def test_setuid_programs_gain_nothing(sbx: Sbx, probe_program: Path, tmp_path: Path) -> None:
    """User 0 of the sandbox may make set-user-ID files; running one changes nothing."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    busy = tmp_path / "busy.c"
    busy.write_text(
        "#include <unistd.h>\n#include <sys/stat.h>\n"
        'int main(void){if(chown("/srv/p",5,5)||chmod("/srv/p",06755))return 9;'
        'execl("/srv/p","p","--ids",(char*)0);return 8;}\n'
    )
    compiler = shutil.which("musl-gcc") or shutil.which("gcc") or "cc"
    subprocess.run([compiler, "-static", str(busy), "-o", str(root / "busy")], check=True)
    shutil.copy2(probe_program, root / "srv/p")
    done = sbx("run", "--user", "0", root, "/busy")
    assert (done.returncode, done.stdout) == (0, "0 0 0 0\n")
