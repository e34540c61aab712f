"""Seccomp profiles in the JSON form of Docker, Podman and the OCI runtime spec.

Owns reading, checking (all problems at once) and choosing the rules that apply here. Meaning, as
in runtimes that use libseccomp:

- a rule whose answer equals the default is dropped;
- the first rule without conditions settles its call, and voids the call's conditional rules;
- conditional rules of one call are alternatives; where several hold, the severest answer wins;
- conditions of one rule must all hold, unless two name the same argument: then any suffices;
- comparisons are of 64-bit unsigned values; names that x86_64 does not have are skipped.

Ours: i386 and x32 callers are killed whatever `archMap` says. Where the default is an error or
ALLOW, numbers that no kernel known here has get ENOSYS; where it is an error, so do calls newer
than the newest call that the profile names. Nothing is handed to a tracer or supervisor, so
SCMP_ACT_TRACE and SCMP_ACT_NOTIFY are refused.
"""

from __future__ import annotations

import errno as errnos
import json

from sandbox.errors import PolicyError
from sandbox.record import Record
from sandbox.seccomp import rules
from sandbox.seccomp.oci_values import Values, show
from sandbox.seccomp.syscalls_other import NAMES as OTHER_NAMES
from sandbox.seccomp.syscalls_x86_64 import NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.seccomp.rules import Clause, Clauses, Condition, FilterSpec, Op

ACTIONS = {
    "SCMP_ACT_KILL": rules.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": rules.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": rules.KILL_PROCESS,
    "SCMP_ACT_TRAP": rules.TRAP,
    "SCMP_ACT_ERRNO": rules.ERRNO,
    "SCMP_ACT_LOG": rules.LOG,
    "SCMP_ACT_ALLOW": rules.ALLOW,
}
_TO_A_SUPERVISOR = ("SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY")
OPS: dict[str, Op] = {
    "SCMP_CMP_NE": "out",
    "SCMP_CMP_LT": "lt",
    "SCMP_CMP_LE": "le",
    "SCMP_CMP_EQ": "in",
    "SCMP_CMP_GE": "ge",
    "SCMP_CMP_GT": "gt",
    "SCMP_CMP_MASKED_EQ": "in",
}
_PROFILE_KEYS = (
    "defaultAction",
    "defaultErrnoRet",
    "defaultErrno",
    "archMap",
    "architectures",
    "flags",
    "syscalls",
    "listenerPath",
    "listenerMetadata",
    "comment",
)
_RULE_KEYS = (
    "names",
    "name",
    "action",
    "errnoRet",
    "errno",
    "args",
    "includes",
    "excludes",
    "comment",
)
_ARG_KEYS = ("index", "value", "valueTwo", "op")
_FILTER_KEYS = ("caps", "arches", "minKernel")
_CONDITIONS_MAX = 128
_ERRNO_MAX = 4095


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of a kernel release such as "6.1.0-13-amd64"; (0, 0) if it has none."""
    parts = release.split(".")
    digits = [part[: len(part) - len(part.lstrip("0123456789"))] for part in parts[:2]]
    if len(digits) < 2 or not all(digits):
        return (0, 0)
    return int(digits[0]), int(digits[1])


def from_oci(
    text: bytes, *, name: str, capabilities: tuple[str, ...], kernel: tuple[int, int]
) -> tuple[FilterSpec, tuple[str, ...]]:
    """The filter that a JSON profile means for these capabilities and kernel, and warnings.

    `name` is used in messages only. Raises PolicyError that lists every problem.
    """
    reader = _Reader(capabilities, kernel)
    try:
        data = json.loads(text, object_pairs_hook=reader.no_duplicates)
    except (ValueError, RecursionError) as error:
        cause = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise PolicyError(f'the seccomp profile "{name}" is not JSON', cause=cause) from error
    spec = reader.profile(data)
    if reader.problems:
        count = len(reader.problems)
        raise PolicyError(
            f'the seccomp profile "{name}" has {count} problem{"s" * (count > 1)}',
            problems=tuple(reader.problems[:100]),
        )
    return spec, tuple(reader.warnings)


class _Rule(Record):
    """One rule of the profile after checking: what it answers to which calls, and when."""

    where: str
    names: tuple[str, ...]
    action: int
    alternatives: tuple[tuple[Condition, ...], ...]


class _Reader(Values):
    """Reads one profile; gathers problems and warnings instead of stopping at the first."""

    def __init__(self, capabilities: tuple[str, ...], kernel: tuple[int, int]) -> None:
        super().__init__()
        self._capabilities = {f"CAP_{name.upper().removeprefix('CAP_')}" for name in capabilities}
        self._kernel = kernel

    def _action(self, data: dict[str, Any], where: str, keys: tuple[str, str, str]) -> int:
        """The kernel's action for the three keys (action, error number, error name)."""
        action_key, number_key, name_key = (f"{where}.{key}".lstrip(".") for key in keys)
        name, number, error = (data.get(key) for key in keys)
        if name in _TO_A_SUPERVISOR:
            self.problem(action_key, f"{name} needs a supervisor, which sbx does not run")
            return rules.ALLOW
        if not isinstance(name, str) or name not in ACTIONS:
            text = "is missing" if name is None else f"{show(name)} is not an action"
            self.problem(action_key, f"{text}; use {', '.join(ACTIONS)}")
            return rules.ALLOW
        action = ACTIONS[name]
        if action != rules.ERRNO:
            if number is not None:
                self.problem(number_key, f"means nothing with {name}")
            return action
        if error is not None and error != "":
            known = getattr(errnos, error, None) if isinstance(error, str) else None
            if isinstance(known, int):
                return action | known
            self.problem(name_key, f"{show(error)} is not the name of an error")
            return action
        return action | (1 if number is None else self.number(number, number_key, _ERRNO_MAX))

    def profile(self, data: Any) -> FilterSpec:
        data = self.mapping(data, "", _PROFILE_KEYS)
        default = self._action(data, "", ("defaultAction", "defaultErrnoRet", "defaultErrno"))
        if data.get("archMap") and data.get("architectures"):
            self.problem("architectures", "cannot be given together with archMap")
        self.items(data.get("archMap"), "archMap")
        self.strings(data.get("architectures"), "architectures")
        for flag in self.strings(data.get("flags"), "flags"):
            self.warnings.append(f"flags: {show(flag)} is ignored")
        if data.get("listenerPath"):
            self.problem("listenerPath", "needs a supervisor, which sbx does not run")
        found = [
            self._rule(rule, f"syscalls[{i}]")
            for i, rule in enumerate(self.items(data.get("syscalls"), "syscalls"))
        ]
        return self._combine(default, [rule for rule in found if rule])

    def _rule(self, value: Any, where: str) -> _Rule | None:
        """The checked rule, or None when it does not apply here."""
        data = self.mapping(value, where, _RULE_KEYS)
        if not isinstance(value, dict):
            return None
        names = self.strings(data.get("names"), f"{where}.names")
        if data.get("name"):
            if names:
                self.problem(f"{where}.name", "cannot be given together with names")
            names = self.strings([data["name"]], f"{where}.name")
        elif not names:
            self.problem(f"{where}.names", "must name at least one system call")
        action = self._action(data, where, ("action", "errnoRet", "errno"))
        conditions = [
            self._condition(item, f"{where}.args[{i}]")
            for i, item in enumerate(self.items(data.get("args"), f"{where}.args"))
        ]
        alternatives: tuple[tuple[Condition, ...], ...] = (tuple(conditions),)
        if len({condition.arg for condition in conditions}) < len(conditions):
            alternatives = tuple((condition,) for condition in conditions)
        applies = self._applies(data.get("includes"), f"{where}.includes", included=True)
        applies &= self._applies(data.get("excludes"), f"{where}.excludes", included=False)
        return _Rule(where, tuple(names), action, alternatives) if applies else None

    def _condition(self, value: Any, where: str) -> Condition:
        data = self.mapping(value, where, _ARG_KEYS)
        index = self.number(data.get("index"), f"{where}.index", 5)
        first = self.number(data.get("value", 0), f"{where}.value", rules.FULL)
        second = self.number(data.get("valueTwo", 0), f"{where}.valueTwo", rules.FULL)
        op = data.get("op")
        if not isinstance(op, str) or op not in OPS:
            self.problem(f"{where}.op", f"{show(op)} is not an op; use {', '.join(OPS)}")
            return rules.Condition(index, "in", (0,))
        if op == "SCMP_CMP_MASKED_EQ":
            return rules.Condition(index, "in", (second & first,), first)
        return rules.Condition(index, OPS[op], (first,))

    def _applies(self, value: Any, where: str, *, included: bool) -> bool:
        """Whether "includes" (all must fit) or "excludes" (none may fit) lets the rule apply."""
        if value is None:
            return True
        data = self.mapping(value, where, _FILTER_KEYS)
        caps = set(self.strings(data.get("caps"), f"{where}.caps"))
        arches = self.strings(data.get("arches"), f"{where}.arches")
        fits = []
        if caps and included:
            fits.append(caps <= self._capabilities)
        elif caps:
            fits.append(bool(caps & self._capabilities))
        if arches:
            fits.append("amd64" in arches)
        if data.get("minKernel"):
            least = data["minKernel"]
            wanted = kernel_version(least) if isinstance(least, str) else (0, 0)
            if wanted == (0, 0):
                self.problem(f"{where}.minKernel", f"{show(least)} is not a kernel version")
            fits.append(self._kernel >= wanted)
        return all(fits) if included else not any(fits)

    def _combine(self, default: int, found: list[_Rule]) -> FilterSpec:
        """Put the rules of every call together, and spread them over all numbers."""
        unknown_names: set[str] = set()
        of_call: dict[str, list[_Rule]] = {}
        newest = 0
        for rule in found:
            for name in rule.names:
                if name not in NUMBERS:
                    unknown_names.add(name)
                    continue
                newest = max(newest, NUMBERS[name])
                if rule.action != default:
                    of_call.setdefault(name, []).append(rule)
        calls: dict[int, int | Clauses] = dict.fromkeys(NUMBERS.values(), default)
        unknown = default
        if default & 0xFFFF0000 == rules.ERRNO:
            unknown = rules.errno(errnos.ENOSYS)
            calls |= {number: unknown for number in NUMBERS.values() if number > newest}
        elif default == rules.ALLOW:
            unknown = rules.errno(errnos.ENOSYS)
        for name, its in of_call.items():
            calls[NUMBERS[name]] = self._decision(name, its, default)
        if strange := sorted(unknown_names - OTHER_NAMES):
            names = ", ".join(ascii(name)[1:-1] for name in strange)
            self.warnings.append(f"unknown system calls are ignored: {names}")
        return rules.spec_of(calls, top=max(NUMBERS.values()), unknown=unknown)

    def _decision(self, name: str, its: list[_Rule], default: int) -> int | Clauses:
        plain = [rule for rule in its if rule.alternatives == ((),)]
        conditional = [rule for rule in its if rule.alternatives != ((),)]
        if plain:
            action: int = plain[0].action
            for rule in its:
                if rule.action != action:
                    self.warnings.append(
                        f"{rule.where}: has no effect on {name}, "
                        f"which {plain[0].where} settles without conditions"
                    )
            return action
        conditional.sort(key=lambda rule: rules.severity(rule.action))
        if sum(len(both) for rule in conditional for both in rule.alternatives) > _CONDITIONS_MAX:
            self.problem(name, f"has more than {_CONDITIONS_MAX} conditions in all")
            return default
        clauses: list[Clause] = []
        for rule in conditional:
            self._warn_of_conditions(name, rule, default)
            for conditions in rule.alternatives:
                _append(clauses, rules.Clause(conditions, rule.action))
        return rules.Clauses(tuple(clauses), default)

    def _warn_of_conditions(self, name: str, rule: _Rule, default: int) -> None:
        if len(rule.alternatives) > 1:
            self.warnings.append(
                f"{rule.where}: names one argument twice, so any of its conditions suffices"
            )
        if rules.severity(rule.action) < rules.severity(default) and any(
            condition.op == "in" and condition.mask == rules.FULL
            for conditions in rule.alternatives
            for condition in conditions
        ):
            self.warnings.append(
                f"{rule.where}: refuses {name} by comparing 64 bits; where the kernel reads 32, "
                "set upper bits go round it: use SCMP_CMP_MASKED_EQ with 4294967295"
            )


def _append(clauses: list[Clause], new: Clause) -> None:
    """Add an alternative; values of one argument with one answer become one condition."""
    if clauses and clauses[-1].action == new.action:
        last = clauses[-1].conditions
        if len(last) == len(new.conditions) == 1 and last[0].op == new.conditions[0].op == "in":
            values = last[0].values + new.conditions[0].values
            if last[0].replace(values=values) == new.conditions[0].replace(values=values):
                joined = last[0].replace(values=tuple(dict.fromkeys(values)))
                clauses[-1] = rules.Clause((joined,), new.action)
                return
    clauses.append(new)
