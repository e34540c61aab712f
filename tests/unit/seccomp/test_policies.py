"""What the filters of the built-in policies answer, call by call, and how big they are."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.policy.model import Seccomp
from sandbox.seccomp import groups, profile, program
from sandbox.seccomp.rules import ALLOW, KILL_PROCESS, NO_CALL
from sandbox.seccomp.syscalls_other import NAMES as OTHER_NAMES
from sandbox.seccomp.syscalls_x86_64 import NUMBERS
from tests.support import bpf

STRICT = Seccomp("allow", (), ("unix", "inet", "inet6"))
DEFAULT = Seccomp("deny", ("D1", "D2"))
PERMISSIVE = Seccomp("deny", ("D1",))
POLICIES = {"strict": STRICT, "default": DEFAULT, "permissive": PERMISSIVE}
SIZES = [
    pytest.param(seccomp, nested, tcp, id=f"{name}-{nested=}-{tcp=}")
    for name, seccomp in POLICIES.items()
    for nested in (False, True)
    for tcp in (False, True)
]

OK = 0
KILL = -1
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK = 1, 2, 10, 16, 17, 38, 40
STREAM, DGRAM, RAW, PACKET, CLOEXEC = 1, 2, 3, 10, 0o2000000
HIGH = 0xABCD << 32


class Filter:
    """A compiled filter that can be asked by name; answers OK, KILL or an error number."""

    def __init__(self, seccomp: Seccomp, *, nested: bool = False, tcp: bool = False) -> None:
        made = program(seccomp, nested=nested, capabilities=(), cache_dir=None, landlock_tcp=tcp)
        self.instructions = bpf.decode(made)
        bpf.check(self.instructions)

    def ask(self, number: int, *args: int, arch: int = bpf.X86_64) -> int:
        full = (*args, *(0,) * (6 - len(args)))
        answer = bpf.run(self.instructions, (arch, number, full))
        return {ALLOW: OK, KILL_PROCESS: KILL}.get(answer, answer & 0xFFFF)

    def __call__(self, name: str, *args: int) -> int:
        return self.ask(NUMBERS[name], *args)


@pytest.fixture(scope="module")
def strict() -> Filter:
    return Filter(STRICT)


@pytest.fixture(scope="module")
def default() -> Filter:
    return Filter(DEFAULT)


@pytest.fixture(scope="module")
def permissive() -> Filter:
    return Filter(PERMISSIVE)


@pytest.mark.parametrize(("seccomp", "nested", "tcp"), SIZES)
def test_at_most_120_instructions(seccomp: Seccomp, nested: bool, tcp: bool) -> None:
    assert len(Filter(seccomp, nested=nested, tcp=tcp).instructions) <= 120


@pytest.mark.parametrize("name", POLICIES)
def test_foreign_abis_are_killed_and_unknown_numbers_are_not(name: str) -> None:
    ask = Filter(POLICIES[name]).ask
    assert ask(20, arch=bpf.I386) == KILL
    assert ask(NUMBERS["read"] | 0x40000000) == KILL
    assert ask(NO_CALL) == errno.ENOSYS
    for number in (337, 400, 423, 472, 511, 547, 4096, 0x3FFFFFFF):
        assert ask(number) == errno.ENOSYS, number


def test_strict_allows_what_c_libraries_and_runtimes_need(strict: Filter) -> None:
    names = (
        "read write openat openat2 statx newfstatat faccessat2 close_range execve execveat vfork "
        "rseq set_robust_list set_tid_address arch_prctl futex futex_waitv membarrier mseal "
        "sched_getaffinity sched_setaffinity sched_yield prlimit64 getrandom memfd_create "
        "pidfd_open pidfd_send_signal epoll_pwait2 copy_file_range timer_create timerfd_create "
        "inotify_init1 mlock mprotect pkey_mprotect landlock_create_ruleset landlock_add_rule "
        "landlock_restrict_self prctl seccomp waitid rt_sigaction sigaltstack eventfd2 signalfd4 "
        "shmget semop msgsnd mq_open io_setup map_shadow_stack fchmodat2 setxattrat uretprobe"
    )
    assert {name: strict(name) for name in names.split()} == dict.fromkeys(names.split(), OK)


def test_strict_refuses_what_its_table_leaves_out(strict: Filter) -> None:
    names = (
        "ptrace modify_ldt memfd_secret name_to_handle_at vmsplice remap_file_pages chroot "
        "sched_setattr fanotify_mark adjtimex clock_adjtime unshare setns mount umount2 pivot_root "
        "kcmp pidfd_getfd process_vm_readv bpf perf_event_open userfaultfd kexec_load create_module"
    )
    expected = dict.fromkeys(names.split(), errno.EPERM)
    assert {name: strict(name) for name in expected} == expected
    names = "clone3 io_uring_setup keyctl fsopen mount_setattr open_tree_attr get_mempolicy"
    names += " ioprio_set listns file_getattr lsm_get_self_attr"
    expected = dict.fromkeys(names.split(), errno.ENOSYS)
    assert {name: strict(name) for name in expected} == expected


def test_every_call_of_the_groups_is_refused_by_the_policies_that_name_them() -> None:
    d1, d2 = (groups.refused((name,), nested=False) for name in ("D1", "D2"))
    assert not set(d1) & set(d2)
    for name, answer in (d1 | d2).items():
        number = answer & 0xFFFF
        for of_policy in (Filter(STRICT), Filter(DEFAULT)):
            assert of_policy(name) == number, name
    permissive = Filter(PERMISSIVE)
    assert all(permissive(name) == answer & 0xFFFF for name, answer in d1.items())
    assert all(permissive(name) == OK for name in d2)


def test_the_deny_policies_allow_everything_else(default: Filter) -> None:
    refused = groups.refused(("D1", "D2"), nested=False)
    safe = (AF_UNIX, STREAM)
    for name in NUMBERS.keys() - refused.keys() - {"prlimit64"}:
        assert default(name, *safe) == OK, name


@pytest.mark.parametrize("policy", list(POLICIES))
def test_the_limits_of_the_init_are_out_of_reach(policy: str) -> None:
    """Whatever stands in the upper half: the kernel reads a pid of 32 bits."""
    ask = Filter(POLICIES[policy])
    assert ask("prlimit64", 1) == ask("prlimit64", HIGH | 1) == errno.EPERM
    assert ask("prlimit64", 0) == ask("prlimit64", HIGH) == OK
    # With RLIMIT_CPU also others of a shared pid namespace can be killed, past Landlock's scope.
    others = errno.EPERM if policy == "strict" else OK
    assert ask("prlimit64", 2) == ask("prlimit64", HIGH | 7) == others


@pytest.mark.parametrize("policy", list(POLICIES))
def test_files_cannot_be_leased(policy: str) -> None:
    ask = Filter(POLICIES[policy])
    for command in (1024, 1040):  # F_SETLEASE, F_SETDELEG
        assert ask("fcntl", 3, command) == ask("fcntl", 3, HIGH | command) == errno.EPERM
    for command in (*range(18), 1025, 1026, 1030, 1031, 1032, 1033, 1034, 1039):
        assert ask("fcntl", 3, command) == OK


def test_nested_leaves_out_what_containers_need() -> None:
    nested = Filter(DEFAULT, nested=True)
    names = "unshare setns mount umount2 pivot_root clone3 fsopen move_mount mount_setattr"
    for name in (names + " open_tree open_tree_attr sethostname setdomainname").split():
        assert nested(name) == OK, name
    assert nested("clone", 0x10000000) == OK
    assert nested("process_vm_readv") == errno.EPERM
    assert nested("bpf") == errno.EPERM
    strict = Filter(STRICT, nested=True)
    assert strict("clone", 0x10000000) == strict("mount") == strict("chroot") == OK
    assert strict("ptrace") == errno.EPERM


@pytest.mark.parametrize("flag", [1 << bit for bit in range(32) if 0x7E020000 >> bit & 1])
def test_clone_with_a_namespace_is_refused(strict: Filter, default: Filter, flag: int) -> None:
    for of_policy in (strict, default):
        assert of_policy("clone", 0x1200011 | flag) == errno.EPERM
        assert of_policy("clone", HIGH | flag) == errno.EPERM


def test_clone_of_threads_and_processes_is_allowed(strict: Filter) -> None:
    thread = 0x3D0F00
    assert strict("clone", thread) == strict("clone", 0x1200011) == OK
    assert strict("clone", 0x4111 | HIGH) == OK


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("high", [0, HIGH])
def test_terminal_ioctls_are_compared_as_32_bits(name: str, high: int) -> None:
    of_policy = Filter(POLICIES[name])
    assert of_policy("ioctl", 0, 0x5412 | high) == errno.EPERM
    assert of_policy("ioctl", 0, 0x541C | high) == errno.EPERM
    assert of_policy("ioctl", 0, 0x5413 | high) == OK
    assert of_policy("ioctl", 0x5412, 0x5401) == OK


@pytest.mark.parametrize("call", ["socket", "socketpair"])
@pytest.mark.parametrize("high", [0, HIGH])
def test_socket_families_and_types(strict: Filter, default: Filter, call: str, high: int) -> None:
    for family in (AF_UNIX, AF_INET, AF_INET6):
        for of_policy in (strict, default):
            assert of_policy(call, family | high, STREAM | CLOEXEC) == OK
            assert of_policy(call, family, DGRAM | high) == OK
            assert of_policy(call, family | high, RAW | CLOEXEC) == errno.EPERM
            assert of_policy(call, family, PACKET | high) == errno.EPERM
    for family in (0, AF_PACKET, AF_ALG, AF_VSOCK, 3, 9, 11, 15, 43, 44):
        for of_policy in (strict, default):
            for kind in (STREAM, RAW):
                assert of_policy(call, family | high, kind) == errno.EAFNOSUPPORT
    assert strict(call, AF_NETLINK, RAW) == errno.EAFNOSUPPORT
    assert default(call, AF_NETLINK | high, RAW | CLOEXEC) == OK


def test_multipath_and_fast_open_are_refused_where_tcp_rules_may_be(
    strict: Filter, default: Filter
) -> None:
    with_tcp = Filter(DEFAULT, tcp=True)
    for of_policy in (strict, with_tcp):
        for protocol in (256, 262, 262 | HIGH):
            assert of_policy("socket", AF_INET6, STREAM, protocol) == errno.EPROTONOSUPPORT
        assert of_policy("socket", AF_INET, STREAM, 6) == OK
        assert of_policy("sendto", 3, 0, 0, 0x20000000 | HIGH) == errno.EOPNOTSUPP
        assert of_policy("sendmmsg", 3, 0, 0, 0x20004000) == errno.EOPNOTSUPP
        assert of_policy("sendmsg", 3, 0, 0x20000000) == errno.EOPNOTSUPP
        assert of_policy("sendmsg", 3, 0, 0x4000, 0x20000000) == OK
        assert of_policy("setsockopt", 3, 6, 30) == errno.EOPNOTSUPP
        assert of_policy("setsockopt", 3, 6 | HIGH, 31 | HIGH) == errno.EOPNOTSUPP
        assert of_policy("setsockopt", 3, 1, 30) == of_policy("setsockopt", 3, 6, 1) == OK
    assert default("socket", AF_INET, STREAM, 262) == default("setsockopt", 3, 6, 30) == OK
    assert default("sendto", 3, 0, 0, 0x20000000) == OK


def test_strict_allows_harmless_personalities(strict: Filter, default: Filter) -> None:
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, HIGH | 8):
        assert strict("personality", value) == OK
    for value in (0x40000, 0x400000, 0x20009, 1, 0xFFFFFFFE, HIGH | 0x40000):
        assert strict("personality", value) == errno.EPERM
    assert default("personality", 0x40000) == OK


def test_strict_makes_files_fifos_and_sockets_but_no_devices(strict: Filter) -> None:
    for name, before in (("mknod", (0,)), ("mknodat", (0, 0))):
        for kind in (0, 0o010000, 0o100000, 0o140000):
            assert strict(name, *before, kind | 0o644) == OK
        for kind in (0o020000, 0o060000):
            assert strict(name, *before, kind | 0o644) == errno.EPERM
            # The kernel takes 16 bits of the mode.
            assert strict(name, *before, kind | 0o644 | 0xFFFF0000 | HIGH) == errno.EPERM


def test_strict_keeps_to_normal_scheduling(strict: Filter) -> None:
    for value in (0, 3, 5, 0x40000000, 0x40000003, HIGH | 5):
        assert strict("sched_setscheduler", 0, value) == OK
    for value in (1, 2, 6, 7, 0x40000001, 0x80000000):
        assert strict("sched_setscheduler", 0, value) == errno.EPERM


def test_strict_refuses_listeners_but_not_filters(strict: Filter, default: Filter) -> None:
    assert strict("seccomp", 1, 0) == strict("seccomp", 1, 1) == strict("seccomp", 2, 0) == OK
    assert strict("seccomp", 1, 8) == strict("seccomp", 1, HIGH | 9) == errno.EPERM
    assert default("seccomp", 1, 8) == OK


def test_without_groups_sockets_are_still_limited() -> None:
    bare = Filter(Seccomp("deny", (), ("unix",)))
    assert bare("bpf") == bare("mount") == bare("ioctl", 0, 0x5412) == OK
    assert bare("socket", AF_UNIX, STREAM) == OK
    assert bare("socket", AF_INET, STREAM) == errno.EAFNOSUPPORT
    nothing = Filter(Seccomp("deny", (), ()))
    assert nothing("socket", AF_UNIX, STREAM) == errno.EAFNOSUPPORT


def test_arguments_are_read_only_where_they_matter() -> None:
    checked = {"ioctl", "clone", "fcntl", "prlimit64", "socket", "socketpair"}
    instructions = Filter(DEFAULT).instructions
    readers = {name for name, n in NUMBERS.items() if bpf.loads_of(instructions, n) - {0, 4}}
    assert readers == checked


def test_unconfined_is_no_program() -> None:
    assert program(Seccomp("unconfined"), nested=False, capabilities=(), cache_dir=None) == b""


def test_all_unknown_names_are_reported_at_once() -> None:
    wrong = Seccomp("deny", ("D1", "D3"), ("unix", "ipx"))
    with pytest.raises(PolicyError) as caught:
        program(wrong, nested=False, capabilities=(), cache_dir=None)
    assert caught.value.problems == (
        'seccomp.groups[1]: "D3" is not a group; use D1, D2',
        'seccomp.sockets[1]: "ipx" is not a family; use unix, inet, inet6, netlink',
    )


def test_the_data_names_only_real_calls() -> None:
    for nested in (False, True):
        assert groups.allowed(nested=nested).keys() <= NUMBERS.keys()
        assert groups.refused(("D1", "D2"), nested=nested).keys() <= NUMBERS.keys()
    plain = {name for name, answer in groups.allowed(nested=False).items() if answer == ALLOW}
    assert not plain & groups.refused(("D1", "D2"), nested=False).keys()
    spec = profile.from_policy(STRICT, nested=False, landlock_tcp=False)
    assert list(spec.starts) == sorted(set(spec.starts))


def test_the_table_of_numbers_is_sound() -> None:
    assert len(set(NUMBERS.values())) == len(NUMBERS)
    assert not OTHER_NAMES & NUMBERS.keys()
    assert max(NUMBERS.values()) < 512
    assert NUMBERS["mseal"] == 462
    assert NUMBERS["file_setattr"] == 469


def test_the_table_agrees_with_the_systems_header() -> None:
    headers = list(Path("/usr/include").glob("**/asm/unistd_64.h"))
    assert headers, "linux-libc-dev, which the set-up installs"
    for header in headers:
        pairs = re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text())
        assert {name: int(number) for name, number in pairs}.items() <= NUMBERS.items()
        assert pairs
