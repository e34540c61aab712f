"""From a policy's seccomp section to a FilterSpec: resolves names, adds the argument rules."""

from __future__ import annotations

from sandbox.errors import PolicyError
from sandbox.seccomp import groups
from sandbox.seccomp.rules import ALLOW, spec_of
from sandbox.seccomp.syscalls_x86_64 import NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import Seccomp
    from sandbox.seccomp.rules import Clauses, FilterSpec

GROUPS = ("D1", "D2")


def problems(seccomp: Seccomp) -> tuple[str, ...]:
    """Every name in the section that this package does not know, as "seccomp.key[i]: text"."""
    found = [
        f'seccomp.groups[{i}]: "{name}" is not a group; use {", ".join(GROUPS)}'
        for i, name in enumerate(seccomp.groups)
        if name not in GROUPS
    ]
    found += [
        f'seccomp.sockets[{i}]: "{name}" is not a family; use {", ".join(groups.FAMILIES)}'
        for i, name in enumerate(seccomp.sockets)
        if name not in groups.FAMILIES
    ]
    return tuple(found)


def from_policy(seccomp: Seccomp, *, nested: bool, landlock_tcp: bool) -> FilterSpec:
    """The filter of a policy without an OCI profile (`base` "allow" or "deny").

    "allow": calls outside the allow-list get EPERM, or ENOSYS where programs fall back on it.
    "deny": calls outside the groups are allowed. Either way numbers without a name get ENOSYS
    and foreign ABIs are killed. Raises PolicyError that lists every unknown name.
    """
    if found := problems(seccomp):
        raise PolicyError("the seccomp section names unknown things", problems=found)
    names: dict[str, int | Clauses]
    if seccomp.base == "allow":
        names = dict.fromkeys(NUMBERS, groups.EPERM)
        names |= groups.refused(GROUPS, nested=nested) | groups.allowed(nested=nested)
        names |= groups.strict_rules(nested=nested)
        landlock_tcp = True
    else:
        names = dict.fromkeys(NUMBERS, ALLOW)
        names |= groups.refused(seccomp.groups, nested=nested)
        if "D2" in seccomp.groups and not nested:
            names["clone"] = groups.CLONE
    if seccomp.base == "allow" or "D1" in seccomp.groups:
        names["ioctl"] = groups.IOCTL
        names["prlimit64"] = groups.PRLIMIT_OWN if seccomp.base == "allow" else groups.PRLIMIT
        names["fcntl"] = groups.FCNTL
    if landlock_tcp:
        names |= groups.tcp_rules()
    names["socket"] = names["socketpair"] = groups.sockets(seccomp.sockets, only_tcp=landlock_tcp)
    return spec_of(
        {NUMBERS[name]: decision for name, decision in names.items()},
        top=max(NUMBERS.values()),
        unknown=groups.ENOSYS,
    )
