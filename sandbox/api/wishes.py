"""What a caller of the Python API wishes of a sandbox, as layers of a policy.

Owns the keywords that are limits and settings; what they may hold is policy's to check.
"""

from __future__ import annotations

import marshal
import os
from functools import lru_cache

from sandbox.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, TypeAlias, TypedDict

    from sandbox.api.policy import Policy
    from sandbox.policy import model
    from sandbox.policy.load import Layer

    PolicyRef: TypeAlias = "str | os.PathLike[str] | Policy"
    Word: TypeAlias = "str | os.PathLike[str]"

    class Wishes(TypedDict, total=False):
        """What comes on top of the policy; see `overrides`."""

        timeout: float | None
        env: Mapping[str, str] | None
        cwd: str | None
        user: int | str | None
        mounts: Iterable[model.Mount]
        network: str | None
        ipc: str | None
        uts: str | None
        pid: str | None
        allow: Iterable[str]
        deny: Iterable[str]
        dns: Iterable[str]
        publish: Iterable[str]
        memory: int | str | None
        cpus: float | None
        pids: int | None


def overrides(
    *,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: int | str | None = None,
    mounts: Iterable[model.Mount] = (),
    network: str | None = None,
    ipc: str | None = None,
    uts: str | None = None,
    pid: str | None = None,
    allow: Iterable[str] = (),
    deny: Iterable[str] = (),
    dns: Iterable[str] = (),
    publish: Iterable[str] = (),
    memory: int | str | None = None,
    cpus: float | None = None,
    pids: int | None = None,
) -> dict[str, dict[str, Any]]:
    """The keywords as the content of a policy: only what was given.

    `timeout` is in seconds, 0 for none; `env` is added to the policy's; `pids` bounds all the
    processes and threads of the sandbox together; `network`, `ipc`, `uts` and `pid` may be
    "container:NAME" for those of a running sandbox; `memory` and `cpus` need a control group,
    see [resources] of a policy. With `network="user"`: `allow` and `deny` say what may be reached,
    `dns` which name servers are asked, `publish` which ports of the host lead inside.
    """
    values: dict[tuple[str, str], Any] = {
        ("process", "timeout"): timeout,
        ("process", "env"): _environment(env),
        ("process", "cwd"): cwd,
        ("identity", "user"): user,
        ("filesystem", "mounts"): [absolute_mount(mount) for mount in mounts] or None,
        ("network", "mode"): network,
        ("namespaces", "ipc"): ipc,
        ("namespaces", "uts"): uts,
        ("namespaces", "pid"): pid,
        ("network", "allow"): _words("allow", allow),
        ("network", "deny"): _words("deny", deny),
        ("network", "dns"): _words("dns", dns),
        ("network", "publish"): _words("publish", publish),
        ("rlimits", "nproc"): pids,
        ("resources", "memory"): memory,
        ("resources", "cpus"): cpus,
    }
    sections: dict[str, dict[str, Any]] = {}
    for (section, key), value in values.items():
        if value is not None:
            sections.setdefault(section, {})[key] = value
    return sections


def _environment(env: Mapping[str, str] | None) -> dict[str, str] | None:
    if env and not hasattr(env, "keys"):
        raise UsageError("env must be a mapping of names to values", cause=f"found {env!r}")
    return dict(env) if env else None


def _words(name: str, given: Iterable[str]) -> list[str] | None:
    """A list of the policy; a string by itself would be taken apart letter by letter."""
    if isinstance(given, str):
        raise UsageError(f"{name} must be a list of strings", cause=f"found {given!r}")
    return list(given) or None


def absolute_mount(mount: model.Mount) -> dict[str, object]:
    """A mount as a policy file has it, its source seen from the current folder.

    Raises UsageError for anything but a Mount.
    """
    from sandbox.policy.model import Mount

    if not isinstance(mount, Mount):
        raise UsageError(
            "mounts must be values of sandbox.Mount",
            cause=f"found {mount!r}",
            hint='for -v ./src:/src:ro write sandbox.Mount("./src", "/src", read_only=True)',
        )
    return {**dict(mount), "source": os.path.abspath(mount.source)}


def layer_of(origin: str, sections: Mapping[str, Mapping[str, Any]]) -> Layer:
    """A layer whose every value remembers `origin`."""
    from sandbox.policy.merge import Layer

    origins: dict[str, str] = {}
    for section, values in sections.items():
        for key, value in values.items():
            origins[f"{section}.{key}"] = origin
            if isinstance(value, dict):
                origins |= {f"{section}.{key}.{item}": origin for item in value}
    return Layer(origin, sections, origins)


def layers_of(policy: PolicyRef) -> list[Layer]:
    """The layers of a policy by name, by path, or of a Policy. Raises PolicyError."""
    if not isinstance(policy, str | os.PathLike):
        return list(policy.layers)
    from sandbox.policy.load import load_policy

    return load_policy(os.fspath(policy))


_WISHES = frozenset(overrides.__kwdefaults__ or ())


def check_keywords(origin: str, given: Iterable[str], known: frozenset[str]) -> None:
    """Raises TypeError for a keyword that `origin`, which the caller called, does not know."""
    for name in given:
        if name not in known:
            raise TypeError(f"{origin}() got an unexpected keyword argument {name!r}")


def wished(origin: str, wishes: Wishes) -> dict[str, dict[str, Any]]:
    """The content of a policy for the keywords of a call of `origin`. Raises TypeError."""
    check_keywords(origin, wishes, _WISHES)
    return overrides(**wishes)


def policy_for(origin: str, policy: PolicyRef, sections: dict[str, dict[str, Any]]) -> model.Policy:
    """The policy with the caller's wishes on top. Raises PolicyError."""
    from sandbox.policy.merge import build_policy

    layers = [*layers_of(policy), layer_of(origin, sections)]
    try:
        # Version 2 says the same bytes for the same values, whoever else refers to them.
        key = marshal.dumps([tuple(value for _, value in layer) for layer in layers], 2)
    except ValueError:  # holds more than plain values: merging finds the words for it
        return build_policy(layers)
    return _built(key)


@lru_cache(maxsize=64)
def _built(key: bytes) -> model.Policy:
    """Merging is a function of the layers alone, and a third of what preparing a run costs."""
    from sandbox.policy.merge import Layer, build_policy

    return build_policy([Layer(*fields) for fields in marshal.loads(key)])  # noqa: S302 (ours)


def words_of(argv: Sequence[Word]) -> tuple[str, ...]:
    """The command as a tuple of words. Raises UsageError for a string."""
    if isinstance(argv, str | bytes):
        raise UsageError(
            "the command must be a list of words",
            cause=f"found {type(argv).__name__}",
            hint='for a shell line: ["sh", "-c", line]',
        )
    return tuple(os.fspath(word) for word in argv)
