"""The ways to a file: the links on its path, and the mounts that show it elsewhere too."""

from __future__ import annotations

import os

from sandbox.linux.paths import below

_LINKS_MAX = 40  # as many as path_resolution(7) follows
_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


def links(path: str) -> list[str]:
    """Where the links are that a walk to the absolute `path` goes through, by real paths."""
    at, todo = "", path.split("/")
    found: list[str] = []
    while todo and len(found) <= _LINKS_MAX:
        name = todo.pop(0)
        if name == "..":
            at = os.path.dirname(at).rstrip("/")
        if name in ("", ".", ".."):
            continue
        try:
            text = os.readlink(f"{at}/{name}")
        except OSError:
            at = f"{at}/{name}"
            continue
        found.append(f"{at}/{name}")
        at = "" if text.startswith("/") else at
        todo = text.split("/") + todo
    return found


def places(path: str) -> list[str]:
    """The real `path` first, then where a second mount of its file system may show it (proc(5),
    mountinfo). What another mount covers is among them: compare before use."""
    mounts = _mounts()
    own = [mount for mount in mounts if below(path, mount[2])]
    if not own:
        return [path]
    device, root, point = max(own, key=lambda mount: len(mount[2]))
    inner = root.rstrip("/") + path[len(point.rstrip("/")) :]
    found = [path]
    for other, top, at in mounts:
        if other == device and below(inner, top):
            found.append((at.rstrip("/") + inner[len(top.rstrip("/")) :]) or "/")
    return list(dict.fromkeys(found))


def _mounts() -> list[tuple[str, str, str]]:
    """(device, what of its file system is shown, where) of every mount, later ones first."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
    except OSError:
        return []
    fields = (line.split(" ", 5) for line in reversed(lines))
    return [(f[2], _plain(f[3]), _plain(f[4])) for f in fields if len(f) > 5]


def _plain(text: str) -> str:
    for code, character in _ESCAPES:
        text = text.replace(code, character)
    return text
