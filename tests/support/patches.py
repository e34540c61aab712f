"""Measures of sbx itself switched off, by patches of its modules in this process."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from sandbox.seccomp.rules import ALLOW, FULL, NO_CALL, Clauses

Patch = Callable[[], None]


def module(name: str) -> Any:
    """A module of sbx as a thing to be patched."""
    return import_module(f"sandbox.{name}")


def no_clauses(*names: str) -> Patch:
    """Make argument rules of the filter allow everything."""

    def patch() -> None:
        groups = module("seccomp.groups")
        for name in names:
            setattr(groups, name, Clauses((), ALLOW))

    return patch


def no_names(name: str) -> Patch:
    """Empty a list of refused calls."""

    def patch() -> None:
        groups = module("seccomp.groups")
        setattr(groups, name, "")

    return patch


def compare_64_bits() -> None:
    """Compare the whole register of an ioctl's number."""
    groups = module("seccomp.groups")
    wide = groups.IOCTL.clauses[0].conditions[0].replace(mask=FULL)
    clause = groups.IOCTL.clauses[0].replace(conditions=(wide,))
    groups.IOCTL = groups.IOCTL.replace(clauses=(clause,))


def answer_x32() -> None:
    """Treat numbers of x32 as unknown ones."""
    rules = module("seccomp.rules")
    rules.X32_BIT = NO_CALL - 1


def answer_i386() -> None:
    """Let the other ABI through."""
    compiler = module("seccomp.compile")
    original = compiler.compile_filter
    compiler.compile_filter = lambda spec: original(spec.replace(foreign=ALLOW))


def all_sockets() -> None:
    """Allow every family and type."""
    groups = module("seccomp.groups")
    groups.sockets = lambda *_, **__: Clauses((), ALLOW)


def no_tcp_rules() -> None:
    """Leave the ways round Landlock's TCP rules open."""
    groups = module("seccomp.groups")
    original = groups.tcp_rules
    groups.tcp_rules = lambda: dict.fromkeys(original(), Clauses((), ALLOW))


def callers_streams() -> None:
    """Hand the caller's own streams on."""
    spawn = module("launcher.spawn")
    original = spawn._connect

    def connect(launched: Any, child: Any, *, merge_stderr: bool) -> dict[int, int]:
        places = original(launched, child, merge_stderr=merge_stderr)
        return {place: child.move(os.dup(place)) for place in places}

    spawn._connect = connect


def callers_environment() -> None:
    """Add the caller's environment to the payload's."""
    compiler = module("plan.compile")
    original = compiler._environment

    def environment(policy: Any, request: Any) -> tuple[str, ...]:
        return (*original(policy, request), *(f"{n}={v}" for n, v in request.env))

    compiler._environment = environment


def environment_for_the_init() -> None:
    """Start the launcher with the caller's environment."""
    original = os.posix_spawn

    def spawn(path: str, argv: list[str], env: object, **more: Any) -> int:
        return original(path, argv, os.environ if argv == ["init"] else env, **more)  # type: ignore[arg-type]

    os.posix_spawn = spawn  # type: ignore[assignment]


def arguments_for_the_init() -> None:
    """Start the launcher with words of the host."""
    spawn = module("launcher.spawn")
    original = spawn._locate
    spawn._locate = lambda *words: (original(*words)[0], ["/host/path", "words"])


def no_seals() -> None:
    """Leave memory files open to change."""
    image = module("launcher.image")
    image._seal = lambda memory: memory


def no_output_limit() -> None:
    """Let any amount of output pass."""
    streams = module("runtime.streams")
    original = streams.Budget
    streams.Budget = lambda _limit: original(1 << 62)


def supervisor(**changes: object) -> Patch:
    """Give other options to the supervisor."""

    def patch() -> None:
        supervise = module("runtime.supervise")
        original = supervise.Supervisor
        supervise.Supervisor = lambda *args, **more: original(*args, **{**more, **changes})

    return patch


def no_kill() -> None:
    """Never kill what ignores the time limit."""
    supervisor = module("runtime.supervise").Supervisor
    supervisor._kill = lambda self: setattr(self, "_deadline", None)


def no_escapes() -> None:
    """Print names as they are."""
    render = module("cli.render")
    render.escape = lambda text: text


def report_through_links() -> None:
    """Write the report to where a link leads."""
    destination = module("runtime.destination").Destination
    destination.write = lambda self, text: Path(self._path).write_text(text)


def own_folders_shown() -> None:
    """Cover nothing of sbx's own."""
    gather = module("runtime.gather")
    gather._own_folders = lambda *_: ((), ())


def own_folders_at_one_place() -> None:
    """Know sbx's own folders by one path."""
    gather = module("runtime.gather")
    gather._places = lambda real, _: [real]


def own_folders_behind_links() -> None:
    """Bind folders with links on the way to sbx's own."""
    gather = module("runtime.gather")
    gather._refuse_links = lambda *_: None


def own_folders_movable() -> None:
    """Cover sbx's own folders, but do not pin the way to them."""
    gather = module("runtime.gather")
    original = gather._own_folders
    gather._own_folders = lambda *words: (original(*words)[0], ())


def read_plainly() -> None:
    """Read files of the root as if it were the host."""
    inroot = module("host.inroot")
    inroot.read_file = lambda root, path, limit=0: Path(f"{root}/{path}").read_bytes()  # noqa: ARG005
