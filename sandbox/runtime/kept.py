"""A sandbox that other commands can find: its folder, its plan, its socket, from claim to release.

Owns what a session does more for such a sandbox; what is done with it later is registry's and
keeper's.
"""

from __future__ import annotations

import _socket
import os
import time

from sandbox.errors import StateError
from sandbox.launcher import spawn
from sandbox.linux.capabilities import capability_mask
from sandbox.plan import ops
from sandbox.plan.keep import keep
from sandbox.plan.wire import encode
from sandbox.runtime.description import Description
from sandbox.runtime.registry import (
    boot_id,
    claim,
    new_id,
    own_name,
    start_ticks,
    sweep,
)
from sandbox.runtime.task import UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan.request import Plan
    from sandbox.policy.model import Policy
    from sandbox.runtime.grouped import Grouped
    from sandbox.runtime.registry import Folder
    from sandbox.runtime.session import Notify
    from sandbox.runtime.task import Keeping, Task

_DYING_S = 5.0


class Kept:
    """One kept sandbox on its way to life. Close it in any case; `discard` when it never lived."""

    def __init__(self, keeping: Keeping, policy: Policy, task: Task, tell: Notify) -> None:
        """Claim its folder; `tell` hears what others left and is gone now. Raises SbxError."""
        self._keeping = keeping
        self._policy = policy
        process = policy.process
        for path in sweep():
            tell(f"removed {path}", "a sandbox that was killed had left it behind")
        identity = new_id()
        self.folder, lock = claim(
            Description(
                id=identity,
                name=task.name or own_name(identity),
                created_s=time.time(),
                boot_id=boot_id(),
                rootfs=os.path.abspath(task.rootfs),
                argv=task.argv,
                policy=policy.name,
                detached=keeping.detached,
                tty=process.tty,
                input=keeping.input,
                auto_remove=keeping.auto_remove or not keeping.detached,
                restart=_restart_words(keeping.restarts),
                timeout_s=process.timeout,
                grace_s=process.grace,
                network=policy.network.mode,
                shareable=policy.namespaces.shareable,
                shares=tuple(policy.shared),
                has_init=process.init or keeping.idle,
            )
        )
        self._locks: list[int] = []
        self._control: _socket.socket | None = None
        try:
            self.hold(lock)
        except BaseException:
            self.discard()
            raise

    def hold(self, lock: int) -> None:
        """Keep a descriptor of a locked file open as long as the sandbox lives; it is ours now."""
        # The launcher finds it under this number, which must be none of its own places.
        try:
            self._locks.append(spawn.private_copy(lock))
        finally:
            os.close(lock)

    def adopt(self, plan: Plan, storage_reason: str) -> Plan:
        """The plan as it has to be executed; it is written down."""
        process, keeping = self._policy.process, self._keeping
        flags = ops.KEEP_DETACHED * keeping.detached | ops.KEEP_INPUT * keeping.input
        times = (process.timeout, process.grace) if keeping.detached else (0.0, 0.0)
        timeout_ms, grace_ms = (int(seconds * 1000) for seconds in times)
        held = tuple(sorted(self._locks))
        op = ops.Keep(flags, keeping.restarts, keeping.log_max, timeout_ms, grace_ms, held)
        made = keep(plan, op, idle=keeping.idle)
        self.folder.create("plan", encode(step.op for step in made.steps))
        capabilities = self._policy.capabilities
        self.folder.description = self.folder.description.replace(
            storage=plan.storage,
            storage_reason=storage_reason,
            identity=plan.identity,
            layers=plan.layers,
            degradations=tuple((d.layer, d.lost, d.cause) for d in plan.degradations),
            capabilities=(
                capability_mask(capabilities.keep),
                capability_mask(capabilities.add),
            ),
        )
        return made

    def listen(self) -> spawn.Kept:
        """Open the socket; return what the launcher shall hold. Raises StateError."""
        if self._control is None:
            self._control = self._open_socket()
        held = tuple(sorted(self._locks))
        detached, owned = self._keeping.detached, self._keeping.owned
        return spawn.Kept(self._control.fileno(), self.folder.fd, held, detached, owned)

    def _open_socket(self) -> _socket.socket:
        control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            # sockaddr_un holds 108 bytes; the folder's own path may be longer.
            control.bind(f"/proc/self/fd/{self.folder.fd}/control")
            control.listen(64)
        except OSError as error:
            control.close()
            cause = (error.strerror or str(error)).lower()
            raise StateError(f"cannot listen in {self.folder.path}", cause=cause) from error
        return control

    def started(self, pid: int, grouped: Grouped | None) -> None:
        """Write down which process keeps it, what its plan means, and its control group."""
        ticks = start_ticks(pid)
        known = self.folder.description.replace(pid=pid, started_ticks=ticks)
        if grouped and grouped.group:
            group = grouped.group
            known = known.replace(cgroup=(grouped.available.driver, group.path, group.inode))
        self.folder.describe(known)

    def release(self) -> Folder:
        """It lives without us: let go of all but the folder, which is the caller's to close."""
        self._let_go()
        return self.folder

    def discard(self) -> None:
        """It is dead, and nobody needs to know of it any more."""
        self._let_go()
        # With a launcher that was killed, init has the lock until it has died as well.
        end = time.monotonic() + _DYING_S
        while not self.folder.remove() and self.folder.lives() and time.monotonic() < end:
            time.sleep(0.002)
        self.folder.close()

    def _let_go(self) -> None:
        while self._locks:
            os.close(self._locks.pop())
        if self._control is not None:
            self._control.close()
            self._control = None


def _restart_words(restarts: int) -> str:
    if not restarts:
        return "no"
    return "on-failure" if restarts == UNLIMITED else f"on-failure:{restarts}"
