"""From layers to one Policy: later layers win, every value remembers where it came from.

Most keys replace. Mounts and tmpfs merge by target, env, rlimits, sysctls and on_missing by
name; masked, locked, env_pass and the network's allow, deny and publish grow; capabilities.add and
drop change what is kept so far.
"""

from __future__ import annotations

import os

from sandbox.errors import PolicyError
from sandbox.linux.capabilities import NAMES as CAPABILITIES
from sandbox.policy import model
from sandbox.policy.fields import INHERIT
from sandbox.policy.validate import check_layer, check_policy
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_GROWING = (
    *("filesystem.masked", "filesystem.locked", "process.env_pass"),
    *("network.allow", "network.deny", "network.publish"),
)
_BY_TARGET = {
    "filesystem.mounts": "filesystem.tmpfs",
    "filesystem.tmpfs": "filesystem.mounts",
}
_TABLES = ("process.env", "rlimits", "sysctls", "on_missing")


class Layer(Record):
    """One set of wishes: a policy file's, or the flags of a command line.

    `origin` names it in messages ("build.toml"); `data` is the content as TOML gives it;
    `origins` names single keys ("process.hostname": "--hostname"; also "filesystem.mounts" or
    "filesystem.mounts[0]") and marks the layer as one of flags; `path` is the file's, "" when
    there is none; `name` becomes the policy's when this is the last layer that has one.
    """

    origin: str
    data: Mapping[str, Any]
    origins: Mapping[str, str] = {}
    path: str = ""
    name: str = ""

    def origin_of(self, key: str) -> str:
        """Where a key of this layer came from: its own name, else that of what holds it."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.origin


class _Merge:
    """The values and origins so far."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"capabilities.keep": (), "capabilities.add": ()}
        self.origins: dict[str, str] = {}

    def add(self, layer: Layer, good: Mapping[str, Any]) -> None:
        for section, content in good.items():
            if section in _TABLES:
                self._merge_table(layer, section, content)
            elif isinstance(content, dict):
                for name, value in content.items():
                    self._add_key(layer, f"{section}.{name}", value)
        if "capabilities" in good:
            self._add_capabilities(layer, good["capabilities"])
        seccomp = good.get("seccomp", {})
        if "base" in seccomp and "profile" not in seccomp:
            # A profile stands above base: one that is inherited would undo this layer's wish.
            self.values.pop("seccomp.profile", None)

    def _add_key(self, layer: Layer, key: str, value: Any) -> None:
        if key.startswith("capabilities."):
            return
        if key in _TABLES:
            self._merge_table(layer, key, value)
            return
        self.origins[key] = layer.origin_of(key)
        if key in _GROWING:
            for index, item in enumerate(value):
                if item is not None:
                    self.values.setdefault(key, {})[item] = None
                    self.origins.setdefault(f"{key}.{item}", layer.origin_of(f"{key}[{index}]"))
        elif key in _BY_TARGET:
            for index, entry in enumerate(value):
                if entry and "target" in entry:
                    self._add_mount(key, entry, layer.origin_of(f"{key}[{index}]"))
        else:
            self.values[key] = value

    def _add_mount(self, key: str, entry: dict[str, Any], origin: str) -> None:
        target = entry["target"]
        self.values.get(_BY_TARGET[key], {}).pop(target, None)
        self.origins.pop(f"{_BY_TARGET[key]}.{target}", None)
        self.values.setdefault(key, {})[target] = entry
        self.origins[f"{key}.{target}"] = origin

    def _merge_table(self, layer: Layer, key: str, value: Mapping[str, Any]) -> None:
        entries = self.values.setdefault(key, {})
        for name, item in value.items():
            if item is False or (key == "rlimits" and item == INHERIT):
                entries.pop(name, None)
            else:
                entries[name] = item
            self.origins[f"{key}.{name}"] = layer.origin_of(f"{key}.{name}")
        self.origins[key] = layer.origin_of(key)

    def _add_capabilities(self, layer: Layer, wanted: Mapping[str, Any]) -> None:
        """Like docker's --cap-add and --cap-drop: ALL comes first, whichever list it is in."""
        keep, add = self.values["capabilities.keep"], self.values["capabilities.add"]
        origin = self.origins.get("capabilities.keep", "built-in default")
        if wanted.get("keep") is not None:
            keep, add = wanted["keep"], ()
            origin = layer.origin_of("capabilities.keep")
        added, dropped = wanted.get("add") or (), wanted.get("drop") or ()
        if len(added) == len(CAPABILITIES):
            added = tuple(name for name in added if name not in dropped)
        keep = {*(name for name in keep if name not in dropped), *added}
        add = {*(name for name in add if name not in dropped), *added}
        if dropped:
            origin = f"{origin}, {layer.origin_of('capabilities.drop')}"
        if added:
            origin = layer.origin_of("capabilities.add")
            self.origins["capabilities.add"] = origin
        self.origins["capabilities.keep"] = origin
        self.values["capabilities.keep"] = tuple(name for name in CAPABILITIES if name in keep)
        self.values["capabilities.add"] = tuple(name for name in CAPABILITIES if name in add)

    def section(self, name: str) -> dict[str, Any]:
        prefix = f"{name}."
        return {
            key[len(prefix) :]: value
            for key, value in self.values.items()
            if key.startswith(prefix)
        }


def build_policy(layers: Sequence[Layer]) -> model.Policy:
    """Merge layers, the base first, and check the result.

    Raises one PolicyError that lists the problems of all layers, each "file: section.key: text"
    or "--flag: text".
    """
    merge = _Merge()
    problems: list[tuple[str, str]] = []
    for layer in layers:
        good, found = check_layer(layer.data, os.path.dirname(layer.path))
        problems += [_problem(layer.origin_of(key), key, text) for key, text in found]
        merge.add(layer, good)
    name = next((layer.name for layer in reversed(layers) if layer.name), "")
    try:
        policy = _make_policy(name or (layers[0].origin if layers else "none"), merge)
        policy = _with_network(policy)
    except (KeyError, TypeError):
        # Only values that were reported above can be missing or of the wrong shape.
        if not problems:
            raise
    else:
        found = check_policy(policy)
        problems += [_problem(policy.origin(key), key, text) for key, text in found]
    if problems:
        raise _error(problems)
    return policy


def layer_problems(layer: Layer) -> tuple[str, ...]:
    """What is wrong with one layer by itself, whatever it will be laid on: lines as above."""
    _good, found = check_layer(layer.data, os.path.dirname(layer.path))
    return tuple(dict.fromkeys(_problem(layer.origin_of(key), key, text)[1] for key, text in found))


def _problem(origin: str, key: str, text: str) -> tuple[str, str]:
    """(origin, line). A flag stands for its key, so only what lies below the key is named."""
    if not origin.startswith("-"):
        return origin, f"{origin}: {key}: {text}"
    last = key.rpartition(".")[2] if "]." in key else ""
    return origin, f"{origin}: {last}{' ' if last else ''}{text}"


def _error(problems: list[tuple[str, str]]) -> PolicyError:
    origins = {origin for origin, _ in problems}
    flags = [origin for origin in origins if origin.startswith("-")]
    if len(flags) == len(origins):
        subject, verb = "the options", "have"
    elif len(origins) == 1:
        subject, verb = next(iter(origins)), "has"
    else:
        subject, verb = "the policy", "has"
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return PolicyError(
        f"{subject} {verb} {count}", problems=tuple(dict.fromkeys(line for _, line in problems))
    )


def _make_policy(name: str, merge: _Merge) -> model.Policy:
    return model.Policy(
        name=name,
        identity=model.Identity(**merge.section("identity")),
        namespaces=model.Namespaces(**_with_tuples(merge.section("namespaces"))),
        filesystem=_make_filesystem(merge),
        network=model.Network(**_with_tuples(merge.section("network"))),
        process=_make_process(merge.section("process")),
        capabilities=model.Capabilities(**merge.section("capabilities")),
        seccomp=model.Seccomp(**_with_tuples(merge.section("seccomp"))),
        landlock=model.Landlock(**_with_tuples(merge.section("landlock"))),
        resources=model.Resources(**_with_tuples(merge.section("resources"))),
        rlimits=tuple(
            model.Rlimit(limit, *sides) for limit, sides in merge.values.get("rlimits", {}).items()
        ),
        sysctls=tuple(merge.values.get("sysctls", {}).items()),
        on_missing=tuple(merge.values.get("on_missing", {}).items()),
        origins=tuple(merge.origins.items()),
    )


def _with_network(policy: model.Policy) -> model.Policy:
    """What a network of the sandbox's own brings along: its rules judge connections, and so
    take the place of a refusal that a policy of sbx's own has for the time without. One without
    rules is said in the plan, and refused there where that is wished."""
    if policy.network.mode not in (*model.JUDGED_MODES, *model.FOREIGN_MODES):
        return policy
    mode = policy.origin("network.mode")
    sockets = tuple(dict.fromkeys((*policy.seccomp.sockets, "inet", "inet6")))
    if sockets != policy.seccomp.sockets:
        origins = (*policy.origins, ("seccomp.sockets", mode))
        policy = policy.replace(seccomp=policy.seccomp.replace(sockets=sockets), origins=origins)
    if policy.landlock.tcp and not policy.asked("landlock.tcp"):
        origins = (*policy.origins, ("landlock.tcp", mode))
        policy = policy.replace(landlock=policy.landlock.replace(tcp=False), origins=origins)
    return policy


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Lists as tuples, each item once."""
    return {
        name: tuple(dict.fromkeys(value)) if isinstance(value, list | tuple | dict) else value
        for name, value in values.items()
    }


def _make_process(values: dict[str, Any]) -> model.Process:
    env = values.pop("env", {})
    return model.Process(**_with_tuples(values), env=tuple(env.items()))


def _make_filesystem(merge: _Merge) -> model.Filesystem:
    """Parents before children, and only the masks of what will be there."""
    values = merge.section("filesystem")
    size = values.get("size") or model.DEFAULT_SIZE
    inodes = values.get("inodes") or model.DEFAULT_INODES
    mounts = sorted(values.pop("mounts", {}).values(), key=_by_depth)
    tmpfs = sorted(values.pop("tmpfs", {}).values(), key=_by_depth)
    with_sys = values.get("sys", "none") != "none"
    for key in ("masked", "locked"):
        values[key] = tuple(
            path
            for pattern in values.get(key, {})
            if with_sys or not f"{pattern}/".startswith("/sys/")
            for path in _expand_processors(pattern)
        )
    values["devices"] = tuple(dict.fromkeys(values.get("devices", ())))
    return model.Filesystem(
        **values,
        mounts=tuple(model.Mount(**entry) for entry in mounts),
        tmpfs=tuple(model.Tmpfs(**{"size": size, "inodes": inodes, **entry}) for entry in tmpfs),
    )


def _by_depth(entry: Mapping[str, Any]) -> list[str]:
    target: str = entry["target"]
    return target.split("/")


def _expand_processors(pattern: str) -> tuple[str, ...]:
    """The paths of every processor for "…/cpu*/…", else the path itself."""
    if "/cpu*/" not in pattern:
        return (pattern,)
    return tuple(
        pattern.replace("/cpu*/", f"/cpu{number}/") for number in range(os.cpu_count() or 1)
    )
