"""What connects a sandbox to a network, beside it: the registry of drivers.

A mode whose plan holds the sandbox (`plan.network.MODES`, `service`) has a driver here under the
same name. It prepares before the plan is made: what it decides there, such as the address, the plan
may show inside. While the sandbox is held it connects it, through the pid of the sandbox's init,
which tells the namespaces: /proc/PID/ns. After the end its handle takes back what it made. The
modes none and host need no driver.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.policy.model import Policy

    Tell = Callable[[str, str], None]


class Network:
    """One sandbox's place in a network, from before its plan until after its end.

    `files`: (path, content) of files inside that come with it, added to what is there. A driver
    overrides what it has to do. `debug`: whether each refusal is to be told at once.
    """

    files: tuple[tuple[str, bytes], ...] = ()
    debug: bool = False

    def share(self) -> tuple[int, ...]:
        """Descriptors of locked files that the launcher of a kept sandbox holds as well: what
        they stand for is in use as long as it lives. The caller closes them."""
        return ()

    def record(self, folder: int) -> None:
        """Write what other commands ask for into the folder of a kept sandbox: the files "ports"
        and "network". Raises SbxError."""

    def connect(self, pid: int, descriptors: tuple[int, ...]) -> None:
        """Make the network usable. `pid`: the sandbox's init, which waits; `descriptors`:
        what its launcher has opened inside, in the plan's order, ours to close. Raises
        SbxError."""

    def fileno(self) -> int:
        """A descriptor that is readable when `hear` has something to do; -1 = none."""
        return -1

    def hear(self) -> None:
        """Take note of what happened meanwhile; called when `fileno` is readable."""

    def account(self) -> dict[str, Any] | None:
        """What it did, for the report, after `close`; None where nobody counts."""
        return None

    def close(self, *, living: bool) -> None:
        """Take back what was made; `living`: only let go, the sandbox goes on without us.
        Raises SbxError naming what stays."""


if TYPE_CHECKING:
    # Policy, the sandbox's name (also of its host entry), and who hears what the user should know.
    # Raises SbxError with nothing made.
    Prepare = Callable[[Policy, str, Tell], Network]


def _user(policy: Policy, name: str, tell: Tell) -> Network:
    from sandbox.services.network.user.driver import UserNetwork

    return UserNetwork(policy, name, tell)


def _bridge(policy: Policy, name: str, tell: Tell) -> Network:
    from sandbox.services.network.bridge.driver import prepare

    return prepare(policy, name, tell)


def _foreign(policy: Policy, name: str, tell: Tell) -> Network:
    from sandbox.services.network.foreign.driver import ForeignNetwork

    return ForeignNetwork(policy, name, tell)


DRIVERS: dict[str, Prepare] = {
    "user": _user,
    "bridge": _bridge,
    "pasta": _foreign,
    "slirp4netns": _foreign,
}
