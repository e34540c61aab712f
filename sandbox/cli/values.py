"""What the value of each option means: text of one flag in, settings of the policy out.

Every function takes the text as typed and returns settings, (policy key, value) pairs that
`flags` puts together. Only the form that the command line adds is read here, such as
SOURCE:TARGET; whether a size is a size or a path is absolute is the policy's to check. A text
that cannot be read is a ValueError that says why.
"""

from __future__ import annotations

import os

from sandbox.policy.units import parse_size, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Settings = list[tuple[str, Any]]
    Reader = Callable[[str], Settings]

# What every mount of a sandbox is anyway.
_IMPLIED_MOUNT_WORDS = ("rw", "nosuid", "nodev")
# What docker and podman accept after SOURCE:TARGET: each asks for something that we do not do.
_FOREIGN_VOLUME_WORDS = {
    **dict.fromkeys(("z", "Z"), "asks for another SELinux label, and sbx changes none"),
    **dict.fromkeys(("U", "idmap"), "asks for other owners, and sbx changes none"),
    "O": "asks for an overlay, which only the root file system has",
    **dict.fromkeys(("dev", "suid"), "asks for more than a sandbox is ever given"),
    **dict.fromkeys(
        ("shared", "rshared", "slave", "rslave", "private", "rprivate"),
        "asks for a propagation, and mounts of a sandbox are always private",
    ),
    **dict.fromkeys(("cached", "delegated", "consistent"), "has no meaning on Linux"),
    "nocopy": "is for named volumes, which do not exist",
}
_TRUE = ("", "true", "1", "yes")
_FALSE = ("false", "0", "no")
_NAME_MAX = 63
_NO_END = 2**32 - 1
# More than execve(2) takes of arguments and environment together.
ENV_FILE_BYTES_MAX = 4 << 20
_LAUNCHER_DESCRIPTORS = range(100, 110)


def constant(key: str, value: object) -> Reader:
    """Return a reader for a flag: the same setting whatever the text."""
    return lambda _text: [(key, value)]


def switch(key: str) -> Reader:
    """Return a reader for a flag with an opposite: "1" is on, "" is off."""
    return lambda text: [(key, bool(text))]


def setting(key: str, convert: Callable[[str], Any] = str) -> Reader:
    """Return a reader that puts the converted text under one policy key."""
    return lambda text: [(key, convert(text))]


def item(key: str) -> Reader:
    """Return a reader that adds the text to a list of the policy."""
    return lambda text: [(key, [text])]


def choice(key: str, members: tuple[str, ...]) -> Reader:
    """Return a reader that accepts the members of a closed set."""

    def read(text: str) -> Settings:
        if text not in members:
            raise ValueError(f"{quote(text)} is not known; use {', '.join(members)}")
        return [(key, text)]

    return read


def network(text: str) -> Settings:
    """Read a mode, container:NAME, or the name of a network of the host's."""
    # Not for commands that have no such option.
    from sandbox.policy.model import CONTAINER, NETWORK_MODES

    if not_empty(text) in NETWORK_MODES or text.startswith(CONTAINER):
        return [("network.mode", text)]
    return [("network.mode", "bridge"), ("network.name", text)]


def not_empty(text: str) -> str:
    """Return `text`, refuse an empty one."""
    if not text:
        raise ValueError("must not be empty")
    return text


def host_path(text: str) -> str:
    """Return an absolute path of the host; a relative one counts from the current folder.

    ".." stays as it is: behind a symlink, removing it would name another place.
    """
    if not_empty(text).startswith("/"):
        return text
    while text.startswith("./"):
        text = text[2:].lstrip("/")
    try:
        base = os.getcwd()
    except OSError as error:
        raise ValueError(f"{quote(text)} is relative, and the current folder is gone") from error
    return base if text in {"", "."} else f"{base.rstrip('/')}/{text}"


def volume(text: str) -> Settings:
    """Read SOURCE:TARGET[:WORD,…] with the words ro, rw and optional."""
    parts = text.split(":")
    if len(parts) not in {2, 3} or not parts[0] or not parts[1]:
        raise ValueError(f"{quote(text)} must be SOURCE:TARGET or SOURCE:TARGET:ro")
    mount: dict[str, Any] = {"source": _volume_source(parts[0]), "target": parts[1]}
    words = parts[2].split(",") if len(parts) == 3 else []
    for word in words:
        if word.startswith("/"):
            instead = (
                "a path that holds a colon goes into --mount type=bind,source=PATH,target=PATH"
            )
            raise ValueError(f"{quote(text)} has two colons; {instead}")
        if word not in {"ro", "rw", "optional"}:
            why = _FOREIGN_VOLUME_WORDS.get(word, "is not known")
            raise ValueError(f"{quote(word)} in {quote(text)} {why}; use ro, rw or optional")
    if "ro" in words and "rw" in words:
        raise ValueError(f"{quote(text)} says both ro and rw")
    if "ro" in words:
        mount["read_only"] = True
    if "optional" in words:
        mount["optional"] = True
    return [("filesystem.mounts", [mount])]


def _volume_source(text: str) -> str:
    if "/" not in text and text not in {".", ".."}:
        folder = f"for a folder write ./{text}"
        raise ValueError(f"{quote(text)} is a name, and named volumes do not exist; {folder}")
    return host_path(text)


def mount(text: str) -> Settings:
    """Read type=bind,source=…,target=…[,readonly][,optional] or type=tmpfs,target=…[,…]."""
    fields = _comma_fields(text)
    kind = fields.pop("type", "bind")
    if kind == "bind":
        return _bind_mount(fields)
    if kind == "tmpfs":
        return _tmpfs_mount(fields)
    if kind == "volume":
        raise ValueError("named volumes do not exist; use type=bind with a folder as source")
    raise ValueError(f"type {quote(kind)} is not known; use bind or tmpfs")


def _comma_fields(text: str) -> dict[str, str]:
    """Split "a=1,b" into {"a": "1", "b": ""}, with the usual other names made one."""
    names = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
    fields: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        name = names.get(name, name.removeprefix("tmpfs-"))
        if not name:
            raise ValueError(f"{quote(text)} has an empty part; write NAME=VALUE,NAME=VALUE")
        if name in fields:
            raise ValueError(f"{quote(name)} is given twice in {quote(text)}")
        fields[name] = value
    return fields


def _truth(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError(f"{name}={value} must be true or false")


def _take_target(fields: dict[str, str]) -> str:
    target = fields.pop("target", "")
    if not target:
        raise ValueError("needs target=…")
    return target


def _refuse_rest(fields: dict[str, str], known: str) -> None:
    if fields:
        raise ValueError(f"{quote(next(iter(fields)))} is not known here; use {known}")


def _bind_mount(fields: dict[str, str]) -> Settings:
    source = fields.pop("source", "")
    if not source:
        raise ValueError("needs source=…")
    result: dict[str, Any] = {"source": _volume_source(source), "target": _take_target(fields)}
    for name, key in (("readonly", "read_only"), ("optional", "optional")):
        if name in fields:
            result[key] = _truth(name, fields.pop(name))
    _refuse_rest(fields, "type, source, target, readonly, optional")
    return [("filesystem.mounts", [result])]


def _tmpfs_mount(fields: dict[str, str]) -> Settings:
    target = _take_target(fields)
    words = [f"{name}={fields.pop(name)}" for name in ("size", "mode", "inodes") if name in fields]
    if "noexec" in fields:
        words.append("noexec" if _truth("noexec", fields.pop("noexec")) else "exec")
    _refuse_rest(fields, "type, target, size, mode, inodes, noexec")
    return tmpfs(f"{target}:{','.join(words)}" if words else target)


def tmpfs(text: str) -> Settings:
    """Read TARGET[:WORD,…] with size=, inodes=, mode= (octal), exec and noexec."""
    target, colon, words = text.partition(":")
    if not target or (colon and not words):
        raise ValueError(f"{quote(text)} must be TARGET or TARGET:size=64M,mode=1777")
    result: dict[str, Any] = {"target": target}
    for word in words.split(",") if words else ():
        name, equals, value = word.partition("=")
        if equals and name in {"size", "mode"}:
            result[name] = value
        elif equals and name in {"inodes", "nr_inodes"}:
            result["inodes"] = whole_number(value)
        elif word in {"exec", "noexec"}:
            result["noexec"] = word == "noexec"
        elif word not in _IMPLIED_MOUNT_WORDS:
            known = "use size=, mode=, inodes=, exec or noexec"
            raise ValueError(f"{quote(word)} in {quote(text)} is not known; {known}")
    return [("filesystem.tmpfs", [result])]


def environment(text: str) -> Settings:
    """Read NAME=VALUE, or NAME for the caller's own value (nothing when it has none)."""
    name, equals, value = text.partition("=")
    if not name:
        raise ValueError(f"{quote(text)} must be NAME or NAME=VALUE")
    if not equals:
        if name not in os.environ:
            return []
        value = os.environ[name]
    return [("process.env", {name: value})]


def env_file(path: str) -> Settings:
    """Read lines of NAME=VALUE or NAME; empty lines and lines that start with # do not count.

    Values are taken as they stand: no quotes, no escapes, no expansion.
    """
    from sandbox.linux.files import read_whole

    try:
        data = read_whole(path, ENV_FILE_BYTES_MAX)
    except (OSError, ValueError) as error:
        cause = (getattr(error, "strerror", None) or str(error)).lower()
        raise ValueError(f"cannot read {quote(path)}: {cause}") from error
    table: dict[str, str] = {}
    for number, line in enumerate(os.fsdecode(data).split("\n"), 1):
        text = line.removesuffix("\r").lstrip()
        if not text or text.startswith("#"):
            continue
        name = text.partition("=")[0]
        if not name or " " in name or "\t" in name or "\0" in text:
            raise ValueError(f"line {number} of {quote(path)} must be NAME or NAME=VALUE")
        for _key, found in environment(text):
            table.update(found)
    return [("process.env", table)]


def privileged(_text: str) -> Settings:
    """What --privileged stands for; it can be narrowed again by a policy that extends another."""
    return [
        ("identity.map", "none"),
        ("namespaces.nested", True),
        ("filesystem.proc", "full"),
        ("filesystem.sys", "writable"),
        ("filesystem.guard", False),
        ("capabilities.add", ["ALL"]),
        ("seccomp.base", "unconfined"),
        ("landlock.fs", "none"),
        ("landlock.tcp", False),
        ("landlock.ioctl_dev", False),
        ("landlock.scopes", []),
    ]


def device(text: str) -> Settings:
    """Read /dev/NAME, or the same twice; it has no other name inside, and no rights to choose."""
    path, colon, inside = text.partition(":")
    if colon and inside not in (path, f"{path}:rwm"):
        raise ValueError(f"{quote(text)} must be /dev/NAME: a device keeps its name and its rights")
    return [("filesystem.devices", [path])]


def user(text: str) -> Settings:
    """Read USER[:GROUP], each a number or a name of the root file system's own files."""
    name, colon, group = text.partition(":")
    if not name or (colon and not group):
        raise ValueError(f"{quote(text)} must be USER or USER:GROUP")
    return [("identity.user", name), *([("identity.group", group)] if colon else [])]


def security_option(text: str) -> Settings:
    """Read seccomp=FILE, seccomp=unconfined, or no-new-privileges (which is always on)."""
    name, equals, value = text.partition("=")
    if not equals:
        name, equals, value = text.partition(":")
    if name == "no-new-privileges":
        if not _truth(name, value):
            raise ValueError("no-new-privileges cannot be switched off")
        return []
    if name == "seccomp" and value == "unconfined":
        return [("seccomp.base", "unconfined")]
    if name == "seccomp" and value:
        return [("seccomp.profile", host_path(value))]
    known = "use seccomp=FILE, seccomp=unconfined or no-new-privileges"
    raise ValueError(f"{quote(text)} is not known; {known}")


def ulimit(text: str) -> Settings:
    """Read NAME=SOFT[:HARD]; -1 and "unlimited" mean no limit."""
    name, equals, limits = text.partition("=")
    if not name or not equals or not limits:
        raise ValueError(f"{quote(text)} must be NAME=SOFT or NAME=SOFT:HARD")
    return [("rlimits", {name.lower().removeprefix("rlimit_"): limits})]


def whole_number(text: str) -> int:
    """Return a plain decimal number that is not negative."""
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ValueError(f"{quote(text)} is not a whole number")
    return int(text)


def number_or_unlimited(text: str) -> int | str:
    """Return a whole number; -1 and 0, as docker and podman have it, mean "unlimited"."""
    return "unlimited" if text in ("-1", "0", "unlimited") else whole_number(text)


def cpu_shares(text: str) -> int:
    """Return the weight (1 to 10000) of shares (2 to 262144), the scale of cgroup v1.

    The curve that crun and runc agreed on, on which 1024 is 100, the default of both scales.
    """
    shares = whole_number(text)
    if not 2 <= shares <= 262144:
        raise ValueError(f"{quote(text)} must be 2 to 262144")
    import math

    power = math.log2(shares)
    return min(10000, math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34)))


def open_descriptor(text: str) -> int:
    """Return the number of a descriptor that the caller has open."""
    number = whole_number(text)
    try:
        os.fstat(number)
    except (OSError, OverflowError):
        raise ValueError(f"descriptor {number} is not open") from None
    return number


def passed_descriptor(text: str) -> int:
    """Return a descriptor that the payload shall have at the same number."""
    number = whole_number(text)
    if number <= 2:
        raise ValueError(f"{number} is taken; standard input and output are always there")
    if number in _LAUNCHER_DESCRIPTORS:
        raise ValueError(f"{number} is taken; 100 to 109 are used by the launcher")
    return open_descriptor(text)


def restart(text: str) -> int:
    """Return how often a sandbox is started again: 0 for "no", 2**32 - 1 for without end."""
    if text == "no":
        return 0
    word, colon, number = text.partition(":")
    if word != "on-failure" or (colon and not (number.isascii() and number.isdigit())):
        raise ValueError(f"{quote(text)} must be no, on-failure or on-failure:N")
    if colon and not 0 < int(number) < _NO_END:
        raise ValueError(f"{quote(text)} must name at least one restart")
    return int(number) if colon else _NO_END


def log_size(text: str) -> int:
    """Return a size in bytes between 64 KiB and 1 GiB."""
    size = parse_size(text)
    if not 64 << 10 <= size <= 1 << 30:
        raise ValueError(f"{quote(text)} must lie between 64K and 1G")
    return size


def sandbox_name(text: str) -> str:
    """Return a name of letters, digits, "_", "." and "-", led by a letter or digit."""
    plain = text.replace("_", "a").replace(".", "a").replace("-", "a")
    if not plain.isascii() or not plain.isalnum() or text[0] in "-._" or len(text) > _NAME_MAX:
        rule = 'letters, digits, "_", "." or "-", led by a letter or digit'
        raise ValueError(f"{quote(text)} must be 1 to {_NAME_MAX} {rule}")
    return text
