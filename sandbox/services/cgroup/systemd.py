"""Groups in a transient scope with Delegate=yes, asked of the user's own systemd over D-Bus.

The launcher is what the scope begins with: systemd moves it there, which this user could not, and
the scope ends with it. Of the scope's two folders one holds the launcher, the other the sandbox.
"""

from __future__ import annotations

import os

from sandbox.errors import HostError
from sandbox.plan.request import Available
from sandbox.services.cgroup import UNIFIED, tree
from sandbox.services.cgroup.group import Claim, Group, make_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WAIT_S = 10.0
_LAUNCHER = "launcher"


def _manager() -> str:
    """The folder of the user's manager."""
    uid = os.getuid()
    return f"{UNIFIED}/user.slice/user-{uid}.slice/user@{uid}.service"


def _bus() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        runtime = f"/run/user/{os.getuid()}"
    return f"{runtime}/bus"


def find() -> Available:
    """What the manager has itself, which is what it hands on."""
    if not os.path.isdir(_manager()):
        return Available("", cause="no systemd manager runs for this user")
    if not os.path.exists(_bus()):
        return Available("", cause=f"the user's manager cannot be reached: no {_bus()}")
    there = tree.words(_manager(), "cgroup.controllers")
    controllers = tuple(name for name in tree.WANTED if name in there)
    missing = [name for name in tree.WANTED if name not in controllers]
    return Available(
        "systemd",
        controllers,
        cpus=tree.processors(_manager()),
        cause=f"{_manager()} was not given {', '.join(missing)}" if missing else "",
        cure='see "sbx doctor": Delegate= in user@.service names the controllers',
    )


class _Manager:
    """A connection to org.freedesktop.systemd1 of this user. Raises HostError."""

    def __init__(self) -> None:
        try:
            from jeepney import DBusAddress
            from jeepney.io.blocking import open_dbus_connection
        except ImportError as error:
            raise _cannot("the Python package jeepney is not installed") from error
        try:
            self._connection = open_dbus_connection(bus=f"unix:path={_bus()}")
        except OSError as error:
            raise _cannot((error.strerror or str(error)).lower()) from error
        self._manager = DBusAddress(
            "/org/freedesktop/systemd1",
            bus_name="org.freedesktop.systemd1",
            interface="org.freedesktop.systemd1.Manager",
        )

    def call(self, method: str, signature: str = "", *values: Any) -> Any:
        """The body of the answer."""
        from jeepney import DBusErrorResponse, new_method_call
        from jeepney.wrappers import unwrap_msg

        message = new_method_call(self._manager, method, signature or None, values)
        try:
            return unwrap_msg(self._connection.send_and_get_reply(message, timeout=_WAIT_S))
        except DBusErrorResponse as error:
            words = error.data[0] if error.data else error.name
            raise _cannot(f"{method}: {words}") from error
        except (OSError, TimeoutError) as error:
            raise _cannot(f"{method}: {error}") from error

    def run_job(self, method: str, signature: str, *values: Any) -> None:
        """Call what starts a job, and wait for the job's end."""
        from jeepney import MatchRule, message_bus

        rule = MatchRule(
            type="signal", interface="org.freedesktop.systemd1.Manager", member="JobRemoved"
        )
        self._connection.send_and_get_reply(message_bus.AddMatch(rule), timeout=_WAIT_S)
        self.call("Subscribe")
        with self._connection.filter(rule, bufsize=64) as queue:
            (job,) = self.call(method, signature, *values)
            try:
                while True:
                    _, path, _, result = self._connection.recv_until_filtered(
                        queue, timeout=_WAIT_S
                    ).body
                    if path == job:
                        break
            except (OSError, TimeoutError) as error:
                raise _cannot(f"its job did not end: {error}") from error
        if result != "done":
            raise _cannot(f"its job ended as {result}")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _cannot(cause: str) -> HostError:
    return HostError(
        "cannot get a scope from the user's systemd",
        cause=cause,
        hint='see "systemctl --user status", or use resources.driver = "none"',
    )


def make(available: Available, claim: Claim, launcher: int) -> Group:
    """A scope around the launcher, and the sandbox's folder in it."""
    manager = _Manager()
    try:
        properties = [
            ("Description", ("s", "a sandbox of sbx")),
            ("PIDs", ("au", [launcher])),
            ("Delegate", ("b", True)),
            ("CollectMode", ("s", "inactive-or-failed")),
        ]
        signature = "ssa(sv)a(sa(sv))"
        manager.run_job(
            "StartTransientUnit", signature, f"{claim.name}.scope", "fail", properties, []
        )
    finally:
        manager.close()
    scope = tree.own_folder(launcher)
    if os.path.basename(scope) != f"{claim.name}.scope":
        raise _cannot(f"the launcher is in {scope or 'no group'}")
    leaf = make_folder(f"{scope}/{_LAUNCHER}")
    tree.move(launcher, leaf.path)
    leaf.release()
    given = tree.enable(scope)
    lacking = [wanted for wanted in available.controllers if wanted not in given]
    if lacking:
        raise _cannot(f"{scope} was not given {', '.join(lacking)}")
    return make_folder(f"{scope}/{claim.name}", claim)


def admit(group: Group, launcher: int) -> None:
    """Have the launcher moved beside the first one."""
    scope = os.path.basename(os.path.dirname(group.path))
    manager = _Manager()
    try:
        manager.call("AttachProcessesToUnit", "ssau", scope, f"/{_LAUNCHER}", [launcher])
    finally:
        manager.close()
