"""A detached sandbox for the length of a test."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandbox.errors import StateError
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.enter import Command, Connection, enter
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import Folder
from sandbox.runtime.session import RunOptions, start_session
from sandbox.runtime.task import Keeping, Task


@contextmanager
def living(
    rootfs: Path, *argv: str, policy: str = "default", name: str = "", **sections: object
) -> Iterator[Folder]:
    """Run `argv` detached, without one an idle sandbox; `sections` go over those of the policy."""
    wanted = build_policy([*load_policy(policy), Layer("test", sections, {})])
    options = RunOptions(keep=Keeping(detached=True, idle=not argv))
    folder = start_session(wanted, Task(str(rootfs), argv, name=name), options)
    try:
        yield folder
    finally:
        with suppress(StateError), Keeper(folder) as kept:
            kept.kill()
            assert kept.wait(60)
        assert folder.remove()
        folder.close()


def shell(folder: Folder, script: str, **more: object) -> str:
    """What a script of the sandbox's shell prints; it must succeed."""
    out = bytearray()
    connection = Connection(stdout=out, merge_stderr=True, forward_signals=False)
    report = enter(folder, Command(("sh", "-c", script), **more), connection)  # type: ignore[arg-type]
    assert report.exit_code == 0, out
    return out.decode("utf-8", "surrogateescape")
