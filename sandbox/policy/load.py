"""From the name or path of a policy to its layers: finds files, reads them, follows `extends`.

The only module of the policy room that opens policy files. What the content means is checked
later, by `merge`: here only what cannot be read is an error.
"""

from __future__ import annotations

import os
import stat

from sandbox.errors import PolicyError
from sandbox.linux.paths import absolute, config_dir, policies_dir
from sandbox.policy import cache
from sandbox.policy.fields import suggest
from sandbox.policy.merge import Layer as Layer
from sandbox.policy.units import quote
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE_BYTES_MAX = 1 << 20
DEPTH_MAX = 8
NAME_LENGTH_MAX = 64
SUFFIX = ".toml"
# What a policy builds on that says nothing of `extends`: a short file must not be a wide one.
IMPLIED_PARENT = "strict"


class _File(Record):
    """A policy's file: `name` is how messages and `extends` call it, `folder` where it lies."""

    path: str
    name: str
    origin: str


def search_path() -> tuple[str, ...]:
    """The folders where names are looked up: the user's, then the built-in ones."""
    return (f"{config_dir()}/policies", policies_dir())


def load_policy(ref: str, *, search: tuple[str, ...] | None = None) -> list[Layer]:
    """The layers of a policy, the base first, the named one last.

    `ref` is a path (it holds "/", or ends with ".toml" and exists) or a name, looked up in
    `search` (default: `search_path()`). Raises PolicyError when a file cannot be found, read or
    parsed, and when `extends` leads in a circle or deeper than DEPTH_MAX.
    """
    folders = search_path() if search is None else search
    layers: list[Layer] = []
    seen: list[_File] = []
    found = _find(ref, folders)
    while True:
        _refuse_endless(seen, found)
        seen.append(found)
        content = read_policy(found.path, found.origin)
        layers.append(Layer(found.origin, content, {}, found.path, found.name))
        parent = content.get("extends", IMPLIED_PARENT)
        if not parent:
            return layers[::-1]
        if not isinstance(parent, str):
            raise PolicyError(
                f"{found.origin} has 1 problem",
                problems=(f"{found.origin}: extends: must be a string, found {quote(parent)}",),
            )
        found = _find_parent(parent, found, folders)


def _refuse_endless(seen: list[_File], found: _File) -> None:
    chain = " → ".join(file.name for file in (*seen, found))
    if found.path in [file.path for file in seen]:
        raise PolicyError(
            f"policy {quote(seen[0].name)} extends itself",
            cause=chain,
            hint="remove one extends of the circle",
        )
    if len(seen) >= DEPTH_MAX:
        raise PolicyError(
            f"policy {quote(seen[0].name)} extends more than {DEPTH_MAX - 1} others",
            cause=chain,
            hint="merge some of them",
        )


def _find(ref: str, folders: tuple[str, ...]) -> _File:
    if "\0" in ref or "\n" in ref or not ref:
        raise PolicyError(f"{quote(ref)} is not the name of a policy")
    if "/" in ref or (ref.endswith(SUFFIX) and os.path.lexists(ref)):
        return _at_path(absolute(ref), ref)
    return _find_name(ref, folders)


def _at_path(path: str, origin: str) -> _File:
    name = os.path.basename(path).removesuffix(SUFFIX)
    return _File(path, name, origin)


def _find_parent(parent: str, child: _File, folders: tuple[str, ...]) -> _File:
    """A parent by name or by path, a relative path seen from the child's folder."""
    if "\0" in parent or "\n" in parent:
        raise PolicyError(
            f"{child.origin} extends {quote(parent)}", cause="that is not the name of a policy"
        )
    near = os.path.normpath(os.path.join(os.path.dirname(child.path), parent))
    if "/" in parent or (parent.endswith(SUFFIX) and os.path.lexists(near)):
        return _at_path(near, _short(near))
    try:
        # A user's policy may have the name of the one that it changes.
        others = [folder for folder in folders if f"{folder}/{parent}{SUFFIX}" != child.path]
        return _find_name(parent, tuple(others))
    except PolicyError as error:
        raise PolicyError(
            f"{child.origin} extends {quote(parent)}: {error.what}",
            cause=error.cause,
            hint=error.hint,
        ) from None


def _short(path: str) -> str:
    """An absolute path as people know it: seen from the current folder where that is shorter."""
    try:
        return min(path, os.path.relpath(path), key=len)
    except OSError:
        return path


def _is_name(text: str) -> bool:
    plain = text.replace("_", "a").replace("-", "a").replace(".", "a")
    return plain.isascii() and plain.isalnum() and text[0] != "." and len(text) <= NAME_LENGTH_MAX


def _find_name(name: str, folders: tuple[str, ...]) -> _File:
    for folder in folders if _is_name(name) else ():
        path = f"{folder}/{name}{SUFFIX}"
        if os.path.lexists(path):
            return _File(path, name, f"{name}{SUFFIX}")
    known = names(folders)
    near = suggest(name, known)
    path_hint = f"; a file is named by a path, such as ./{name}" if name.endswith(SUFFIX) else ""
    raise PolicyError(
        f"no policy {quote(name)}{near}",
        cause=f"there are: {', '.join(known)}" if known else "there are none",
        hint=f"policies are looked up in {' and '.join(folders)}{path_hint}",
    )


def names(folders: tuple[str, ...]) -> list[str]:
    """The names of all policies in some folders; those led by "_" are templates."""
    found = set()
    for folder in folders:
        try:
            entries = os.listdir(folder)
        except OSError:
            continue
        for entry in entries:
            name = entry.removesuffix(SUFFIX)
            if name != entry and _is_name(name) and name[0] != "_":
                found.add(name)
    return sorted(found)


def read_policy(path: str, origin: str) -> dict[str, Any]:
    """The content of one policy file, as TOML gives it. `origin` names it in errors."""
    what = f"cannot read policy {origin}"
    try:
        # O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        name = os.path.basename(path).removesuffix(SUFFIX)
        hint = f'a policy by name has no slash: "{name}"' if name in names(search_path()) else ""
        raise PolicyError(what, cause=(error.strerror or "").lower(), hint=hint) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise PolicyError(what, cause="it is not a regular file")
        state = cache.file_state(found)
        content = cache.load(path, state) if cache.is_cacheable(found) else None
        if content is not None:
            return content
        text = _read_text(fd, what)
        unchanged = cache.file_state(os.fstat(fd)) == state
    except OSError as error:
        raise PolicyError(what, cause=(error.strerror or "").lower()) from error
    finally:
        os.close(fd)
    content = _parse(text, origin)
    if unchanged and cache.is_cacheable(found):
        cache.store(path, state, content)
    return content


def _read_text(fd: int, what: str) -> str:
    data = b""
    while len(data) <= FILE_BYTES_MAX and (part := os.read(fd, FILE_BYTES_MAX + 1)):
        data += part
    if len(data) > FILE_BYTES_MAX:
        raise PolicyError(what, cause=f"it is larger than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(what, cause=f"line {line} is not UTF-8") from None


def _parse(text: str, origin: str) -> dict[str, Any]:
    # The parser brings re, datetime and typing along: 12 ms, so only without a cached entry.
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise PolicyError(f"cannot read policy {origin}", cause="it is nested too deep") from None
    except ValueError as error:
        # "Invalid value (at line 3, column 5)" or "… (at end of document)"
        cause, _, place = str(error).rpartition(" (at ")
        line = place.removeprefix("line ").partition(",")[0]
        where = f"{origin}:{line}" if line.isdigit() else origin
        cause = cause if line.isdigit() else f"{cause or place}, at the end of the file"
        raise PolicyError(
            f"cannot read policy {where}",
            cause=f"{cause[:1].lower()}{cause[1:]}",
            hint="policies are TOML files (toml.io)",
        ) from None
