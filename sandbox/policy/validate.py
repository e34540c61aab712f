"""Finds everything that is wrong with a layer and with a merged policy.

Functions return findings and never stop at the first; `merge` turns them into one error.
"""

from __future__ import annotations

from sandbox.linux.capabilities import NAMES as CAPABILITIES
from sandbox.policy.fields import Bad, suggest
from sandbox.policy.model import FOREIGN_MODES, JUDGED_MODES
from sandbox.policy.schema import SECTIONS, TABLES, TOP
from sandbox.policy.units import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from sandbox.policy.model import Policy

    Finding = tuple[str, str]


def check_layer(data: Mapping[str, Any], folder: str = "") -> tuple[dict[str, Any], list[Finding]]:
    """The usable values of one layer by section, and every ("section.key", text) that is wrong.

    `folder` is where the policy's file lies: a relative seccomp profile is looked up there.
    """
    found: list[Finding] = []
    good: dict[str, Any] = {}
    for name, value in data.items():
        if name in SECTIONS:
            good[name] = _check_section(name, value, found)
        elif name in TABLES or name in TOP:
            check = TABLES.get(name) or TOP[name]
            try:
                good[name] = check(value)
            except Bad as error:
                found += [(f"{name}{below}", text) for below, text in error.findings]
                good[name] = error.partial
        else:
            kind = "section" if isinstance(value, dict) else "key"
            near = suggest(str(name), (*SECTIONS, *TABLES, *TOP))
            found.append((quote(str(name))[1:-1], f"is not a {kind}{near}"))
    good = {name: value for name, value in good.items() if value is not None}
    found += _check_together(good, folder)
    return good, found


def _check_section(section: str, value: object, found: list[Finding]) -> dict[str, Any]:
    checks = SECTIONS[section]
    if not isinstance(value, dict):
        found.append((section, f"must be a table, found {quote(value)}"))
        return {}
    good = {}
    for name, item in value.items():
        key = f"{section}.{quote(str(name))[1:-1]}"
        if name not in checks:
            found.append((key, f"is not a key{_suggest_key(section, str(name))}"))
            continue
        try:
            good[name] = checks[name](item)
        except Bad as error:
            found += [(f"{key}{below}", text) for below, text in error.findings]
            if error.partial is not None:
                good[name] = error.partial
    return good


def _suggest_key(section: str, name: str) -> str:
    near = suggest(name, SECTIONS[section])
    others = [other for other, checks in SECTIONS.items() if name in checks]
    return near or (f'; it belongs to section "{others[0]}"' if others else "")


def _check_together(good: dict[str, Any], folder: str) -> list[Finding]:
    """What must hold between the keys of one layer."""
    found = _check_targets(good.get("filesystem", {}))
    capabilities = good.get("capabilities", {})
    added, dropped = capabilities.get("add") or (), capabilities.get("drop") or ()
    if (len(added) == len(CAPABILITIES)) == (len(dropped) == len(CAPABILITIES)):
        both = ", ".join(name for name in added if name in dropped)
        if both:
            found.append(("capabilities.add", f"adds what capabilities.drop drops: {both}"))
    seccomp = good.get("seccomp", {})
    profile = seccomp.get("profile")
    if profile and not profile.startswith("/"):
        if folder:
            seccomp["profile"] = f"{folder}/{profile}"
        else:
            found.append(("seccomp.profile", f"must be absolute, found {quote(profile)}"))
    if profile and "base" in seccomp:
        found.append(("seccomp.profile", "replaces seccomp.base; give one of them"))
    return found


def _check_targets(files: dict[str, Any]) -> list[Finding]:
    """No two mounts of one layer on the same target: one would hide the other."""
    found: list[Finding] = []
    seen: dict[str, str] = {}
    for name in ("mounts", "tmpfs"):
        for index, entry in enumerate(files.get(name) or ()):
            target = entry.get("target") if entry else None
            if target is None:
                continue
            place = f"filesystem.{name}[{index}]"
            if target in seen:
                text = f"{quote(target)} is the target of {seen[target]} already"
                found.append((f"{place}.target", text))
            seen.setdefault(target, place)
    return found


def check_policy(policy: Policy) -> list[Finding]:
    """What must hold between the values of a merged policy."""
    found: list[Finding] = []
    if not policy.identity.root and policy.identity.user in {0, "root"}:
        where = policy.origin("identity.root")
        found.append(("identity.user", f"must not be 0: identity.root is false in {where}"))
    files = policy.filesystem
    if files.persist and files.root in {"bind", "copy"}:
        text = f'needs an overlay; filesystem.root is "{files.root}"'
        found.append(("filesystem.persist", text))
    if files.persist and files.read_only:
        where = policy.origin("filesystem.read_only")
        text = f"would keep nothing: filesystem.read_only is true in {where}"
        found.append(("filesystem.persist", text))
    found += _check_network(policy)
    found += _check_resources(policy)
    targets = [("mounts", mount.target) for mount in files.mounts]
    targets += [("tmpfs", entry.target) for entry in files.tmpfs]
    masked = set(files.masked)
    for kind, target in targets:
        hidden = next((path for path in _parents(target) if path in masked), None)
        if hidden:
            text = f"{quote(target)} would be hidden: {quote(hidden)} is masked"
            found.append((f"filesystem.{kind}.{target}", text))
    return found


def _check_network(policy: Policy) -> list[Finding]:
    """What is wished for by hand must have a network that follows it."""
    wanted = policy.network
    if wanted.mode == "bridge" and wanted.sni:
        return [("network.sni", 'needs network.mode = "user": only there connections are read')]
    found: list[Finding] = []
    if wanted.mode not in JUDGED_MODES:
        found += _without_network(policy, '"user" or "bridge"', _OF_JUDGED)
    if wanted.mode != "bridge":
        found += _without_network(policy, '"bridge"', _OF_BRIDGES)
    return found


_OF_JUDGED = ("allow", "deny", "dns", "publish", "sni")
_OF_BRIDGES = ("aliases", "rate", "delay", "loss")


def _without_network(policy: Policy, needed: str, names: tuple[str, ...]) -> list[Finding]:
    wanted, where = policy.network, policy.origin("network.mode")
    text = f"needs network.mode = {needed}, and it is {quote(wanted.mode)} (from {where})"
    keys = [f"network.{name}" for name in names if getattr(wanted, name)]
    refused = wanted.mode in FOREIGN_MODES and names is _OF_JUDGED
    return [
        (key, f"{text}{_cure(policy, needed, key)}")
        for key in keys
        if policy.by_call(key) or (refused and policy.asked(key))
    ]


def _cure(policy: Policy, needed: str, key: str) -> str:
    """The option that is missing, where no other one says the opposite."""
    if policy.by_call("network.mode") or not policy.by_flag(key):
        return ""
    return "; add --network user" if "user" in needed else "; add --network NAME"


def _check_resources(policy: Policy) -> list[Finding]:
    found: list[Finding] = []
    wanted = policy.resources
    if wanted.memory_swap:
        if wanted.memory is None:
            found.append(("resources.memory_swap", "needs resources.memory, of which it is more"))
        elif wanted.memory_swap < wanted.memory:
            where = policy.origin("resources.memory")
            text = "is memory and swap together: must not be less than resources.memory"
            found.append(("resources.memory_swap", f"{text} (from {where})"))
    if wanted.memory is not None and wanted.memory_reservation > wanted.memory:
        where = policy.origin("resources.memory")
        text = f"must not be more than resources.memory (from {where})"
        found.append(("resources.memory_reservation", text))
    return found


def _parents(path: str) -> Iterable[str]:
    """A path and the folders above it, without "/"."""
    while path:
        yield path
        path = path.rpartition("/")[0]
